"""What is said while a search runs: how many trials are to come, and at what pace."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from command_line import SCRIPTED, nas
from recorded import Trained, record_one_shot, search

from nas.controller import Derived, Outcome, Score
from nas.evaluator import Job
from nas.progress.searches import Tally
from nas.space import Architecture
from nas.states import TrialState
from nas.storage.store import Store
from nas.testing.oneshot import job

ONE = Architecture("toy", (0,) * 11)


def evaluated(score: float) -> Outcome:
    return Outcome(TrialState.COMPLETED, ONE, Score(score, 0.01, 9), seconds=1.0)


def test_a_supernet_says_how_many_trials_are_to_come(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 600 s and derives 2 of the 3 asked for; these take 30 s each."""
    clock = itertools.count(0.0, 30.0)
    monkeypatch.setattr("nas.progress.searches.time.monotonic", lambda: 600.0 + next(clock))
    tally = Tally(search(store, controller="darts", trials=32), store)
    assert tally.summary() == "0/32 trials"
    tally.start(job(derive=3))
    assert tally.summary() == "0/4 trials (a supernet, 3 derived)"
    tally.add(0, Outcome(TrialState.COMPLETED, None, seconds=600.0, derived=(Derived(ONE, 0.5),) * 2))
    assert tally.summary() == "1/3 trials (a supernet, 2 derived)"
    assert tally.left == "?"
    tally.start(Job(1, 0, ONE, 0))
    tally.add(1, evaluated(0.5))
    assert tally.summary().endswith("best 0.5000 ± 0.0100 (trial 1)")
    assert tally.left == "0:00:30"


def test_a_supernet_says_which_epoch_ended_and_how_long_the_others_take(store: Store) -> None:
    tally, asked = Tally(search(store, controller="darts"), store), job()
    tally.start(asked)
    assert tally.left == "?"
    for epoch, words in ((1, "epoch 1/4, 0:01:30 left"), (2, "epoch 2/4, 0:01:00 left")):
        assert tally.epoch(asked, Outcome(TrialState.RUNNING, None, seconds=30.0 * epoch)) == words
    assert tally.left.startswith("0:01:00")
    tally.start(asked)  # it failed, and begins again
    assert tally.epoch(asked, Outcome(TrialState.RUNNING, None, seconds=30.0)).startswith("epoch 1/4")
    tally.add(0, Outcome(TrialState.COMPLETED, None, seconds=240.0, derived=(Derived(ONE, 0.5),)))
    assert tally.left == "?"


def test_what_needs_no_worker_sets_no_pace(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One trial in 30 s: the two that are left take a minute, however many were infeasible."""
    seconds = 0.0
    monkeypatch.setattr("nas.progress.searches.time.monotonic", lambda: seconds)
    tally = Tally(search(store, trials=4), store)
    tally.start(Job(1, 0, ONE, 0))
    seconds = 30.0
    tally.add(0, Outcome(TrialState.INFEASIBLE, ONE, error="zero"))
    assert tally.left == "?"
    tally.add(1, evaluated(0.5))
    assert tally.left == "0:01:00"


def test_a_resumed_search_knows_what_its_supernet_derived(store: Store) -> None:
    text = ".".join("0" * 11)
    trained = Trained([(text, 0.5), (text.replace("0.", "1.", 1), 0.4)])
    row = record_one_shot(store, trained, {text: ("completed", 0.25)}, controller="darts", trials=32)
    assert Tally(row, store).summary().startswith("2/3 trials (a supernet, 2 derived) · best 0.2500")


def test_other_searches_count_their_trials(db: Path) -> None:
    code, _, err = nas("run", *SCRIPTED, "--trials=3")
    assert code == 0
    assert re.findall(r"\| (\d/3 trials) · best", err) == ["1/3 trials", "2/3 trials", "3/3 trials"]
