"""Torch's global generators, which all threads of a process share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_turn = threading.RLock()

_WAIT_SECONDS = 1.0
"""Between two calls of what is to be done while another thread has its turn."""


@contextmanager
def alone(meanwhile: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Draw while no other thread does, so that its seed is not in the way; enter again as often as you like.

    What runs within must not wait for a thread that comes here, too.

    Args:
        meanwhile: called again and again until it is this thread's turn.
    """
    while not _turn.acquire(timeout=_WAIT_SECONDS):
        meanwhile()
    try:
        yield
    finally:
        _turn.release()


@contextmanager
def forked(devices: Iterable[int] = ()) -> Iterator[None]:
    """Draw alone, and leave the generators as they were: the CPU's, and those of these GPUs."""
    with alone(), torch.random.fork_rng(list(devices)):
        yield


class _Visitors:
    """Threads that will leave the generators as they were before the first of them came."""

    def __init__(self) -> None:
        self._lock, self._count = threading.Lock(), 0
        self._before: tuple[Tensor, list[Tensor]] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._count:
                self._before = torch.get_rng_state(), torch.cuda.get_rng_state_all()
            self._count += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._count -= 1
            if not self._count and self._before is not None:
                torch.set_rng_state(self._before[0])
                torch.cuda.set_rng_state_all(self._before[1])


undisturbed = _Visitors()
"""Leaves the generators as they were, once the last of the threads within has left."""
