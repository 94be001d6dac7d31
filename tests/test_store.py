"""The store on SQLite and PostgreSQL, and what only one of them can get wrong."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from databases import on_postgres
from facts import refusal
from sqlalchemy import create_engine, text

from nas.errors import ConfigError, StorageError, Unreachable
from nas.storage import engine
from nas.storage.columns import UTCDateTime, now
from nas.storage.store import Store
from nas.testing.evaluations import EvaluationSuite
from nas.testing.stores import StoreSuite, begin, outcome, search


class OnSqlite:
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/nas.db"


class OnPostgres:
    @pytest.fixture
    def url(self) -> Iterator[str]:
        with on_postgres() as url:
            yield url


class TestSqlite(OnSqlite, StoreSuite): ...


class TestPostgres(OnPostgres, StoreSuite): ...


class TestEvaluationsOnSqlite(OnSqlite, EvaluationSuite): ...


class TestEvaluationsOnPostgres(OnPostgres, EvaluationSuite): ...


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nas.db"


def test_storage_imports_nothing_heavy(path: Path) -> None:
    Store(f"sqlite:///{path}", create=True).close()
    program = f"""
import sys
import nas.queries.leaderboard
from nas.storage.store import Store
with Store("sqlite:///{path}", create=True) as store:
    nas.queries.leaderboard.leaderboard(store, nas.queries.leaderboard.Query())
print(*{{"torch", "ray", "pandas", "numpy", "alembic"}} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nas.db",
        "sqlite:/nas.db",
        "mysql://user:secret@host/nas",
        "postgres://user:sec:re/t@host/nas",
        "postgresql://user:secret@host:port/nas",
        "sqlite+aiosqlite:///nas.db",
    ],
)
def test_what_is_no_database_url_is_refused(url: str) -> None:
    with refusal(ConfigError, "sqlite:///PATH", "postgresql://") as refused:
        Store(url, create=True)
    assert "sec" not in str(refused.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with refusal(ConfigError, "pip install 'nas-service[postgres]'") as refused:
        Store("postgresql://user:secret@host/nas", create=True)
    assert "secret" not in str(refused.value)


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    pytest.importorskip("psycopg")
    with refusal(Unreachable, "postgresql://me:***@127.0.0.1:1/nas", "NAS_DB") as refused:
        Store("postgresql://me:secret@127.0.0.1:1/nas?application_name=secret", create=True)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_sqlite_is_set_up_for_one_writer_and_many_readers(path: Path) -> None:
    with Store(f"sqlite:///{path}", create=True) as store, store._database.write() as connection:
        found = {
            name: connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 10_000}


def test_a_database_in_memory_works(path: Path) -> None:
    with Store("sqlite://", create=True) as store:
        row = store.acquire(search(store).id)
        assert store.finish(begin(store, row, 0), outcome(0.5)) == 1


@pytest.mark.parametrize("name", ["missing/nas.db", "", "file/nas.db"])
def test_what_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with refusal(StorageError, "unable to open"):
        Store(f"sqlite:///{tmp_path / name}", create=True)


def test_a_file_that_is_something_else_is_left_alone(path: Path) -> None:
    path.write_text("[search]\n" * 100)
    with refusal(StorageError, path):
        Store(f"sqlite:///{path}", create=True)
    assert path.read_text() == "[search]\n" * 100


def test_another_program_s_database_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE studies (id INTEGER)")
    connection.close()
    for create in (True, False):
        with refusal(StorageError, path, "studies"):
            Store(f"sqlite:///{path}", create=create)


def test_a_locked_database_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.05)
    with Store(f"sqlite:///{path}", create=True) as store:
        row = search(store)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with refusal(StorageError, "locked"):
            begin(store, row, 0)
        assert store.trials(row.id) == []
        other.close()
        assert begin(store, row, 0) > 0


def test_threads_may_share_a_store(path: Path) -> None:
    with Store(f"sqlite:///{path}", create=True) as store:
        row = search(store)
        with ThreadPoolExecutor(4) as pool:
            places = set(pool.map(lambda n: store.finish(begin(store, row, n), outcome(0.5)), range(40)))
    assert places == set(range(1, 41))


def test_a_full_disk_loses_nothing_committed(path: Path) -> None:
    with Store(f"sqlite:///{path}", create=True) as store:
        row = search(store)
        store.finish(begin(store, row, 0), outcome(0.5))
        with store._database.write() as connection:
            pages = connection.scalar(text("PRAGMA page_count"))
            connection.execute(text(f"PRAGMA max_page_count = {pages}"))
        with refusal(StorageError, "full"):
            begin(store, row, 1, architecture="x" * 100_000)
        assert [trial.number for trial in store.history(row.id)] == [0]
        begin(store, row, 1)


def test_a_killed_sqlite_driver_leaves_a_sound_file(path: Path) -> None:
    program = f"""
import os, signal
from nas.storage.store import Store
from nas.storage.schema import Search
from sqlalchemy import insert
store = Store("sqlite:///{path}", create=True)
with store._database.write() as connection:
    connection.exec_driver_sql("CREATE TABLE half (x)")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    with Store(f"sqlite:///{path}", create=True) as store, store.read() as session:
        assert session.scalar(text("PRAGMA integrity_check")) == "ok"
        assert session.scalar(text("SELECT count(*) FROM sqlite_master WHERE name = 'half'")) == 0


def test_times_keep_their_instant_and_need_a_zone() -> None:
    column, dialect = UTCDateTime(), create_engine("sqlite://").dialect
    here = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    stored = column.process_bind_param(here, dialect)
    assert stored is not None
    assert stored.replace(tzinfo=None) == datetime(2026, 1, 1, 10)
    assert column.process_result_value(stored.replace(tzinfo=None), dialect) == here
    naive = now().replace(tzinfo=None)
    with refusal(ValueError, naive):
        column.process_bind_param(naive, dialect)
