"""Torch's global generators, which all threads of a process share."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

ALONE = threading.RLock()
"""Held by a thread while it draws from them, so that another one's seed is not in its way."""


@contextmanager
def forked(devices: Iterable[int] = ()) -> Iterator[None]:
    """Draw alone, and leave the generators as they were: the CPU's, and those of these GPUs."""
    with ALONE, torch.random.fork_rng(list(devices)):
        yield
