"""Tests of the store: one driver a search."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nas.errors import ConfigError, StorageError
from nas.storage import lease
from nas.storage import store as module
from nas.storage.columns import now
from nas.storage.schema import SearchState
from nas.storage.store import Store
from nas.testing.stores.base import OpenStore
from nas.testing.stores.rows import another_process, search


class LeaseSuite(OpenStore):
    """Who drives a search."""

    @pytest.fixture
    def drive_as(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Return a function after which this process passes for another driver, at another time."""

        def pretend(host: str | None = None, pid: int | None = None, ago: float = 0) -> None:
            mine = lease.holder()
            monkeypatch.setattr(lease, "holder", lambda: (host or mine[0], pid or mine[1]))
            monkeypatch.setattr(module, "now", lambda: now() - timedelta(seconds=ago))

        return pretend

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
