"""Tests of the store: what a trial leaves, and in which order."""

from __future__ import annotations

import math
from datetime import UTC
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from nas.controller import Measurement, Outcome, Score
from nas.errors import NotFound, StorageError
from nas.space import Architecture
from nas.states import TrialState
from nas.storage.schema import Architecture as ArchitectureRow
from nas.storage.store import Store
from nas.storage.trials import Derivations, Measured, NewTrial
from nas.testing.stores.base import OpenStore
from nas.testing.stores.rows import begin, columns, outcome, search


class TrialSuite(OpenStore):
    """The trials of a search."""

    def test_a_trial_comes_back_as_it_was_recorded(self, store: Store, other: Store) -> None:
        row = search(store)
        trial_id = store.begin(
            row.id,
            NewTrial(
                7,
                architecture="1.2.3",
                key="abc",
                space="chain",
                seed=2**63 - 1,
                attempt=1,
                repeat=2,
                episodes=300,
                parent=3,
            ),
        )
        running = other.trial(row.id, 7)
        assert (running.id, running.state, running.observed) == (trial_id, "running", None)
        assert (running.architecture, running.seed, running.attempt) == ("1.2.3", 2**63 - 1, 1)
        assert (running.repeat, running.asked_episodes, running.continued_episodes) == (2, 300, None)
        assert running.parent == 3
        assert running.created_at == running.started_at
        assert running.started_at.tzinfo is UTC
        score = Score(0.9875, 0.0031, 200, "omniglot/vinyals/validation", "ab" * 32, "transductive")
        curve = (Measurement(100, "score", 0.5), Measurement(50, "loss", 2.0), Measurement(100, "loss", 1.5))
        costs = {"parameters": 111_936, "macs": 2**40, "activations": 2**41, "latency": 0.001}
        chain = Architecture("chain", (1, 2, 3))
        ended = Outcome(TrialState.STOPPED, chain, score, 300, 12.5, costs, curve, continued=75)
        assert store.finish(trial_id, ended) == 1
        found = other.trial(row.id, 7)
        assert columns(found) == columns(running) | {
            "state": "stopped",
            "score": 0.9875,
            "ci95": 0.0031,
            "episodes": 200,
            "split": "omniglot/vinyals/validation",
            "classes": "ab" * 32,
            "normalization": "transductive",
            "train_episodes": 300,
            "continued_episodes": 75,
            "seconds": 12.5,
            "parameters": 111_936,
            "macs": 2**40,
            "activations": 2**41,
            "latency": 0.001,
            "observed": 1,
            "finished_at": found.finished_at,
        }
        assert found.finished_at is not None
        assert found.finished_at >= found.started_at
        assert other.measurements(row.id, number=7) == [
            Measured(trial_id, "loss", 50, 2.0),
            Measured(trial_id, "loss", 100, 1.5),
            Measured(trial_id, "score", 100, 0.5),
        ]
        with pytest.raises(NotFound, match=rf"\b8\b.*`nas show {row.name}`"):
            store.trial(row.id, 8)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_no_number_is_null(self, store: Store, value: float) -> None:
        row = search(store)
        score = Score(value, value, 2)
        broken = Outcome(
            TrialState.FAILED,
            Architecture("chain", ()),
            score,
            1,
            value,
            measurements=(Measurement(1, "loss", value),),
        )
        store.finish(begin(store, row, 0), broken)
        trial = store.trial(row.id, 0)
        assert (trial.score, trial.ci95, trial.seconds) == (None, None, None)
        assert [measured.value for measured in store.measurements(row.id)] == [None]
        with store.read() as session:
            assert (
                session.scalar(text("SELECT count(*) FROM trials WHERE score IS NULL AND seconds IS NULL"))
                == 1
            )
            assert session.scalar(text("SELECT count(*) FROM measurements WHERE value IS NULL")) == 1

    def test_whatever_a_failure_says_is_recorded(self, store: Store) -> None:
        row = search(store)
        store.finish(
            begin(store, row, 0),
            outcome(state=TrialState.FAILED, error="bad\nbyte \0, half \ud800, ünïcode ∑"),
        )
        assert store.trial(row.id, 0).error == "bad\nbyte ?, half ?, ünïcode ∑"

    def test_an_outcome_is_recorded_once(self, store: Store) -> None:
        row = search(store)
        trial_id = begin(store, row, 0)
        assert store.finish(trial_id, outcome(0.5, measurements=(Measurement(1, "loss", 1.0),))) == 1
        before = columns(store.trial(row.id, 0)), store.measurements(row.id)
        late = outcome(0.9, measurements=(Measurement(1, "loss", 0.1), Measurement(2, "loss", 0.1)))
        assert store.finish(trial_id, late) is None
        assert store.interrupt(row.id) == 0
        with pytest.raises(ValueError, match="final"):
            store.restart(trial_id, attempt=1, seed=1)
        assert (columns(store.trial(row.id, 0)), store.measurements(row.id)) == before

    @pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.INTERRUPTED])
    def test_only_what_is_final_closes_a_trial(self, store: Store, state: TrialState) -> None:
        row = search(store)
        trial_id = begin(store, row, 0)
        with pytest.raises(ValueError, match=state.value):
            store.finish(trial_id, outcome(0.5, state))
        with pytest.raises(ValueError, match=state.value):
            begin(store, row, 1, outcome=outcome(0.5, state))
        assert [trial.state for trial in store.trials(row.id)] == ["running"]

    def test_a_trial_that_needs_no_worker_is_never_seen_running(self, store: Store) -> None:
        row = search(store)
        store.finish(begin(store, row, 0), outcome(0.5))
        reused = outcome(0.5, TrialState.REUSED, reused=0, measurements=(Measurement(1, "loss", 1.0),))
        trial_id = begin(store, row, 1, key="key0", outcome=reused)
        trial = store.trial(row.id, 1)
        assert (trial.state, trial.reused, trial.score, trial.observed) == ("reused", 0, 0.5, 2)
        assert store.measurements(row.id) == [Measured(trial_id, "loss", 1, 1.0)]
        assert store.finish(trial_id, outcome(0.9)) is None

    def test_a_trial_s_number_is_its_own(self, store: Store) -> None:
        row = search(store)
        begin(store, row, 0, key="a")
        with pytest.raises(StorageError):
            begin(store, row, 0, key="b")
        with store.read() as session:
            assert session.scalars(select(ArchitectureRow.key)).all() == ["a"]
        assert begin(store, row, 1, key="b") > 0

    def test_equal_keys_are_one_architecture(self, store: Store, other: Store) -> None:
        one, two = search(store), search(store, space="mlp")
        begin(store, one, 0, key="a", architecture="first")
        begin(other, one, 1, key="a", architecture="second")
        begin(store, one, 2, key="b")
        begin(store, two, 0, key="a")
        first, second, third = (trial.architecture_id for trial in store.trials(one.id))
        assert first == second != third
        assert [trial.architecture for trial in store.trials(one.id)] == ["first", "second", "2.0"]
        with store.read() as session:
            rows = session.execute(select(ArchitectureRow.space, ArchitectureRow.key, ArchitectureRow.text))
            assert sorted(map(tuple, rows)) == [
                ("chain", "a", "first"),
                ("chain", "b", "2.0"),
                ("mlp", "a", "0.0"),
            ]

    def test_a_supernet_is_a_trial_without_an_architecture(self, store: Store, other: Store) -> None:
        """It keeps what was asked and what was derived; another's architecture stays its own."""
        row = search(store)
        asked = {"strategy": "darts", "settings": {"order": "exact"}, "derive": 2}
        number = begin(store, row, 0, architecture=None, key=None, supernet=asked)
        plain = begin(store, row, 1, key="")
        second = begin(store, row, 2, architecture=None, key=None, supernet=asked)
        final: list[dict[str, Any]] = [
            {"architecture": "1.0", "score": 0.5},
            {"architecture": "0.0", "score": None},
        ]
        epochs: list[dict[str, Any]] = [{"step": 10, "architecture": "0.0", "score": 0.25}]
        found = Outcome(
            TrialState.COMPLETED, None, seconds=3.0, measurements=(Measurement(10, "skips", 1.0),)
        )
        assert store.finish(number, found, Derivations(final, epochs)) == 1
        supernet, evaluated, running = other.trials(row.id)
        assert [t.kind for t in (supernet, evaluated, running)] == ["supernet", "evaluate", "supernet"]
        assert [t.id for t in (supernet, evaluated, running)] == [number, plain, second]
        assert (supernet.architecture, supernet.architecture_id, supernet.score) == (None, None, None)
        assert (supernet.supernet, supernet.derived, supernet.derived_epochs) == (asked, final, epochs)
        assert evaluated.architecture_id is not None
        assert (evaluated.supernet, evaluated.derived, running.derived) == (None, None, None)
        assert running.architecture_id is None
        store.delete(row.id)

    def test_a_trial_is_run_again(self, store: Store) -> None:
        row = search(store)
        trial_id = begin(store, row, 0, seed=1)
        before = store.trial(row.id, 0)
        assert store.interrupt(row.id) == 1
        assert store.trial(row.id, 0).state == "interrupted"
        store.restart(trial_id, attempt=1, seed=2, seconds=3.5)
        again = store.trial(row.id, 0)
        changed = {"attempt": 1, "seed": 2, "seconds": 3.5, "started_at": again.started_at}
        assert columns(again) == columns(before) | changed
        assert again.started_at > before.started_at
        assert store.finish(trial_id, outcome(0.5, measurements=(Measurement(10, "loss", 1.0),))) == 1
        assert store.measurements(row.id) == [Measured(trial_id, "loss", 10, 1.0)]

    def test_a_number_measured_again_replaces_the_one_before(self, store: Store) -> None:
        row = search(store)
        trial_id = begin(store, row, 0)
        twice = (Measurement(1, "loss", 3.0), Measurement(1, "loss", 2.0))
        store.finish(trial_id, outcome(0.5, measurements=twice))
        assert store.measurements(row.id) == [Measured(trial_id, "loss", 1, 2.0)]

    def test_artifacts_are_listed(self, store: Store) -> None:
        row = search(store)
        trial_id = begin(store, row, 0)
        assert store.artifacts(trial_id) == []
        store.add_artifact(trial_id, kind="weights", uri="file:///a.pt", sha256="ab" * 32, bytes=2**40)
        store.add_artifact(trial_id, kind="onnx", uri="file:///a.onnx", sha256="cd" * 32, bytes=1)
        listed = [(a.kind, a.uri, a.sha256, a.bytes) for a in store.artifacts(trial_id)]
        assert listed == [
            ("weights", "file:///a.pt", "ab" * 32, 2**40),
            ("onnx", "file:///a.onnx", "cd" * 32, 1),
        ]

    @settings(
        max_examples=20,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(
        steps=st.lists(
            st.tuples(st.sampled_from(["begin", "finish", "restart", "interrupt"]), st.integers(0, 7)),
            max_size=30,
        )
    )
    def test_a_search_remembers_what_happened_in_order(
        self, store: Store, steps: list[tuple[str, int]]
    ) -> None:
        """The store against lists in memory."""
        row = search(store)
        ids: list[int] = []
        states: list[str] = []
        order: list[int] = []
        for verb, pick in steps:
            number = pick % len(ids) if ids else 0
            if verb == "begin":
                ids.append(begin(store, row, len(ids), key=f"key{pick}"))
                states.append("running")
            elif verb == "interrupt":
                assert store.interrupt(row.id) == states.count("running")
                states = ["interrupted" if state == "running" else state for state in states]
            elif not ids:
                continue
            elif verb == "finish":
                place = store.finish(ids[number], outcome(pick / 8))
                assert place == (None if number in order else len(order) + 1)
                if place:
                    order.append(number)
                    states[number] = "completed"
            elif number not in order:
                store.restart(ids[number], attempt=1, seed=pick)
                states[number] = "running"
        assert [trial.state for trial in store.trials(row.id)] == states
        assert [trial.number for trial in store.history(row.id)] == order
        assert [trial.observed for trial in store.history(row.id)] == list(range(1, len(order) + 1))
        open_trials = [number for number, state in enumerate(states) if state in ("running", "interrupted")]
        assert [trial.number for trial in store.unfinished(row.id)] == open_trials
