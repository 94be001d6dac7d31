"""What machines offer, and whether one of them has what a job is to get."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from nas import counts
from nas.counts import counted
from nas.errors import ConfigError


class Machine(NamedTuple):
    """What one machine offers.

    Attributes:
        cpus: cores.
        gpus: how many.
        memory: bytes; None: nobody says.
        custom: of what a Ray cluster calls by names of its own, how much.
    """

    cpus: float
    gpus: float
    memory: float | None = None
    custom: Mapping[str, float] = MappingProxyType({})


class Demand(NamedTuple):
    """What one job takes of a machine.

    Attributes:
        cpus: cores.
        gpus: share of a GPU, or how many; None: the GPUs are split evenly over the workers.
        memory: bytes; None: they are not reserved.
        custom: of what a Ray cluster calls by names of its own, how much.
    """

    cpus: int = 1
    gpus: float | None = None
    memory: int | None = None
    custom: Mapping[str, float] = MappingProxyType({})

    def __str__(self) -> str:
        memory = [] if self.memory is None else [f"resources.memory={counts.write_bytes(self.memory)}"]
        gpus = [f"resources.gpus={self.gpus:g}"] if self.gpus else []
        custom = [f"resources.custom.{name}={amount:g}" for name, amount in self.custom.items()]
        return " and ".join([f"resources.cpus={self.cpus}", *gpus, *memory, *custom])


USUAL = Demand()
"""A core, and an even share of the GPUs."""


class Room(NamedTuple):
    """Room for jobs.

    Attributes:
        jobs: that run at a time, of those that are wanted.
        warnings: of what is less than was asked for.
    """

    jobs: int
    warnings: tuple[str, ...]


def here() -> Machine:
    """Return what this process may use of this machine."""
    import torch

    memory = None
    if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(cores(), torch.cuda.device_count(), memory)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check(
    demand: Demand, workers: int, machines: Sequence[Machine], *, cluster: bool, grows: bool = False
) -> Room:
    """Return how many trials run at a time, and what to warn of before a search starts.

    Args:
        demand: what a trial takes.
        workers: trials at a time that are wanted.
        machines: where trials may run.
        cluster: whether cores are reserved: elsewhere more threads than cores are only slow.
        grows: whether machines may be added that nobody knows of.

    Raises:
        ConfigError: no machine has what one trial is to get, and none may be added.
    """
    place = "the cluster" if cluster else "this machine"
    fitting = sum(rooms(machine, demand, reserved=cluster) for machine in machines)
    if fitting < 1:
        why = _lacking(demand, machines, "the largest machine of the cluster" if cluster else place)
        if not grows:
            raise ConfigError(f"{why} Set no more than that.")
        return Room(workers, (f"warning: {why} The search waits for a machine that the cluster adds.",))
    warnings = []
    there = sum(machine.cpus for machine in machines)
    if not cluster and demand.cpus * workers > there:
        at_a_time = f" and {workers} trials at a time" if workers > 1 else ""
        warnings.append(
            f"warning: resources.cpus={demand.cpus}{at_a_time} ask for "
            f"{counted(demand.cpus * workers, 'core')}; {place} has {counted(there, 'core')}. Trials will "
            "take longer than with as many threads as cores."
        )
    if workers > fitting and not grows:
        warnings.append(
            f"warning: workers={workers}, but {fitting:g} trials run at a time: {place} has "
            f"{_offer(machines)}, and one trial takes {demand}."
        )
    return Room(workers if grows else int(min(workers, fitting)), tuple(warnings))


def _lacking(demand: Demand, machines: Sequence[Machine], where: str) -> str:
    """Return what no machine has enough of for one trial."""
    gpus, memory = demand.gpus or 0.0, demand.memory or 0
    most = max(machine.gpus for machine in machines)
    if gpus > most:
        return f"resources.gpus={gpus:g}: {where} has {counted(most, 'GPU')}."
    most = max(machine.memory or 0.0 for machine in machines)
    if memory > most:
        has = counts.write_bytes(int(most))
        return f"resources.memory={counts.write_bytes(memory)}: {where} has {has}."
    for name, amount in demand.custom.items():
        most = max(machine.custom.get(name, 0.0) for machine in machines)
        if amount > most:
            known = ", ".join(sorted({other for machine in machines for other in machine.custom}))
            return (
                f"resources.custom.{name}={amount:g}: {where} has {most:g} of it. A machine of a Ray cluster "
                f"has what its `ray start --resources` says: here {known or 'nothing'}."
            )
    most = max(machine.cpus for machine in machines)
    if demand.cpus > most:
        return f"resources.cpus={demand.cpus}: {where} has {counted(most, 'core')}."
    return f"{demand}: no machine has all of that at once."


def _offer(machines: Sequence[Machine]) -> str:
    parts = [
        counted(sum(machine.cpus for machine in machines), "core"),
        counted(sum(machine.gpus for machine in machines), "GPU"),
    ]
    if all(machine.memory is not None for machine in machines):
        parts.append(f"{counts.write_bytes(int(sum(machine.memory or 0 for machine in machines)))} of memory")
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def rooms(machine: Machine, demand: Demand, *, reserved: bool) -> float:
    """Return how many jobs a machine has room for.

    Args:
        machine: what it offers.
        demand: what a job takes.
        reserved: whether cores are; elsewhere they limit nothing.
    """
    found = [_times(machine.cpus, demand.cpus) if reserved else math.inf]
    if (demand.gpus or 0) >= 1:
        found.append(_times(machine.gpus, demand.gpus or 1))
    elif demand.gpus:
        found.append(machine.gpus * _times(1, demand.gpus))
    if demand.memory and machine.memory is not None:
        found.append(_times(machine.memory, demand.memory))
    found += [_times(machine.custom.get(name, 0.0), amount) for name, amount in demand.custom.items()]
    return min(found)


def _times(offer: float, amount: float) -> int:
    """Return how often an amount goes into an offer: 0.2 five times into 1, and not four as by `//`."""
    return math.floor(offer / amount + 1e-9)


def device(place: int, gpus: float | None, there: int) -> int:
    """Return the number of the GPU for the job at a place of this machine.

    Args:
        place: from 0; no two jobs at a time have the same.
        gpus: as in `rooms`; None or 0: the places take the GPUs in turn.
        there: how many GPUs the machine has.
    """
    if not gpus:
        return place % there
    return place * int(gpus) if gpus >= 1 else place // _times(1, gpus)


def one_each(machines: Sequence[Machine]) -> int:
    """Return how many jobs run at a time if nobody says: one a GPU, or without any one a core."""
    return int(sum(machine.gpus for machine in machines) or sum(machine.cpus for machine in machines))
