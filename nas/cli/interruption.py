"""What ends a command before its time, saved: Ctrl-C, SIGTERM, SIGHUP, a full disk; and the way to go on."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from nas.cli import messages
from nas.cli.output import say
from nas.errors import HeadLost, Stillborn, StorageError, Unready, Unwritable
from nas.progress.events import Event, line

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")

TWICE_SECONDS = 0.5
"""Within this time a second signal is the first one once more: `timeout` and shells send theirs twice."""

_first: tuple[int, float] | None = None


def listen() -> None:
    """Have each of the signals raise KeyboardInterrupt, and a second one end this process at once.

    One that is ignored, as under `nohup`, stays so.
    """
    for name in SIGNALS:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def leave_if_interrupted() -> None:
    """If a signal came, end this process with 128 and its number, as shells have it; else return.

    All that it started ends, too: of Ray's processes some outlive the others by up to a minute.
    """
    if _first is not None:
        with suppress(OSError):
            sys.stdout.flush()
        for process in _descendants():
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        os._exit(128 + _first[0])


@contextmanager
def interrupted_with(words: str) -> Iterator[None]:
    """Say these words if the block is interrupted; a signal ends the process here.

    Raises:
        KeyboardInterrupt: the block's, where no signal was listened to.
    """
    try:
        yield
    except KeyboardInterrupt:
        say(words)
        leave_if_interrupted()
        raise


@contextmanager
def continued_by(command: str) -> Iterator[None]:
    """Say which command goes on if the block is interrupted, cannot write any more, or loses its workers.

    A signal ends the process here. Ray is not taken apart before: its processes end with this one, and where
    the signal went to them, too, that would take long.

    Raises:
        StorageError: the block's, or for its error of a full disk, with the command in its message.
        HeadLost, Stillborn, Unready: the block's, with the command in its message.
        KeyboardInterrupt: the block's, where no signal was listened to.
    """
    try:
        with interrupted_with(f"All that is done is saved. Continue: `{command}`"):
            yield
    except (StorageError, HeadLost, Stillborn) as error:
        raise type(error)(f"{error} Then continue: `{command}`") from error
    except Unready as error:
        why = f"{error.why} Mend it, then continue: `{command}`"
        raise Unready(error.host, why, error.exit_code) from error
    except OSError as error:
        from nas.files import FULL, unwritable

        if error.errno not in FULL:
            raise
        full = unwritable(error, error.filename or "its files")
        raise Unwritable(f"{full} Then continue: `{command}`") from error


def _descendants() -> list[int]:
    """Return the processes that this one started, those that they started, and so on; none without /proc."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(status.parent.name))
    found = [os.getpid()]
    for process in found:
        found += children.get(process, ())
    return found[1:]


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _first
    now = time.monotonic()
    if _first is not None:
        if now - _first[1] > TWICE_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        return
    _first = number, now
    name = signal.Signals(number).name
    told = f"\nInterrupted by {name}.\n"
    if messages.as_events():
        told = f"{line(Event.INTERRUPTED, signal=name)}\n"
    with suppress(OSError):  # not `say`: the signal may have come while that one wrote
        os.write(2, told.encode())
    raise KeyboardInterrupt
