"""What the store promises of evaluations on every database, as a suite of tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select

from nas.controller import Measurement, Score
from nas.errors import NotFound, StorageError
from nas.states import EvaluationState
from nas.storage import lease
from nas.storage.columns import now
from nas.storage.evaluations import File, NewEvaluation, Origin, Trained
from nas.storage.schema import Architecture, Evaluation, EvaluationScore
from nas.storage.store import Store
from nas.testing.stores import another_driver, begin, columns, search
from nas.testing.stores.base import OpenStore

CONFIG = {
    "space": {"name": "chain", "layers": 4},
    "tasks": {"name": "glyphs"},
    "learner": {"name": "maml"},
    "precision": "auto",
    "budget": {"train_episodes": 20_000},
}


def claim(store: Store, **changes: Any) -> Evaluation:
    """Claim an evaluation; name what matters, the rest is filled in."""
    return store.evaluations.claim(asked(**changes))


def asked(**changes: Any) -> NewEvaluation:
    """Return an evaluation to be claimed; name what matters, the rest is filled in."""
    values: dict[str, Any] = {
        "architecture": "1.0",
        "key": "key",
        "space": "chain",
        "settings": "0" * 16,
        "protocol": "1" * 16,
        "seed": 0,
        "config": CONFIG,
        "task_label": "glyphs 5-way 1-shot",
        "environment": {"torch": "2.13"},
    }
    return NewEvaluation(**(values | changes))


def trained(scores: tuple[float, ...] = (0.0, 0.5, 1.0), **changes: Any) -> Trained:
    """Return what a training found, with these test scores."""
    asked: dict[str, Any] = {
        "validation": Score(0.75, 0.01, 500, "glyphs/0/validation", "a" * 16, "transductive"),
        "test": Score(
            sum(scores) / len(scores), 0.02, len(scores), "glyphs/0/test", "b" * 16, "transductive"
        ),
        "scores": scores,
        "costs": {"parameters": 100, "macs": 2**40, "activations": 2**41, "latency": 0.25},
        "seconds": 12.5,
        "best_episodes": 3000,
        "train_episodes": 9000,
        "weights": File("weights", "/somewhere/a.pt", "ab" * 32, 2**40),
    }
    return Trained(**(asked | changes))


class EvaluationSuite(OpenStore):
    """Tests that the store passes on any database. Inherit it and say where an empty one is."""

    @pytest.fixture
    def drive_as(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Return a function after which this process passes for another driver."""

        def pretend(holder: lease.Holder) -> None:
            monkeypatch.setattr(lease, "holder", lambda: holder)

        return pretend

    def test_what_is_claimed_comes_back_as_it_was_asked_for(self, store: Store) -> None:
        before = now()
        row = claim(store, seed=2**63 - 1)
        assert columns(store.evaluations.get(row.id)) == columns(row)
        assert (row.architecture, row.seed, row.config) == ("1.0", 2**63 - 1, CONFIG)
        assert (row.space, row.tasks, row.learner) == ("chain", "glyphs", "maml")
        assert (row.state, lease.mine(row)) == (EvaluationState.RUNNING, True)
        assert before <= row.created_at <= row.started_at <= now()
        assert (row.test_score, row.finished_at, row.origin_search) == (None, None, None)
        with pytest.raises(NotFound, match="--stage test"):
            store.evaluations.get(row.id + 1)

    def test_an_evaluation_is_one_for_a_network_settings_and_seed(self, store: Store) -> None:
        row = claim(store)
        assert claim(store, architecture="another encoding").id == row.id
        others: list[dict[str, Any]] = [
            {"seed": 1},
            {"settings": "2" * 16},
            {"key": "other"},
            {"space": "mlp"},
        ]
        ids = {claim(store, **other).id for other in others}
        assert len(ids | {row.id}) == 5

    def test_a_result_comes_back_as_it_was_recorded(self, store: Store) -> None:
        row = claim(store)
        store.evaluations.complete(row.id, trained((0.25, 0.75, 1.0, 0.5)))
        found = store.evaluations.get(row.id)
        assert columns(found) == columns(row) | {
            "state": "completed",
            "validation_score": 0.75,
            "validation_ci95": 0.01,
            "test_score": 0.625,
            "test_ci95": 0.02,
            "test_episodes": 4,
            "split": "glyphs/0/test",
            "classes": "b" * 16,
            "normalization": "transductive",
            "parameters": 100,
            "macs": 2**40,
            "activations": 2**41,
            "latency": 0.25,
            "latency_batch": None,
            "seconds": 12.5,
            "best_episodes": 3000,
            "train_episodes": 9000,
            "finished_at": found.finished_at,
        }
        assert found.finished_at is not None
        assert store.evaluations.scores(row.id) == [0.25, 0.75, 1.0, 0.5]
        [weights] = store.evaluations.artifacts(row.id)
        assert (weights.kind, weights.uri, weights.sha256, weights.bytes) == (
            "weights",
            "/somewhere/a.pt",
            "ab" * 32,
            2**40,
        )
        assert (weights.trial_id, weights.evaluation_id) == (None, row.id)

    def test_what_is_completed_is_not_run_again(self, store: Store) -> None:
        row = claim(store)
        store.evaluations.complete(row.id, trained())
        done = columns(store.evaluations.get(row.id))
        assert columns(claim(store)) == done
        with pytest.raises(StorageError, match=r"pid \d+"):
            store.evaluations.complete(row.id, trained((0.0, 0.0)))
        assert columns(store.evaluations.get(row.id)) == done
        assert len(store.evaluations.scores(row.id)) == 3

    def test_what_is_run_anew_keeps_its_result_until_there_is_another(self, store: Store) -> None:
        row = claim(store)
        store.evaluations.complete(row.id, trained())
        ends: tuple[Callable[[], None], ...] = (
            lambda: store.evaluations.fail(row.id, EvaluationState.FAILED, "no"),
            lambda: store.evaluations.interrupt([row.id]),
        )
        for end in ends:
            again = store.evaluations.claim(asked(), anew=True)
            assert (again.id, again.state, lease.mine(again)) == (row.id, "running", True)
            end()
            kept = store.evaluations.get(row.id)
            assert (kept.state, kept.test_score, len(store.evaluations.scores(row.id))) == (
                "completed",
                0.5,
                3,
            )
        store.evaluations.claim(asked(), anew=True)
        store.evaluations.complete(row.id, trained((0.25, 0.75), weights=File("weights", "/b.pt", "cd", 1)))
        assert store.evaluations.scores(row.id) == [0.25, 0.75]
        assert [file.uri for file in store.evaluations.artifacts(row.id)] == ["/b.pt"]

    @pytest.mark.parametrize("state", [EvaluationState.FAILED, EvaluationState.INFEASIBLE])
    def test_what_failed_says_why_and_runs_again(self, store: Store, state: EvaluationState) -> None:
        row = claim(store)
        store.evaluations.fail(row.id, state, "half \ud800, byte \0")
        failed = store.evaluations.get(row.id)
        assert (failed.state, failed.error) == (state, "half ?, byte ?")
        again = claim(store)
        assert (again.id, again.state, again.error, again.finished_at) == (row.id, "running", None, None)

    def test_a_live_driver_is_left_alone(self, store: Store, drive_as: Any) -> None:
        me = lease.holder()
        with another_driver() as driver:
            drive_as(driver)
            row = claim(store)
            drive_as(me)
            seen = claim(store)
            assert (seen.state, seen.pid, lease.mine(seen)) == ("running", driver.pid, False)
            disturbances: tuple[Callable[[], None], ...] = (
                lambda: store.evaluations.complete(row.id, trained()),
                lambda: store.evaluations.fail(row.id, EvaluationState.FAILED, "no"),
                lambda: store.evaluations.heartbeat([row.id]),
                lambda: store.evaluations.measure(row.id, (Measurement(10, "b", 1.0),)),
            )
            for disturb in disturbances:
                with pytest.raises(StorageError, match=r"pid \d+"):
                    disturb()
            store.evaluations.interrupt([row.id])
            assert store.evaluations.get(row.id).state == "running"
            assert store.evaluations.measurements(row.id) == []
        assert lease.mine(claim(store))

    def test_a_pid_that_is_used_again_drives_nothing(self, store: Store, drive_as: Any) -> None:
        me = lease.holder()
        with another_driver(pid=me.pid) as driver:
            drive_as(driver)
            row = claim(store)
        drive_as(me)
        assert row.pid == me.pid
        assert lease.mine(claim(store))

    def test_only_one_of_many_claims_it(self, store: Store, url: str) -> None:
        def ask(_: int) -> int:
            with Store(url, create=True) as mine:
                return claim(mine).id

        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(ask, range(8)))) == 1
        with store.read() as session:
            assert session.scalar(select(func.count()).select_from(Evaluation)) == 1

    def test_an_interrupt_leaves_what_is_done(self, store: Store) -> None:
        done, running, other = claim(store), claim(store, seed=1), claim(store, seed=2)
        store.evaluations.complete(done.id, trained())
        store.evaluations.interrupt([done.id, running.id])
        states = [store.evaluations.get(row.id).state for row in (done, running, other)]
        assert states == ["completed", "interrupted", "running"]
        assert claim(store, seed=1).state == "running"

    def test_a_heartbeat_shows_life(self, store: Store) -> None:
        row = claim(store)
        store.evaluations.heartbeat([row.id])
        beat = store.evaluations.get(row.id).heartbeat_at
        assert beat is not None
        assert row.heartbeat_at is not None
        assert beat > row.heartbeat_at

    def test_a_number_measured_again_replaces_the_one_before(self, store: Store) -> None:
        row = claim(store)
        store.evaluations.measure(row.id, ())
        store.evaluations.measure(row.id, (Measurement(10, "b", 1.0), Measurement(20, "a", math.nan)))
        store.evaluations.measure(row.id, (Measurement(10, "b", 2.0), Measurement(10, "a", 3.0)))
        assert store.evaluations.measurements(row.id) == [("a", 10, 3.0), ("a", 20, None), ("b", 10, 2.0)]

    def test_the_evaluations_of_a_trial_are_those_of_its_network(self, store: Store) -> None:
        row = search(store)
        trial = begin(store, row, 0, key="key")
        mine = [claim(store), claim(store, seed=1)]
        claim(store, key="other")
        assert [found.id for found in store.evaluations.of_trial(trial)] == [e.id for e in mine]
        assert [found.id for found in store.evaluations.of_network("chain", "key")] == [e.id for e in mine]
        assert store.evaluations.of_network("mlp", "key") == []

    def test_evaluations_outlive_the_search_that_they_come_from(self, store: Store) -> None:
        row = search(store, name="origin")
        begin(store, row, 3, key="key")
        origin = Origin(row.id, "origin", 3)
        claim(store)
        kept = claim(store, origin=origin)
        assert (kept.origin_search_id, kept.origin_search, kept.origin_trial) == (row.id, "origin", 3)
        store.evaluations.complete(kept.id, trained())
        assert claim(store, origin=Origin(row.id, "origin", 4)).origin_trial == 3
        store.delete(row.id)
        left = store.evaluations.get(kept.id)
        assert (left.origin_search_id, left.origin_search, left.origin_trial) == (None, "origin", 3)
        with store.read() as session:
            assert session.scalars(select(Architecture.key)).all() == ["key"]
            assert session.scalar(select(func.count()).select_from(EvaluationScore)) == 3
        gone = claim(store, seed=7, origin=origin)
        assert (gone.origin_search_id, gone.origin_search) == (None, "origin")
