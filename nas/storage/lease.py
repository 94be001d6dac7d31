"""Who drives a search or an evaluation: one process at a time, and how to tell that it is gone.

A driver holds a name in the kernel (an abstract Unix socket) and writes it to its rows. The kernel frees the
name however the process ends, and answers from every pid namespace. So neither a pid that is used again nor a
clock that jumps counts. Containers of one pod share these names. A process that cannot ask the driver's
kernel believes its heartbeat.
"""

from __future__ import annotations

import math
import os
import socket
import time
import uuid
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from nas.errors import ConfigError
from nas.states import SearchState
from nas.storage.columns import now
from nas.storage.schema import Evaluation, Search

HEARTBEAT_SECONDS = 2.0
"""How often a driver shows that it lives."""

SILENCE = timedelta(seconds=60)
"""How old the heartbeat of a driver that cannot be asked for may grow before the driver counts as dead."""

COLUMNS = ("host", "pid", "driver", "heartbeat_at")
"""Where a lease is written."""

_CLOCK_SLACK = timedelta(seconds=2)
_lock = Lock()


class Holder(NamedTuple):
    """A process, as a lease names it.

    Attributes:
        host, pid: for people.
        driver: `KERNEL/NAME`, of which no two processes have the same; where the system keeps no such names,
            KERNEL is empty.
    """

    host: str
    pid: int
    driver: str


class Pulse:
    """Tells a driver when its next sign of life is due: at once, then every few seconds."""

    def __init__(self) -> None:
        self._last = -math.inf

    def due(self) -> bool:
        """Return whether it is, and count from now on if so."""
        now = time.monotonic()
        if now - self._last < HEARTBEAT_SECONDS:
            return False
        self._last = now
        return True


def holder() -> Holder:
    """Return this process."""
    with _lock:
        return _this(os.getpid())


def driven(run: Search | Evaluation) -> bool:
    """Return whether a live process drives the search or the evaluation."""
    lives = _lives(run)
    return _fresh(run) if lives is None else lives


def mine(run: Search | Evaluation) -> bool:
    """Return whether this process is the driver, or was the last one."""
    return run.driver == holder().driver


def refuse(search: Search) -> ConfigError:
    """Return the error for what cannot be done while a live process drives the search."""
    believed = (
        ""
        if _lives(search) is not None
        else f" If it is gone, wait: {SILENCE.seconds} s after its last sign of life "
        f"({search.heartbeat_at:%H:%M:%S} UTC) it counts as dead."
    )
    return ConfigError(
        f"Search '{search.name}' is being run by pid {search.pid} on host {search.host}; follow it with "
        f"`nas watch {search.name}`, or stop it with `nas stop {search.name}`.{believed}"
    )


@cache
def _this(pid: int) -> Holder:
    """Take a name for this process until it ends; a process that was forked takes another."""
    kernel, name = _kernel(), uuid.uuid4().hex
    if kernel:
        try:
            hold(name).detach()
        except OSError:
            kernel = ""
    return Holder(socket.gethostname(), pid, f"{kernel}/{name}")


def hold(name: str) -> socket.socket:
    """Take a name until the socket that comes back is closed.

    Raises:
        OSError: this system keeps no such names, or someone holds it.
    """
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(_address(name))
    except OSError:
        held.close()
        raise
    return held


def _kernel() -> str:
    """Return where this process's abstract sockets are known: a boot and a network namespace of Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{Path('/proc/self/ns/net').stat().st_ino}"
    except OSError:
        return ""


def _address(name: str) -> str:
    return f"\0nas/{name}"


def _lives(run: Search | Evaluation) -> bool | None:
    """Return whether a process drives it; None where there is one or was, and nobody here can tell."""
    if run.state != SearchState.RUNNING or run.pid is None or run.heartbeat_at is None:
        return False
    kernel, _, name = (run.driver or "").rpartition("/")
    if kernel:
        return _held(name) if kernel == _kernel() else None
    if run.host != socket.gethostname() or os.name != "posix":
        return None
    if not (mine(run) or _is_driver(run.pid, run.heartbeat_at)):
        return False
    return None if run.driver is None else True


def _held(name: str) -> bool | None:
    """Return whether a process of this kernel holds the name; None if it does not say."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(_address(name))
        except ConnectionRefusedError:
            return False
        except OSError:
            return None
    return True


def _fresh(run: Search | Evaluation) -> bool:
    """Return whether its heartbeat is believed; one from the future shows that a clock was set back."""
    return run.heartbeat_at is not None and abs(now() - run.heartbeat_at) < SILENCE


def _is_driver(pid: int, heartbeat: datetime) -> bool:
    """Return whether a process with this pid lives that may have written the heartbeat.

    For rows of an older nas, and for systems without abstract sockets.
    """
    if pid == os.getpid():
        return False  # this process would have found its name
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    except (OSError, StopIteration):
        return True  # no /proc here: the pid has to do
    started = int(boot.split()[1]) + int(status[19]) / os.sysconf("SC_CLK_TCK")
    return status[0] != "Z" and datetime.fromtimestamp(started, UTC) <= heartbeat + _CLOCK_SLACK
