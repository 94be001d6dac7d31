"""What the store promises on every database, as a suite of tests; and a schema of one's own to try it in."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, func, make_url, select, text

from nas.controller import Measurement, Outcome, Score, State
from nas.errors import ConfigError, NotFound, StorageError
from nas.space import Architecture
from nas.storage import lease
from nas.storage import store as module
from nas.storage.columns import now
from nas.storage.schema import Architecture as ArchitectureRow
from nas.storage.schema import Artifact, Search, SearchState, Trial
from nas.storage.schema import Measurement as MeasurementRow
from nas.storage.store import Derivations, Measured, Store

KILLED = """
import sys
from nas.storage.store import Derivations, Store
from nas.testing.stores import begin, outcome, search

with Store(sys.argv[1]) as store:
    mine = store.acquire(search(store, name="killed").id)
    for number in range(10_000):
        store.finish(begin(store, mine, number), outcome(0.5))
        print(number, flush=True)
"""
"""A driver that prints the numbers of the trials it has committed, until it is killed."""


@contextmanager
def temporary_schema(url: str) -> Iterator[str]:
    """Create a schema in a PostgreSQL database; yield a URL whose tables go there, drop it at the end."""
    name = f"nas_{uuid.uuid4().hex}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE SCHEMA {name}"))
            try:
                options = {"options": f"-csearch_path={name}"}
                yield make_url(url).update_query_dict(options).render_as_string(hide_password=False)
            finally:
                connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
    finally:
        engine.dispose()


def search(store: Store, **changes: Any) -> Search:
    """Create a search; name what matters, the rest is filled in."""
    asked: dict[str, Any] = {
        "name": None,
        "source": None,
        "config": {},
        "space": "chain",
        "controller": "random",
        "tasks": "glyphs",
        "task_label": "glyphs 5-way 1-shot",
        "learner": "maml",
        "executor": "inline",
        "seed": 0,
        "trials": 10,
        "settings": "0" * 64,
        "environment": {},
    }
    return store.create_search(**(asked | changes))


def begin(store: Store, row: Search, number: int, **changes: Any) -> int:
    """Begin a trial; name what matters, the rest is filled in."""
    asked: dict[str, Any] = {
        "architecture": f"{number}.0",
        "key": f"key{number}",
        "space": row.space,
        "seed": number,
        "attempt": 0,
    }
    return store.begin(row.id, number, **(asked | changes))


def outcome(score: float | None = None, state: State = State.COMPLETED, **changes: Any) -> Outcome:
    """Return an outcome with a score, if there is one."""
    whole = None if score is None else Score(score, 0.01, 200, "glyphs/validation", "c" * 64, "transductive")
    return Outcome(state, Architecture("chain", (0,)), whole, **changes)


def columns(row: Any) -> dict[str, Any]:
    """Return what a row holds, by column."""
    return {column.key: getattr(row, column.key) for column in type(row).__table__.columns}


def another_process() -> subprocess.Popen[bytes]:
    """Start a process that waits for its standard input to close."""
    return subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


class StoreSuite(ABC):
    """Tests that the store passes on any database. Inherit it and say where an empty one is.

    ```python
    class TestMine(StoreSuite):
        @pytest.fixture
        def url(self, tmp_path):
            return f"sqlite:///{tmp_path}/nas.db"
    ```
    """

    @abstractmethod
    def url(self) -> str:
        """Fixture: the URL of an empty database, a new one for each test."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        """Open the database."""
        with Store(url) as store:
            yield store

    @pytest.fixture
    def other(self, store: Store, url: str) -> Iterator[Store]:
        """Open the same database a second time, as another process would."""
        with Store(url) as other:
            yield other

    @pytest.fixture
    def drive_as(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Return a function after which this process passes for another driver, at another time."""

        def pretend(host: str | None = None, pid: int | None = None, ago: float = 0) -> None:
            mine = lease.holder()
            monkeypatch.setattr(lease, "holder", lambda: (host or mine[0], pid or mine[1]))
            monkeypatch.setattr(module, "now", lambda: now() - timedelta(seconds=ago))

        return pretend

    # Opening

    def test_an_empty_database_gets_its_tables_only_where_asked(self, url: str) -> None:
        with pytest.raises(NotFound, match="nas run"):
            Store(url, create=False)
        with Store(url) as store:
            assert store.searches() == []
        with Store(url, create=False) as store:
            assert store.searches() == []

    def test_many_may_open_an_empty_database_at_once(self, url: str) -> None:
        def open_and_write(_: int) -> str:
            with Store(url) as store:
                return search(store).name

        with ThreadPoolExecutor(4) as pool:
            names = set(pool.map(open_and_write, range(4)))
        assert names == {"random-chain-glyphs", *(f"random-chain-glyphs-{n}" for n in (2, 3, 4))}

    # Searches

    def test_a_search_comes_back_as_it_was_asked_for(self, store: Store, other: Store) -> None:
        asked = {
            "name": "Omniglot_20.1-a",
            "source": '# ünïcode\nspace = "chain"\r\n',
            "config": {"space": {"name": "chain", "widths": [1, 2.5, None, True, "ß"]}, "rungs": []},
            "space": "chain",
            "controller": "evolution",
            "tasks": "omniglot",
            "task_label": "omniglot 20-way 1-shot",
            "learner": "maml",
            "executor": "ray",
            "seed": 2**63 - 1,
            "trials": 500,
            "settings": "ab" * 32,
            "environment": {"torch": "2.13"},
        }
        before = now()
        made = search(store, **asked)
        found = other.search("Omniglot_20.1-a")
        assert columns(found) == columns(made)
        assert {key: value for key, value in columns(found).items() if key in asked} == asked
        assert found.state == SearchState.INTERRUPTED
        assert before <= found.created_at <= now()
        assert found.created_at.tzinfo is UTC
        assert (found.started_at, found.finished_at, found.heartbeat_at) == (None, None, None)
        assert (found.host, found.pid) == (None, None)
        assert found.stop_requested is False

    def test_a_name_of_its_own_is_made_unique(self, store: Store) -> None:
        search(store, name="random-chain-glyphs-2")
        assert [search(store).name for _ in range(3)] == [
            "random-chain-glyphs",
            "random-chain-glyphs-3",
            "random-chain-glyphs-4",
        ]
        assert search(store, controller="my.plugin:Mine").name == "my.plugin-Mine-chain-glyphs"

    def test_a_name_is_given_once(self, store: Store) -> None:
        search(store, name="mine")
        with pytest.raises(ConfigError, match="'mine' already exists; resume it with `nas resume mine`"):
            search(store, name="mine")
        assert search(store, name="Mine").name == "Mine"

    @pytest.mark.parametrize("name", ["", "@last", "a/0", "-a", "a b", "ä", "a\n"])
    def test_a_name_can_be_typed(self, store: Store, name: str) -> None:
        with pytest.raises(ConfigError, match="allowed: letters"):
            search(store, name=name)

    def test_a_reference_is_a_name_or_a_prefix_or_the_newest(self, store: Store) -> None:
        with pytest.raises(NotFound, match="nas run"):
            store.search("@last")
        ids = {name: search(store, name=name).id for name in ("run", "run-2", "race_1", "racer1")}
        assert store.search("run").id == ids["run"]
        assert store.search("run-").id == ids["run-2"]
        assert store.search("race_").id == ids["race_1"]
        assert store.search("@last").id == ids["racer1"]
        with pytest.raises(ConfigError, match="race_1, racer1"):
            store.search("rac")
        with pytest.raises(NotFound, match=r"No search 'rum'. Did you mean 'run'\? .*`nas ls`"):
            store.search("rum")
        with pytest.raises(NotFound, match="No search 'RUN-2'"):
            store.search("RUN-2")

    def test_searches_are_counted_by_state(self, store: Store) -> None:
        first, second, empty = search(store), search(store), search(store)
        for number, ended in enumerate(
            [
                outcome(0.5),
                outcome(0.75),
                outcome(0.9, State.STOPPED),
                outcome(0.75, State.REUSED, reused=1),
                outcome(state=State.FAILED),
                outcome(float("nan")),
            ]
        ):
            store.finish(begin(store, first, number), ended)
        begin(store, second, 0)
        listed = {summary.search.id: summary for summary in store.searches()}
        assert list(listed) == [empty.id, second.id, first.id]
        assert listed[first.id].trials == {"completed": 3, "stopped": 1, "reused": 1, "failed": 1}
        assert listed[first.id].best == 0.75
        assert (listed[second.id].trials, listed[second.id].best) == ({"running": 1}, None)
        assert (listed[empty.id].trials, listed[empty.id].best) == ({}, None)

    def test_a_search_is_extended(self, store: Store) -> None:
        row = search(store, trials=10)
        assert store.extend(row.id, 5) == 15
        assert store.search(row.name).trials == 15
        with pytest.raises(ConfigError, match="trials"):
            store.extend(row.id, 0)
        with pytest.raises(NotFound, match="nas ls"):
            store.extend(row.id + 1, 1)

    def test_a_deleted_search_leaves_nothing_but_what_others_share(self, store: Store) -> None:
        kept, gone = search(store), search(store)
        for row in (kept, gone):
            trial = begin(store, row, 0, key="shared")
            store.finish(trial, outcome(0.5, measurements=(Measurement(1, "loss", 1.0),)))
            store.add_artifact(trial, kind="weights", uri="model.pt", sha256="0" * 64, bytes=2**40)
        begin(store, gone, 1, key="alone")
        store.delete(gone.id)
        with store.read() as session:
            for table in (Search, Trial, MeasurementRow, Artifact):
                assert session.scalar(select(func.count()).select_from(table)) == 1, table
            assert session.scalars(select(ArchitectureRow.key)).all() == ["shared"]
        assert begin(store, search(store), 0, key="alone") > 0
        with pytest.raises(NotFound, match="nas ls"):
            store.delete(gone.id)

    # The lease

    def test_a_driver_takes_and_leaves_a_search(self, store: Store) -> None:
        row = search(store)
        driven = store.acquire(row.id)
        assert (driven.state, driven.host, driven.pid) == (SearchState.RUNNING, *lease.holder())
        assert driven.started_at == driven.heartbeat_at is not None
        assert store.heartbeat(row.id) is False
        store.request_stop(row.id)
        assert store.heartbeat(row.id) is True
        store.release(row.id, "stopped")
        left = store.search(row.name)
        assert left.state == SearchState.STOPPED
        assert left.finished_at is not None
        assert left.heartbeat_at is not None
        assert left.heartbeat_at > driven.heartbeat_at
        again = store.acquire(row.id)
        assert (again.state, again.stop_requested, again.finished_at) == (SearchState.RUNNING, False, None)
        assert again.started_at == driven.started_at

    def test_a_live_driver_is_not_disturbed(self, store: Store, drive_as: Any) -> None:
        row = search(store, name="mine")
        with another_process() as process:
            drive_as(pid=process.pid)
            store.acquire(row.id)
            drive_as(pid=os.getpid())
            for disturb in (store.acquire, store.delete):
                with pytest.raises(ConfigError, match=f"being run by pid {process.pid} .*`nas stop mine`"):
                    disturb(row.id)
            with pytest.raises(StorageError, match="no longer drives"):
                store.heartbeat(row.id)
            store.release(row.id, "failed")
            assert store.search("mine").state == SearchState.RUNNING
            process.kill()
        assert store.acquire(row.id).pid == os.getpid()

    def test_a_search_is_not_deleted_by_its_driver(self, store: Store) -> None:
        row = store.acquire(search(store).id)
        with pytest.raises(ConfigError, match="being run"):
            store.delete(row.id)
        store.release(row.id, "interrupted")
        store.delete(row.id)
        assert store.searches() == []

    @pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
    def test_a_later_process_with_the_driver_s_pid_is_no_driver(self, store: Store, drive_as: Any) -> None:
        row = search(store)
        with another_process() as process:
            drive_as(pid=process.pid, ago=3600)
            store.acquire(row.id)
            drive_as(pid=os.getpid())
            assert store.acquire(row.id).pid == os.getpid()

    def test_a_driver_on_another_host_is_believed_for_a_minute(self, store: Store, drive_as: Any) -> None:
        row, here = search(store), lease.holder()[0]
        drive_as("elsewhere", ago=50)
        store.acquire(row.id)
        drive_as(here)
        with pytest.raises(ConfigError, match="on host elsewhere"):
            store.acquire(row.id)
        drive_as("elsewhere", ago=70)
        store.heartbeat(row.id)
        drive_as(here)
        assert store.acquire(row.id).host == here

    # Trials

    def test_a_trial_comes_back_as_it_was_recorded(self, store: Store, other: Store) -> None:
        row = search(store)
        trial_id = store.begin(
            row.id, 7, architecture="1.2.3", key="abc", space="chain", seed=2**63 - 1, attempt=1
        )
        running = other.trial(row.id, 7)
        assert (running.id, running.state, running.observed) == (trial_id, "running", None)
        assert (running.architecture, running.seed, running.attempt) == ("1.2.3", 2**63 - 1, 1)
        assert running.created_at == running.started_at
        assert running.started_at.tzinfo is UTC
        score = Score(0.9875, 0.0031, 200, "omniglot/vinyals/validation", "ab" * 32, "transductive")
        curve = (Measurement(100, "score", 0.5), Measurement(50, "loss", 2.0), Measurement(100, "loss", 1.5))
        ended = Outcome(
            State.STOPPED, Architecture("chain", (1, 2, 3)), score, 300, 12.5, 111_936, 2**40, curve
        )
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
            "seconds": 12.5,
            "parameters": 111_936,
            "macs": 2**40,
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
        with pytest.raises(NotFound, match=f"no trial 8; .*`nas show {row.name}`"):
            store.trial(row.id, 8)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_no_number_is_null(self, store: Store, value: float) -> None:
        row = search(store)
        score = Score(value, value, 2)
        broken = Outcome(
            State.FAILED,
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
            begin(store, row, 0), outcome(state=State.FAILED, error="bad\nbyte \0, half \ud800, ünïcode ∑")
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

    @pytest.mark.parametrize("state", [State.RUNNING, State.INTERRUPTED])
    def test_only_what_is_final_closes_a_trial(self, store: Store, state: State) -> None:
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
        reused = outcome(0.5, State.REUSED, reused=0, measurements=(Measurement(1, "loss", 1.0),))
        trial_id = begin(store, row, 1, key="key0", outcome=reused)
        trial = store.trial(row.id, 1)
        assert (trial.state, trial.reused, trial.score, trial.observed) == ("reused", 0, 0.5, 2)
        assert store.measurements(row.id) == [Measured(trial_id, "loss", 1, 1.0)]
        assert store.finish(trial_id, outcome(0.9)) is None

    def test_a_trial_s_number_is_its_own(self, store: Store) -> None:
        row = search(store)
        begin(store, row, 0, key="a")
        with pytest.raises(StorageError, match=r"(?i)unique"):
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
        found = Outcome(State.COMPLETED, None, seconds=3.0, measurements=(Measurement(10, "skips", 1.0),))
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

    # Several processes

    def test_no_lock_outlives_a_call(self, store: Store, other: Store) -> None:
        one, two = search(store), search(store)
        for number in range(5):
            a, b = begin(store, one, number), begin(other, two, number)
            assert other.trial(one.id, number).id == a
            store.acquire(one.id)
            assert other.heartbeat(one.id) is False
            assert (other.finish(b, outcome(0.5)), store.finish(a, outcome(0.5))) == (number + 1, number + 1)
            assert len(other.history(one.id)) == len(store.history(two.id)) == number + 1

    def test_a_reader_sees_one_state_throughout(self, store: Store, other: Store) -> None:
        row = search(store)
        begin(store, row, 0)
        with other.read() as session:
            count = select(func.count()).select_from(Trial)
            assert session.scalar(count) == 1
            begin(store, row, 1)
            assert session.scalar(count) == 1
        assert len(other.trials(row.id)) == 2

    def test_searches_are_written_side_by_side(self, store: Store, url: str) -> None:
        searches = [search(store) for _ in range(4)]

        def drive(row: Search) -> None:
            with Store(url) as mine:
                for number in range(25):
                    mine.finish(begin(mine, row, number, key=f"key{number % 7}"), outcome(number / 25))

        with ThreadPoolExecutor(len(searches)) as pool:
            list(pool.map(drive, searches))
        for row in searches:
            assert [trial.number for trial in store.history(row.id)] == list(range(25))
        with store.read() as session:
            assert session.scalar(select(func.count()).select_from(ArchitectureRow)) == 7

    def test_a_killed_driver_leaves_every_trial_it_committed(self, url: str) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            seen = [int(process.stdout.readline()) for _ in range(50)]
            process.send_signal(signal.SIGKILL)
            seen += [
                int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")
            ]
        with Store(url, create=False) as store:
            row = store.search("killed")
            recorded = [trial.number for trial in store.history(row.id)]
            assert recorded[: len(seen)] == seen == list(range(len(seen)))
            assert len(recorded) - len(seen) <= 1
            assert [trial.number for trial in store.unfinished(row.id)] in ([], [len(recorded)])
            assert row.state == SearchState.RUNNING
            assert not lease.driven(row)
            assert store.acquire(row.id).pid == os.getpid()
