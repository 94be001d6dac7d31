"""How much memory the training of a supernet takes, found out on a part of a task before it starts."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas import plugins
from nas.chance import forked
from nas.controller import TrainSupernet
from nas.errors import Infeasible
from nas.evaluator import Context
from nas.space import TaskShape
from nas.tasks.base import Episode, Split, TaskSource
from nas.training.oneshot.assembly import Assembly, assemble
from nas.training.oneshot.batches import Bilevel

KEPT_FREE = 0.1
"""Share of the available memory that is left to others, and to what is not seen: buffers inside kernels."""

STEPS = 4
"""Steps measured: the first has no moments of the optimizer yet, and strategies may draw a path at each."""

GIB = 2**30


def check(context: Context, proposal: TrainSupernet, seed: int) -> int | None:
    """Refuse a supernet training that will not fit in memory; return the bytes that it takes.

    They are those of `estimate`; None: nobody tells how much is available, and nothing was measured.

    Raises:
        Infeasible: it will not fit; the message names the settings to lower.
        Unsupported, ConfigError: as `assemble`.
    """
    with forked():
        assembly = assemble(context, proposal, seed)
        free = available(assembly.arithmetic.device)
        if free is None:
            return None
        try:
            needed, about = _needed(assembly, context, proposal, seed, (1 - KEPT_FREE) * free), "about"
        except Exceeded as seen:
            needed, about = seen.bytes, "more than"
    _compare(needed, about, free, context, proposal, assembly)
    return needed


def check_again(context: Context, proposal: TrainSupernet, assembly: Assembly, needed: int) -> None:
    """Refuse what `check` has measured, perhaps on another machine, and what will not fit here.

    Raises:
        Infeasible: it will not fit; the message names the settings to lower.
    """
    free = available(assembly.arithmetic.device)
    if free is not None:
        _compare(needed, "about", free, context, proposal, assembly)


def _compare(
    needed: int, about: str, free: int, context: Context, proposal: TrainSupernet, assembly: Assembly
) -> None:
    context = context.networks()
    if needed > (1 - KEPT_FREE) * free:
        remedies = ", ".join(_remedies(context, proposal, assembly))
        raise Infeasible(
            f"To train the supernet of space '{context.space.name}' by strategy '{proposal.strategy}' takes "
            f"{about} {needed / GIB:.2f} GiB of memory; {free / GIB:.2f} GiB are available, of which "
            f"{KEPT_FREE:.0%} stay free. Lower {remedies}."
        )


def estimate(context: Context, proposal: TrainSupernet, seed: int, limit: float = math.inf) -> int:
    """Return the bytes that a step, or what follows an epoch, takes in addition to the supernet's weights.

    It is the most that the first `STEPS` steps take. For a strategy that draws its path anew at each step it
    is no bound: a heavier path than those drawn takes more, for which `KEPT_FREE` leaves room. It is
    measured on a few examples of two tasks (one, if a batch has no more: batch norm takes less there), on
    twice as many, and on those of one more task: memory grows in proportion to the examples and, where each
    task has weights of its own, to the tasks. So it takes a fraction of a step's own time and memory.

    Raises:
        Exceeded: a part alone takes more than `limit` bytes.
    """
    with forked():
        return _needed(assemble(context, proposal, seed), context, proposal, seed, limit)


def _needed(assembly: Assembly, context: Context, proposal: TrainSupernet, seed: int, limit: float) -> int:
    """Return what `estimate` does; the assembly is new, and trained in the first part."""
    source = context.networks().tasks
    parts = source.halves() if assembly.augments else source.bilevel()
    whole = parts[0].sample("train", 1, np.random.default_rng(seed))
    batch = proposal.budget.batch or assembly.learner.meta_batch
    units = _units(whole)
    few = max(1, units // 8)
    more = min(units, 2 * few)

    def peak(assembly: Assembly, tasks: int, examples: int) -> int:
        return _measure(assembly, _Part(source, examples), tasks, seed, limit)

    tasks = min(batch, 2)
    one = peak(assembly, tasks, few)
    twice = peak(assemble(context, proposal, seed), tasks, more)
    example = max(0.0, (twice - one) / (more - few)) if more > few else 0.0
    task = 0.0
    if batch > tasks:
        further = peak(assemble(context, proposal, seed), tasks + 1, few)
        task = max(0, further - one) + example / tasks * (units - few)
    return round(twice + example * (units - more) + task * (batch - tasks))


def _measure(assembly: Assembly, tasks: TaskSource, batch: int, seed: int, limit: float) -> int:
    batches, peak = Bilevel(assembly, tasks, batch, seed), Peak(limit)
    with peak:
        for _ in range(STEPS):
            assembly.strategy.step(batches.next(), assembly.optimizer, 0.0)
        assembly.strategy.end_epoch(batches.next())
    return peak.most


class Exceeded(Exception):
    """More than so many bytes are alive at once: what is measured is given up."""

    def __init__(self, alive: int) -> None:
        super().__init__(f"{alive} bytes")
        self.bytes = alive


class Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the bytes of the tensors that are made within it, and raises `Exceeded` beyond `limit` of them.

    Attributes:
        most: bytes alive at once, at most; not counted is what existed before, and what kernels take inside.
    """

    def __init__(self, limit: float = math.inf) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._limit = limit
        self._now = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._follow(tensor, 0)
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._follow(tensor, tensor.untyped_storage().nbytes())
        self.most = max(self.most, self._now)
        if self.most > self._limit:
            raise Exceeded(self.most)
        return out

    def _follow(self, tensor: torch.Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._alive:
            self._alive.add(key)
            self._now += size
            weakref.finalize(storage, self._end, key, size).atexit = False

    def _end(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._now -= size


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def available(device: torch.device) -> int | None:
    """Return the bytes that this process may still take on a device; None where nobody tells.

    On a CPU it is what the system has, or less where a control group of the process sets a limit.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [limit for limit in (_system(), *_groups()) if limit is not None]
    return min(free, default=None)


def _system(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Yield what is left of the limit of each control group around this process, versions 1 and 2."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            base, names = (
                (root, ("memory.max", "memory.current"))
                if not controllers
                else (
                    root / "memory",
                    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
                )
            )
            inside = Path(path.lstrip("/"))
            for group in (base / inside, *(base / parent for parent in inside.parents)):
                yield from _left(group, *names)


def _left(group: Path, limit: str, usage: str) -> Iterator[int]:
    """Yield a group's limit less what it uses, page cache that can be dropped aside."""
    try:
        most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
        if most == "max":
            return
        lines = (group / "memory.stat").read_text().splitlines()
        statistics = {key: int(value) for key, value in (line.split() for line in lines)}
    except (OSError, ValueError):
        return
    yield max(0, int(most) - used + statistics.get("inactive_file", 0))


def _remedies(context: Context, proposal: TrainSupernet, assembly: Assembly) -> Iterator[str]:
    """Yield the settings that memory grows with."""
    space = plugins.settings(type(context.space))
    yield from (f"`space.{name}`" for name, field in space.items() if field.annotation is int)
    tasks = plugins.settings(type(context.tasks))
    yield from (f"`tasks.{name}`" for name in context.tasks.heavy if name in tasks)
    batch = proposal.budget.batch or assembly.learner.meta_batch
    if batch > 1:
        yield "`controller.budget.batch`" if proposal.budget.batch else "`learner.meta_batch`"
    for name in assembly.learner.heavy:
        if getattr(assembly.learner, name) != 1:
            yield f"`learner.{name}`"
    for name in assembly.strategy.heavy:
        if (value := proposal.settings.get(name, 1)) != 1:
            yield f"`controller.{name}` (now {value})"


def _units(episode: Episode) -> int:
    """Return how many parts a task can be cut into: its classes, or its examples where these are no parts."""
    return episode.ways if episode.shots and episode.ways else episode.query_x.shape[1]


class _Part(TaskSource):
    """Each task of a source with its first classes alone, or its first examples."""

    name = "part"

    def __init__(self, tasks: TaskSource, units: int) -> None:
        self._tasks, self._size = tasks, units

    @property
    def shape(self) -> TaskShape:
        return self._tasks.shape

    @property
    def label(self) -> str:
        return self._tasks.label

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        whole = self._tasks.sample(split, tasks, rng)
        n, by_class = self._size, bool(whole.shots and whole.ways)
        support = n * whole.shots if by_class else min(n, whole.support_x.shape[1])
        queries = n * (whole.query_x.shape[1] // whole.ways) if by_class else n
        return replace(
            whole,
            support_x=whole.support_x[:, :support],
            support_y=whole.support_y[:, :support],
            query_x=whole.query_x[:, :queries],
            query_y=whole.query_y[:, :queries],
            ways=n if by_class else whole.ways,
            shots=whole.shots if by_class or whole.ways else support,
            classes=whole.classes[:, :n] if by_class else whole.classes,
        )

    def fingerprint(self, split: Split) -> tuple[str, str]:
        return self._tasks.fingerprint(split)
