"""A search that stopped, or whose driver died, goes on as if it had not."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import pytest
from facts import refusal
from scripted_searches import Dying, Killed, Script, Silent, configure, reopen, results, run, start
from sqlalchemy import text

from nas.backbone import BackboneSpace
from nas.controller import Controller, Evaluate, Outcome, Proposal, Score
from nas.driver.trials import executor
from nas.errors import ConfigError, NasError, StorageError
from nas.executors.base import Executor, Workload
from nas.settings.search import SearchConfig
from nas.space import Space
from nas.states import TrialState
from nas.storage import lease, searches
from nas.storage import store as store_module
from nas.storage.columns import now
from nas.storage.store import Store
from nas.testing.stores import another_driver, columns


@pytest.mark.parametrize("jobs", [0, 1, 7, 12])
def test_a_resumed_search_continues_as_if_never_stopped(store: Store, jobs: int) -> None:
    config = configure(name="whole")
    whole = run(store, config)
    broken = configure(name="broken")
    search = start(store, broken)
    with pytest.raises(Killed):
        search.run(Dying(broken, jobs))
    assert store.search("broken").state == "interrupted"
    before = [row for row in results(store, "broken") if row[1] != "interrupted"]
    recorded = list[int]()

    class Noting(Silent):
        def recorded(self, number: int, outcome: Outcome) -> None:
            recorded.append(number)

    reopen(store, "broken", Noting()).run(executor(broken, broken.make_source()))
    after = results(store, "broken")
    assert [row for row in after if row in before] == before
    assert after == whole
    assert set(recorded).isdisjoint(row[0] for row in before)


def test_a_clock_that_jumps_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By days, forwards and backwards, at each look at it."""
    whole = run(store, configure(name="whole"))
    jumps = random.Random(0)

    def jumping() -> datetime:
        return now() + timedelta(days=jumps.uniform(-30, 30))

    for module in (store_module, lease, searches):
        monkeypatch.setattr(module, "now", jumping)
    broken = configure(name="broken")
    with pytest.raises(Killed):
        start(store, broken).run(Dying(broken, 7))
    assert reopen(store, "broken").run(executor(broken, broken.make_source())) == "completed"
    assert results(store, "broken") == whole


def test_a_finished_search_grows(store: Store) -> None:
    config = configure(name="grows", trials=12)
    first = run(store, config)
    reopen(store, "grows", more=18).run(executor(config, config.make_source()))
    assert results(store, "grows")[:12] == first
    assert results(store, "grows") == run(store, configure())


def test_of_several_resumes_at_once_one_extends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the other comes while it runs, or later with what it read before."""
    config = configure(name="s", trials=2)
    run(store, config)
    with another_driver() as driver:
        with monkeypatch.context() as patched:
            patched.setattr(lease, "holder", lambda: driver)
            store.acquire(store.search("s").id)
        before = columns(store.search("s"))
        with refusal(ConfigError, f"pid {driver.pid}", "nas stop s"):
            reopen(store, "s", more=4).run(executor(config, config.make_tasks()))
        assert columns(store.search("s")) == before
    for racer in [reopen(store, "s", more=4) for _ in range(2)]:
        assert racer.run(executor(config, config.make_source())) == "completed"
        assert store.search("s").trials == len(results(store, "s")) == 6


class Unable(Executor):
    """Cannot start."""

    def run(self, workload: Workload) -> None:
        raise NasError("no")


def test_a_resume_that_cannot_start_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run(store, configure(name="s", trials=2))
    before = columns(store.search("s"))
    with refusal(NasError, "no"):
        reopen(store, "s", more=4).run(Unable())
    assert columns(store.search("s")) == before
    again = reopen(store, "s", more=4)
    monkeypatch.delattr(Space, "decode")
    with pytest.raises(AttributeError):
        again.run(Unable())
    assert columns(store.search("s")) == before


class Remembering(Controller):
    """Random search that keeps what it observes."""

    def __init__(self, space: BackboneSpace, seed: int) -> None:
        self._space, self.seen = space, list[Outcome]()

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        return Evaluate(self._space.sample(rng))

    def observe(self, number: int, outcome: Outcome) -> None:
        self.seen.append(outcome)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_observed_is_what_a_replay_tells(
    store: Store, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score that is not finite is none, live as after a resume."""
    monkeypatch.setattr(SearchConfig, "make_controller", lambda self, space, tasks: Remembering(space, 0))
    config = configure(trials=2, name="s", deduplicate=False)
    live = start(store, config)
    outcomes = [Outcome(TrialState.COMPLETED, None, Score(x, 0.5, 9), seconds=1.0) for x in (value, 0.25)]
    assert live.run(Script([*outcomes])) == "completed"
    again = reopen(store, "s")
    again._replay()
    seen, replayed = (search._controller.seen for search in (live, again))  # type: ignore[attr-defined]
    assert seen == replayed
    assert [outcome.score and outcome.score.value for outcome in seen] == [None, 0.25]
    assert [outcome.state for outcome in seen] == ["completed"] * 2


def test_a_stop_request_ends_the_search_between_trials(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.storage.lease.HEARTBEAT_SECONDS", 0.0)
    config = configure(name="stops")
    search = start(store, config)

    class Stopping(Silent):
        def recorded(self, number: int, outcome: Outcome) -> None:
            if number == 4:
                store.request_stop(store.search("stops").id)

    search._observer = Stopping()
    assert search.run(executor(config, config.make_source())) == "stopped"
    assert store.search("stops").state == "stopped"
    assert 5 <= len(store.trials(store.search("stops").id)) < 30
    assert reopen(store, "stops").run(executor(config, config.make_source())) == "completed"
    assert results(store, "stops") == run(store, configure())


def test_a_driver_that_was_taken_over_writes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.storage.lease.HEARTBEAT_SECONDS", 0.0)
    config = configure(name="taken", trials=6)
    search = start(store, config)

    class Taken(Silent):
        def recorded(self, number: int, outcome: Outcome) -> None:
            if number == 2:
                with store._database.write() as connection:
                    connection.execute(text("UPDATE searches SET driver = 'another'"))

    search._observer = Taken()
    with refusal(StorageError, f"pid {os.getpid()}", "nas ls"):
        search.run(executor(config, config.make_tasks()))
    row = store.search("taken")
    assert (row.state, row.driver) == ("running", "another")
    assert [trial.number for trial in store.history(row.id)] == [0, 1, 2]
