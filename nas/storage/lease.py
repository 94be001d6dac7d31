"""Who drives a search or an evaluation: one process at a time, and how to tell that it is gone."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nas.errors import ConfigError
from nas.storage.columns import now
from nas.storage.schema import Evaluation, Search, SearchState

HEARTBEAT_SECONDS = 2.0
"""How often a driver shows that it lives."""

SILENCE = timedelta(seconds=60)
"""How old the heartbeat of a driver on another host may grow before the driver counts as dead."""

_CLOCK_SLACK = timedelta(seconds=2)


def holder() -> tuple[str, int]:
    """Return this process's host and pid, by which a lease names its driver."""
    return socket.gethostname(), os.getpid()


def driven(run: Search | Evaluation) -> bool:
    """Return whether a live process drives the search or the evaluation.

    On this host that is asked of the operating system; another host is believed by its heartbeat.
    """
    if run.state != SearchState.RUNNING or run.pid is None or run.heartbeat_at is None:
        return False
    host, pid = holder()
    if run.host == host and os.name == "posix":
        return run.pid == pid or _lives(run.pid, run.heartbeat_at)
    return now() - run.heartbeat_at < SILENCE


def mine(run: Search | Evaluation) -> bool:
    """Return whether this process is the driver, or was the last one."""
    return (run.host, run.pid) == holder()


def refuse(search: Search) -> ConfigError:
    """Return the error for what cannot be done while a live process drives the search."""
    return ConfigError(
        f"Search '{search.name}' is being run by pid {search.pid} on host {search.host}; follow it with "
        f"`nas show {search.name}`, or stop it with `nas stop {search.name}`."
    )


def _lives(pid: int, heartbeat: datetime) -> bool:
    """Return whether the process that wrote the heartbeat lives, not one that got its pid later."""
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
