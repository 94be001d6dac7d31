"""Tests of the store: many processes at one database, and one that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from nas.errors import NotFound
from nas.states import SearchState
from nas.storage import engine, lease
from nas.storage.schema import Architecture, Search, Trial
from nas.storage.store import Store
from nas.testing.stores.base import OpenStore
from nas.testing.stores.rows import begin, outcome, search

KILLED = """
import sys
from nas.storage.store import Store
from nas.testing.stores.rows import begin, outcome, search

with Store(sys.argv[1], create=True) as store:
    mine = store.acquire(search(store, name="killed").id)
    for number in range(10_000):
        store.finish(begin(store, mine, number), outcome(0.5))
        print(number, flush=True)
"""
"""A driver that prints the numbers of the trials it has committed, until it is killed."""


class ProcessSuite(OpenStore):
    """A database that several processes open, read and write at once."""

    @pytest.fixture
    def patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let everyone wait for a lock as long as a busy machine may need."""
        monkeypatch.setattr(engine, "BUSY_SECONDS", 120)

    def test_an_empty_database_gets_its_tables_only_where_asked(self, url: str) -> None:
        with pytest.raises(NotFound, match="nas run"):
            Store(url)
        with Store(url, create=True) as store:
            assert store.searches() == []
        with Store(url) as store:
            assert store.searches() == []

    @pytest.mark.usefixtures("patient")
    def test_many_may_open_an_empty_database_at_once(self, url: str) -> None:
        def open_and_write(_: int) -> str:
            with Store(url, create=True) as store:
                return search(store).name

        with ThreadPoolExecutor(4) as pool:
            names = set(pool.map(open_and_write, range(4)))
        assert names == {"random-chain-glyphs", *(f"random-chain-glyphs-{n}" for n in (2, 3, 4))}

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

    @pytest.mark.usefixtures("patient")
    def test_searches_are_written_side_by_side(self, store: Store, url: str) -> None:
        searches = [search(store) for _ in range(4)]

        def drive(row: Search) -> None:
            with Store(url, create=True) as mine:
                for number in range(25):
                    mine.finish(begin(mine, row, number, key=f"key{number % 7}"), outcome(number / 25))

        with ThreadPoolExecutor(len(searches)) as pool:
            list(pool.map(drive, searches))
        for row in searches:
            assert [trial.number for trial in store.history(row.id)] == list(range(25))
        with store.read() as session:
            assert session.scalar(select(func.count()).select_from(Architecture)) == 7

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
        with Store(url) as store:
            row = store.search("killed")
            recorded = [trial.number for trial in store.history(row.id)]
            assert recorded[: len(seen)] == seen == list(range(len(seen)))
            assert len(recorded) - len(seen) <= 1
            assert [trial.number for trial in store.unfinished(row.id)] in ([], [len(recorded)])
            assert row.state == SearchState.RUNNING
            assert not lease.driven(row)
            assert store.acquire(row.id).pid == os.getpid()
