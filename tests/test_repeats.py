"""Searches that come back to known networks: what their trials count for under a budget of worker time."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from command_line import SCRIPTED, nas
from facts import lacking
from grids import rest_slow
from scripted_searches import Silent, configure, reopen, results, run, start

from nas.controller import Outcome, Score
from nas.driver.ledger import Ledger
from nas.driver.trials import executor
from nas.evaluator import Job
from nas.settings.search import SearchConfig
from nas.space import Architecture
from nas.states import TrialState
from nas.storage.store import Store

EIGHT = {"name": "nas.testing.toys:Toy", "layers": 1}
"""A space of eight networks."""


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many known networks in a row end a search here."""
    monkeypatch.setattr("nas.driver.ledger.REPEATS", 40)
    return 40


def of_eight(**changes: Any) -> SearchConfig:
    return configure(**{"space": EIGHT, "controller": "random", "max_seconds": 1e6} | changes)


def states(store: Store, name: str = "@last") -> list[str]:
    return [row[1] for row in results(store, name)]


def test_reused_trials_are_none_of_the_trials(store: Store) -> None:
    run(store, of_eight(trials=8))
    found = states(store)
    assert (found.count("completed"), found[-1]) == (8, "completed")
    assert found.count("reused") > 0
    run(store, of_eight(trials=8, max_seconds=None))
    assert len(states(store)) == 8


def test_known_networks_in_a_row_end_the_search(store: Store, few: int) -> None:
    config = of_eight(trials=20, name="s")
    search = start(store, config)
    assert search.run(executor(config, config.make_source())) == "completed"
    found = states(store)
    last = len(found) - 1 - found[::-1].index("completed")
    assert (found.count("completed"), set(found[last + 1 :]), len(found) - last - 1) == (8, {"reused"}, few)
    assert search.ending == (
        "It ended since its last 40 proposals were known networks: the controller 'random' finds no other. "
        "It took 0 s of max_seconds = 1e+06 s."
    )
    again = reopen(store, "s", more=5)
    assert again.run(executor(config, config.make_source())) == "completed"
    assert (again.ending, states(store)) == (search.ending, found)
    run(store, of_eight(trials=100, max_seconds=None))
    assert len(states(store)) == 100


@pytest.mark.parametrize(
    ("controller", "died"),
    rest_slow(product(["rnn", "evolution"], [5, 30, 50]), [("evolution", 30), ("rnn", 50)]),
)
def test_a_resumed_search_comes_to_the_same_end(store: Store, controller: str, died: int) -> None:
    class Killed(BaseException): ...

    class Deadly(Silent):
        def recorded(self, number: int, outcome: Outcome) -> None:
            if number == died:
                raise Killed

    whole = run(store, of_eight(controller=controller))
    assert len(whole) > 50
    config = of_eight(controller=controller, name="broken")
    search = start(store, config)
    search._observer = Deadly()
    with pytest.raises(Killed):
        search.run(executor(config, config.make_source()))
    assert len(store.trials(store.search("broken").id)) == died + 1
    assert reopen(store, "broken").run(executor(config, config.make_source())) == "completed"
    assert results(store, "broken") == whole


def test_the_search_waits_for_what_runs(store: Store, few: int) -> None:
    """Seven networks known, the eighth at a worker: its score might teach the controller another."""
    config = of_eight(trials=20)
    search = start(store, config)
    store.acquire(search._id)

    def finish(job: object, value: float) -> None:
        assert isinstance(job, Job)
        search.finish(job, Outcome(TrialState.COMPLETED, job.architecture, Score(value, 0.1, 9)))

    for value in range(7):
        finish(search.next(), value)
    eighth = search.next()
    assert (search.next(), search.done, states(store)[-few:]) == (None, False, ["reused"] * few)
    before = len(states(store))
    assert (search.next(), len(states(store))) == (None, before)
    finish(eighth, 7)
    assert (search.next(), search.done) == (None, True)
    assert states(store)[before:] == ["reused"] * few


def test_what_is_trained_begins_the_count_anew(few: int) -> None:
    ledger = Ledger(of_eight(), 1000)
    one = Architecture("toy", (0, 0, 0, 0))
    reused, infeasible = Outcome(TrialState.REUSED, one), Outcome(TrialState.INFEASIBLE, one)

    def add(outcome: Outcome, times: int = 1) -> bool:
        for _ in range(times):
            ledger.add(ledger.next, outcome)
            ledger.next += 1
        return ledger.enough

    for state in (TrialState.COMPLETED, TrialState.STOPPED, TrialState.FAILED):
        assert not add(reused, few - 1)
        assert not add(replace(reused, state=state))
    assert not add(reused, few - 1)
    assert not add(infeasible)
    assert add(reused)


def test_the_command_line_counts_them_apart(db: Path) -> None:
    arguments = [*SCRIPTED, "--controller=random", "--set=space.layers=1", "--trials=20"]
    code, _, err = nas("run", *arguments, "--name=s", "--set=max_seconds=1000")
    assert code == 0
    [row] = json.loads(nas("ls", "-f", "json")[1])
    reused = len(json.loads(nas("show", "s", "-f", "json")[1])["trial_rows"]) - 8
    assert (row["done"], row["trials"]) == (8, 20)
    assert lacking(err, f"8/20 trials and {reused} reused", "last 40 proposals") == []
    assert "nas resume" not in err
    assert f"{reused} reused" not in nas("run", *arguments)[2]
    assert {row["done"] for row in json.loads(nas("ls", "-f", "json")[1])} == {8, 20}
