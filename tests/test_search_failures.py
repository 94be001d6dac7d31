"""Attempts that fail or are lost: how often they are repeated, and what they cost."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from facts import refusal
from scripted_searches import Script, configure, reopen, run, start

from nas.controller import Outcome, Score, TrainSupernet
from nas.driver.ledger import Attempt
from nas.driver.trials import executor
from nas.errors import TooManyFailures
from nas.evaluator import SupernetJob
from nas.states import TrialState
from nas.storage.store import Store

SCRIPTED = "nas.testing.evaluators:Scripted"


def test_a_failed_attempt_is_repeated_with_other_weights(store: Store) -> None:
    evaluator = {"name": SCRIPTED, "faults": {2: "diverge"}, "once": True}
    run(store, configure(evaluator=evaluator, trials=5, name="faulty"))
    clean = run(store, configure(trials=5))
    trial = store.trial(store.search("faulty").id, 2)
    assert trial.state == "completed"
    assert trial.attempt == 1
    assert trial.seed != clean[2][4]


@pytest.mark.slow
def test_a_killed_process_costs_no_trial(store: Store) -> None:
    evaluator = {"name": SCRIPTED, "faults": {2: "kill"}, "once": True}
    config = configure(evaluator=evaluator, executor="process", trials=5, name="killed")
    found = run(store, config, executor(config, config.make_tasks()))
    assert found == run(store, configure(trials=5))
    assert [trial.attempt for trial in store.trials(store.search("killed").id)] == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("fault", ["raise", "diverge", "memory"])
def test_a_failing_trial_is_one_row_and_the_search_goes_on(store: Store, fault: str) -> None:
    config = configure(evaluator={"name": SCRIPTED, "faults": {2: fault}}, trials=6, retries=2)
    search = start(store, config)
    search.run(executor(config, config.make_tasks()))
    trials = store.trials(store.search("@last").id)
    assert [t.state for t in trials].count("failed") == 1
    assert trials[2].state == "failed"
    assert trials[2].attempt == 2
    assert trials[2].error
    assert trials[2].score is None
    assert len(trials) == 6


def test_too_many_failures_end_the_search(store: Store) -> None:
    faults = dict.fromkeys(range(30), "raise")
    config = configure(evaluator={"name": SCRIPTED, "faults": faults}, trials=20, max_failed=0.2, retries=0)
    search = start(store, config)
    with refusal(TooManyFailures, "nas show"):
        search.run(executor(config, config.make_tasks()))
    assert store.search("@last").state == "failed"
    assert len(store.trials(store.search("@last").id)) == 5


def test_every_attempt_counts_its_seconds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed one what it reported, a lost one the time on the clock; a resume counts the same."""
    clock = itertools.count(0, 10)
    config = configure(trials=3, name="s", retries=2, controller="random", max_failed=1.0, max_seconds=1e6)
    failed = Outcome(TrialState.FAILED, None, seconds=3.0, error="diverged")
    good = Outcome(TrialState.COMPLETED, None, Score(0.5, 0.1, 9), seconds=2.0)
    live = start(store, config)
    monkeypatch.setattr("nas.driver.ledger.time.monotonic", lambda: float(next(clock)))
    attempts: list[Outcome | None] = [failed, failed, good, *[None] * 6]
    assert live.run(Script([*attempts, failed, good])) == "completed"
    trials = store.trials(store.search("s").id)
    assert trials[0].seconds == 3 + 3 + 2
    lost = trials[1].seconds
    assert trials[1].state == "failed"
    assert lost is not None
    assert lost >= 6 * 10
    assert trials[2].seconds == 3 + 2
    again = reopen(store, "s")
    again._replay()
    assert again._ledger._spent == live._ledger._spent == 8 + lost + 5


def test_the_seconds_of_a_failed_attempt_survive_the_driver(store: Store) -> None:
    config = configure(trials=1, name="s", retries=2)
    failed = Outcome(TrialState.FAILED, None, seconds=3.0, error="diverged")
    good = Outcome(TrialState.COMPLETED, None, Score(0.5, 0.1, 9), seconds=2.0)
    assert start(store, config).run(Script([failed])) == "interrupted"
    assert (store.trial(store.search("s").id, 0).attempt, store.search("s").state) == (1, "interrupted")
    assert reopen(store, "s").run(Script([good])) == "completed"
    assert store.trial(store.search("s").id, 0).seconds == 5.0


def test_a_lost_supernet_counts_what_its_checkpoint_tells_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("nas.driver.ledger.time.monotonic", lambda: now[0])
    job = SupernetJob(0, 0, TrainSupernet("x"), 7, "one", "folder")
    first = Attempt(1, job)
    first.report(Outcome(TrialState.RUNNING, None, seconds=8.0))
    now[0] = 10.0
    second = first.again(replace(job, attempt=1), first.seconds)
    assert (second.spent, second.kept) == (2.0, 8.0)
    now[0] = 15.0
    assert second.seconds == 15.0
    assert (third := second.again(replace(job, attempt=2, seed=8), 15.0)).spent == 15.0
    assert third.kept == 0
