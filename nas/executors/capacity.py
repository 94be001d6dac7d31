"""What machines offer, and whether one of them has what a job is to get."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from nas.counts import counted
from nas.errors import ConfigError

if TYPE_CHECKING:
    from nas.settings.search import SearchConfig


class Machine(NamedTuple):
    """What one machine offers.

    Attributes:
        cpus: cores.
        gpus: how many.
    """

    cpus: float
    gpus: float


def here() -> Machine:
    """Return what this process may use of this machine."""
    import torch

    return Machine(cores(), torch.cuda.device_count())


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check(config: SearchConfig, machines: Sequence[Machine], *, cluster: bool) -> list[str]:
    """Return what to warn of before a search starts.

    Args:
        config: of the search.
        machines: where its trials may run.
        cluster: whether cores are reserved: elsewhere more threads than cores are only slow.

    Raises:
        ConfigError: no machine has what one trial is to get.
    """
    cpus, gpus, workers = config.resources.cpus, config.resources.gpus or 0.0, config.workers
    where = "the largest machine of the cluster" if cluster else "this machine"
    most = Machine(max(m.cpus for m in machines), max(m.gpus for m in machines))
    if gpus > most.gpus:
        raise ConfigError(
            f"resources.gpus={gpus:g}: {where} has {counted(most.gpus, 'GPU')}. Set no more than that, or "
            "leave it out: the GPUs there are, if any, are then split evenly over the workers."
        )
    if cluster and cpus > most.cpus:
        raise ConfigError(
            f"resources.cpus={cpus}: {where} has {counted(most.cpus, 'core')}. Set no more than that."
        )
    warnings = []
    if not cluster and cpus * workers > most.cpus:
        at_a_time = f" and {workers} trials at a time" if workers > 1 else ""
        warnings.append(
            f"warning: resources.cpus={cpus}{at_a_time} ask for {counted(cpus * workers, 'core')}; {where} "
            f"has {counted(most.cpus, 'core')}. Trials will take longer than with as many threads as cores."
        )
    fitting = sum(rooms(machine, cpus if cluster else 0, gpus) for machine in machines)
    if workers > fitting:
        there = Machine(sum(m.cpus for m in machines), sum(m.gpus for m in machines))
        named = "the cluster" if cluster else "this machine"
        warnings.append(
            f"warning: workers={workers}, but {fitting:g} trials run at a time: {named} has "
            f"{counted(there.cpus, 'core')} and {counted(there.gpus, 'GPU')}, and one trial takes "
            f"resources.cpus={cpus} and resources.gpus={gpus:g}."
        )
    return warnings


def rooms(machine: Machine, cpus: int, gpus: float) -> float:
    """Return how many jobs a machine has room for.

    Args:
        machine: what it offers.
        cpus: cores that a job takes; 0: they are not reserved.
        gpus: share of a GPU, or how many, that a job takes.
    """
    found = [machine.cpus // cpus if cpus else float("inf")]
    if gpus >= 1:
        found.append(machine.gpus // gpus)
    elif gpus:
        found.append(machine.gpus * (1 // gpus))
    return min(found)


def device(place: int, gpus: float | None, there: int) -> int:
    """Return the number of the GPU for the job at a place of this machine.

    Args:
        place: from 0; no two jobs at a time have the same.
        gpus: as in `rooms`; None or 0: the places take the GPUs in turn.
        there: how many GPUs the machine has.
    """
    if not gpus:
        return place % there
    return place * int(gpus) if gpus >= 1 else place // int(1 // gpus)


def one_each(machines: Sequence[Machine]) -> int:
    """Return how many jobs run at a time if nobody says: one a GPU, or without any one a core."""
    return int(sum(machine.gpus for machine in machines) or sum(machine.cpus for machine in machines))
