"""What jobs write to stdout and stderr, kept in files of a folder that driver and workers share."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

LOGS = "logs"
"""The folder of these files, in that of artifacts."""

_FILE = re.compile(r"(.+)\.(\d+)\.log")


class JobLog(NamedTuple):
    """What one attempt at a job wrote.

    Attributes:
        path: of the file.
        job: the job's name.
        attempt: from 0.
    """

    path: Path
    job: str
    attempt: int


def of_trials(artifacts: Path, search: str) -> Path:
    """Return the folder of what the trials of a search print; their numbers are the names of the jobs."""
    return artifacts / LOGS / "trials" / search


def of_evaluations(artifacts: Path) -> Path:
    """Return the folder of what evaluations print; their files' names are the names of the jobs."""
    return artifacts / LOGS / "evaluations"


def log_of(group: Path, job: str, attempt: int) -> str:
    """Return the file of an attempt at a job.

    Args:
        group: folder of the files of jobs that belong together.
        job: its name among these.
        attempt: from 0.
    """
    return str(group / f"{job}.{attempt}.log")


def holds(file: Path) -> bool:
    """Return whether anything was written; of a worker that was killed the file is left empty."""
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


def logs(group: Path) -> list[JobLog]:
    """Return what jobs that belong together wrote, by name and attempt; numbers come in their order."""
    found = [
        JobLog(path, match[1], int(match[2]))
        for path in group.glob("*.log")
        if (match := _FILE.fullmatch(path.name)) is not None
    ]
    return sorted(found, key=lambda log: (len(log.job) if log.job.isdecimal() else 0, log.job, log.attempt))


@contextmanager
def written_to(path: str | None) -> Iterator[None]:
    """Have this process, and what it starts, write to a file while the block runs.

    The file is appended to. It is deleted after if it is empty. Where it cannot be opened, because this
    machine does not see the folder or the disk is full, what is written goes where it went before.

    Args:
        path: of the file; its folder is made. None: nothing changes.
    """
    file = None
    with suppress(OSError):
        file = None if path is None else _opened(path)
    if path is None or file is None:
        yield
        return
    _flush()
    before = [os.dup(stream) for stream in (1, 2)]
    try:
        for stream in (1, 2):
            os.dup2(file, stream)
        yield
    finally:
        _flush()
        for stream, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, stream)
            os.close(kept)
        empty = os.fstat(file).st_size == 0
        os.close(file)
        if empty:
            with suppress(OSError):
                Path(path).unlink()


def _opened(path: str) -> int:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # full, closed, or none
            stream.flush()
