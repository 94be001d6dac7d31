"""Tests of the store: one driver a search."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import create_engine, update

from nas.errors import ConfigError, StorageError
from nas.states import SearchState, TrialState
from nas.storage import lease
from nas.storage import store as module
from nas.storage.columns import now
from nas.storage.schema import Search
from nas.storage.searches import continuation
from nas.storage.store import Store
from nas.testing.stores.base import OpenStore
from nas.testing.stores.rows import another_driver, begin, columns, outcome, search

Pretend = Callable[..., None]


class LeaseSuite(OpenStore):
    """Who drives a search."""

    @pytest.fixture
    def drive_as(self, monkeypatch: pytest.MonkeyPatch) -> Pretend:
        """Return a function after which this process passes for another driver, at another time."""
        me = lease.holder()

        def pretend(holder: lease.Holder = me, ago: float = 0) -> None:
            monkeypatch.setattr(lease, "holder", lambda: holder)
            monkeypatch.setattr(module, "now", lambda: now() - timedelta(seconds=ago))

        return pretend

    def test_a_driver_takes_and_leaves_a_search(self, store: Store) -> None:
        row = search(store)
        driven = store.acquire(row.id)
        assert driven.state == SearchState.RUNNING
        assert (driven.host, driven.pid, driven.driver) == lease.holder()
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

    def test_where_its_last_driver_ran_is_known(self, store: Store) -> None:
        row = search(store, name="mine")
        assert continuation(row) == "nas resume mine"
        command = "nas resume mine --ray-address head:6379"
        assert continuation(store.acquire(row.id, again=command)) == command
        store.release(row.id, "stopped")
        left = store.search("mine")
        assert continuation(left) == command
        assert continuation(store.acquire(row.id)) == "nas resume mine"
        store.restore(left)
        assert store.search("mine").environment == left.environment

    def test_a_live_driver_is_not_disturbed(self, store: Store, drive_as: Pretend) -> None:
        row = search(store, name="mine")
        with another_driver() as driver:
            drive_as(driver)
            store.acquire(row.id)
            drive_as()
            for disturb in (store.acquire, store.delete):
                with pytest.raises(ConfigError, match=rf"pid {driver.pid}\b.*`nas stop mine`"):
                    disturb(row.id)
            with pytest.raises(StorageError, match="nas ls"):
                store.heartbeat(row.id)
            store.release(row.id, "failed")
            assert store.search("mine").state == SearchState.RUNNING
        assert store.acquire(row.id).pid == os.getpid()

    def test_a_driver_that_was_taken_over_writes_nothing_more(
        self, store: Store, drive_as: Pretend, url: str
    ) -> None:
        """However young its own last sign of life: a machine that slept has not seen the time pass."""
        row, other = search(store), search(store, name="other")
        with another_driver() as driver:
            drive_as(driver)
            store.acquire(row.id)
            store.acquire(other.id)
            trial, elsewhere = begin(store, row, 0), begin(store, other, 0)
        drive_as()
        with Store(url) as successor:
            successor.acquire(row.id)
        drive_as(driver)
        before = [columns(each) for each in (store.search(row.name), *store.trials(row.id))]
        writes: tuple[Callable[[], object], ...] = (
            lambda: begin(store, row, 1),
            lambda: store.restart(trial, attempt=1, seed=1),
            lambda: store.finish(trial, outcome(0.5)),
            lambda: store.interrupt(row.id),
            lambda: store.settle(row.id, {}),
        )
        for write in writes:
            with pytest.raises(StorageError, match="nas ls"):
                write()
        store.release(row.id, "failed")
        assert [columns(each) for each in (store.search(row.name), *store.trials(row.id))] == before
        assert store.finish(elsewhere, outcome(0.5)) == 1  # what it drives still

    def test_a_write_waits_for_the_takeover_under_way(self, store: Store, url: str) -> None:
        row = store.acquire(search(store).id)
        trial = begin(store, row, 0)
        engine = create_engine(url)
        with ThreadPoolExecutor(1) as pool, engine.connect() as successor:
            for write in (lambda: store.finish(trial, outcome(0.5)), lambda: begin(store, row, 1)):
                successor.execute(update(Search).values(driver="another"))
                late = pool.submit(write)
                with pytest.raises(TimeoutError):
                    late.result(0.2)
                successor.commit()
                with pytest.raises(StorageError, match="nas ls"):
                    late.result()
                successor.execute(update(Search).values(driver=lease.holder().driver))
                successor.commit()
        engine.dispose()
        assert [(each.number, each.state) for each in store.trials(row.id)] == [(0, TrialState.RUNNING)]

    @pytest.mark.parametrize("ago", [-86400, 86400])
    def test_a_live_driver_is_one_whatever_the_clock_says(
        self, store: Store, drive_as: Pretend, ago: float
    ) -> None:
        row = search(store)
        with another_driver() as driver:
            drive_as(driver, ago=ago)
            store.acquire(row.id)
            drive_as()
            assert lease.driven(store.search(row.name))
        assert not lease.driven(store.search(row.name))

    def test_a_search_is_not_deleted_by_its_driver(self, store: Store) -> None:
        row = store.acquire(search(store).id)
        with pytest.raises(ConfigError, match="nas stop"):
            store.delete(row.id)
        store.release(row.id, "interrupted")
        store.delete(row.id)
        assert store.searches() == []

    @pytest.mark.parametrize("pid", [1, os.getpid()], ids=["init", "mine"])
    def test_a_pid_that_is_used_again_drives_nothing(self, store: Store, drive_as: Pretend, pid: int) -> None:
        """However young the last sign of life of its former bearer, and however old the one of now."""
        row = search(store)
        with another_driver(pid) as driver:
            drive_as(driver)
            store.acquire(row.id)
        drive_as()
        assert store.search(row.name).pid == pid
        assert store.acquire(row.id).driver == lease.holder().driver

    def test_a_driver_that_cannot_be_asked_for_is_believed_for_a_minute(
        self, store: Store, drive_as: Pretend
    ) -> None:
        row = search(store)
        elsewhere = lease.Holder("elsewhere", 1, "kernel/name")
        drive_as(elsewhere, ago=50)
        store.acquire(row.id)
        drive_as()
        with pytest.raises(ConfigError, match="elsewhere"):
            store.acquire(row.id)
        for ago in (70, -70):
            drive_as(elsewhere, ago=ago)
            store.heartbeat(row.id)
            assert not lease.driven(store.search(row.name))
        drive_as()
        assert store.acquire(row.id).driver == lease.holder().driver

    @pytest.mark.parametrize(
        ("pid", "ago", "driven"),
        [(1, 0, True), (1, 70, False), (os.getpid(), 0, False), (2**22 + 1, 0, False)],
        ids=["alive", "silent", "mine", "dead"],
    )
    def test_a_driver_of_an_older_nas_is_known_by_its_pid_and_heartbeat(
        self, store: Store, drive_as: Pretend, url: str, pid: int, ago: float, driven: bool
    ) -> None:
        row = search(store)
        drive_as(lease.holder()._replace(pid=pid), ago=ago)
        store.acquire(row.id)
        drive_as()
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(update(Search).values(driver=None))
        engine.dispose()
        assert lease.driven(store.search(row.name)) is driven
