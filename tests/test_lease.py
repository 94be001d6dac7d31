"""A driver's name in the kernel, while its process is stopped, forked, killed, or in a container."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from facts import refusal

from nas.storage import lease
from nas.storage.store import Store
from nas.testing.stores import search

pytestmark = pytest.mark.skipif(not lease.holder().driver.partition("/")[0], reason="needs abstract sockets")

CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
"""Starts a process as pid 1 on the same host, as a container does in its pod."""

DRIVER = """
import sys
from nas.errors import ConfigError
from nas.storage.store import Store
with Store(sys.argv[1], create=True) as store:
    try:
        print(store.acquire(store.search("s").id).pid, flush=True)
    except ConfigError as refusal:
        sys.exit(str(refusal))
    input()
"""

FORK = """
import os
from nas.storage.lease import holder
holder()
os.fork()
os.write(1, holder().driver.encode() + b"\\n")
"""


@cache
def containers() -> bool:
    """Return whether this process may start one."""
    if shutil.which(CONTAINER[0]) is None:
        return False
    return subprocess.run([*CONTAINER, "true"], capture_output=True).returncode == 0


@contextmanager
def driver(url: str, *launcher: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a process that takes up the search; yield it and the pid it says, empty if it is refused."""
    with subprocess.Popen(
        [*launcher, sys.executable, "-c", DRIVER, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture
def url(db: Path, store: Store) -> str:
    search(store, name="s")
    return f"sqlite:///{db}"


def test_a_driver_that_is_stopped_drives_on_and_one_that_is_killed_does_not(url: str, store: Store) -> None:
    with driver(url) as (process, pid):
        assert pid == str(process.pid)
        process.send_signal(signal.SIGSTOP)
        assert lease.driven(store.search("s"))
    assert not lease.driven(store.search("s"))


@pytest.mark.skipif(not containers(), reason="needs the right to make pid namespaces (unshare)")
def test_a_restarted_container_finds_its_search_free(url: str, store: Store) -> None:
    """Host and pid are those of the driver before, which was alive a moment ago, and pid 1 lives outside."""
    with driver(url, *CONTAINER) as (_, pid):
        assert pid == "1"
        assert lease.driven(store.search("s"))
        with driver(url, *CONTAINER) as (sibling, refused):
            assert refused == ""
            assert sibling.wait() == 1
    deadline = time.monotonic() + 30
    while lease.driven(store.search("s")) and time.monotonic() < deadline:
        time.sleep(0.05)  # `unshare` ends a little before its child
    assert not lease.driven(store.search("s"))
    with driver(url, *CONTAINER) as (_, pid):
        assert pid == "1"


def test_a_forked_process_is_another() -> None:
    result = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    assert len(set(result.stdout.split())) == 2


def test_a_name_has_one_holder(url: str) -> None:
    with lease.hold("name"), refusal(OSError, "in use"):
        lease.hold("name")
    lease.hold("name").close()
