"""A limit of time on whatever runs in a worker."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_SECONDS = 1.0
"""How soon the limit is enforced again, should the first time come where nothing can be raised."""


class Overtime(BaseException):
    """The time is over. It is no Exception: code that recovers from its own errors must not keep it."""


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Interrupt the block by `Overtime` after so many seconds, wherever it is; None: never.

    A call into C is interrupted when it returns. Only in the main thread is the block interrupted; elsewhere
    it is told at its beginning alone that no time is left.

    Raises:
        Overtime: the time is over.
    """
    if seconds is not None and seconds <= 0:
        raise Overtime
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, _interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:  # the signal may have come within the other one
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Overtime
