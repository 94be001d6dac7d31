"""One task a thread: a meta-gradient's tasks shared out to threads that compute alone.

Networks of few-shot learning are small: one over two threads spends its time in meeting at the end of each
operation, two side by side do not meet at all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from weakref import WeakSet

import torch
from torch import nn

_Module = TypeVar("_Module", bound=nn.Module)
_Item = TypeVar("_Item")

_drawing: WeakSet[nn.Module] = WeakSet()
"""Modules that were seen to draw random numbers."""


def usable(module: nn.Module) -> int:
    """Return how many threads may each take tasks of their own.

    1 on a GPU, and where batch norm keeps running averages, which all tasks move.
    """
    alone = all(p.device.type == "cpu" for p in module.parameters()) and not any(
        isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats
        for part in module.modules()
    )
    return torch.get_num_threads() if alone else 1


def backward(
    module: _Module, items: Sequence[_Item], step: Callable[[_Module, _Item], float], threads: int
) -> float:
    """Return the sum of `step(module, item)` over items, and add the gradients that they leave.

    Thread i takes every item whose index is i modulo `threads`, with a copy of the module and a core of its
    own; what they leave is added up in their order, so that the result depends on nothing but their number.

    Threads share torch's generator, so that what they draw from it would depend on their haste. A module that
    draws, such as one with dropout, is found out by that: its items are done again, one after the other in
    this thread and from the same state of the generator, and from then on at once so.
    """
    threads = min(threads, len(items))
    if threads == 1 or module in _drawing:
        return sum(step(module, item) for item in items)
    cores, contexts, chance = torch.get_num_threads(), _autocast(), torch.get_rng_state()

    def work(number: int) -> tuple[float, _Module]:
        own = _replica(module)
        torch.set_num_threads(1)
        with contexts():
            return sum(step(own, item) for item in items[number::threads]), own

    try:
        with ThreadPoolExecutor(threads) as pool:
            done = list(pool.map(work, range(threads)))
    finally:
        torch.set_num_threads(cores)  # a thread's setting is the default of those that come later
    if not torch.equal(chance, torch.get_rng_state()):
        _drawing.add(module)
        torch.set_rng_state(chance)
        return sum(step(module, item) for item in items)
    for _, own in done:
        for weight, of_own in zip(module.parameters(), own.parameters(), strict=True):
            if of_own.grad is not None:
                weight.grad = of_own.grad if weight.grad is None else weight.grad.add_(of_own.grad)
    return sum(loss for loss, _ in done)


def _replica(module: _Module) -> _Module:
    """Return a copy that shares the weights' memory, but has gradients of its own."""
    own = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, own)


def _autocast() -> Callable[[], torch.autocast]:
    """Return this thread's autocast, for another thread to enter."""
    enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    cache = torch.is_autocast_cache_enabled()
    return lambda: torch.autocast("cpu", dtype, enabled, cache)
