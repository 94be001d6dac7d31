"""What a result may depend on besides its configuration: seeds, data, versions, machine."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nas
from nas.tasks.base import ScoreSource, Split

MACHINE = ("processor", "instructions", "gpu", "torch")
"""Entries of an `environment` that tell kinds of machines apart: where they differ, rounding does."""

LATER = "resumed_on"
"""The entry of a search's environment that lists other kinds of machines, in the order of its resumes."""

MEMORY = "supernet_bytes"
"""The entry of a search's environment that tells what the training of its supernet takes."""


def training_seed(seed: int, key: str, attempt: int, repeat: int = 0) -> int:
    """Return the seed of one training run, below 2⁶³.

    It depends on the network, not on the trial's number: under one search seed and on one kind of machine a
    network gets one score for each repeat, whichever controller proposes it and whenever.
    """
    text = f"{seed}:{key}:{attempt}" if repeat == 0 else f"{seed}:{key}:{attempt}:repeat {repeat}"
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def proposal_rng(seed: int, number: int) -> np.random.Generator:
    """Return the source of chance of a search's proposal `number`; random search needs nothing else."""
    return np.random.default_rng([seed, number])


def classes(tasks: ScoreSource, splits: Sequence[Split] = ("train", "validation")) -> dict[str, str]:
    """Return what tasks are drawn from: a hash of the classes of each split, by default those of a search."""
    return dict(tasks.fingerprint(split) for split in splits)


def environment() -> dict[str, str]:
    """Return the versions and the machine that a result may depend on; `gpu` only where there is one."""
    return dict(_environment())


def machine(environment: Mapping[str, Any]) -> str | None:
    """Return the kind of machine of an environment in a few words; None: it is from before that was told."""
    if "processor" not in environment:
        return None
    known = ((key, environment.get(key)) for key in MACHINE)
    return ", ".join(f"{key} {value}" if key == "torch" else value for key, value in known if value)


def machines(environment: Mapping[str, Any]) -> list[str]:
    """Return the kinds of machines that a search began on and was resumed on; none if that is not known."""
    began = machine(environment)
    return [] if began is None else [began, *environment.get(LATER, ())]


@functools.cache
def _environment() -> tuple[tuple[str, str], ...]:
    packages = ("torch", "ray", "numpy", "sqlalchemy")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return (
        ("nas", nas.__version__),
        ("python", platform.python_version()),
        *((name, version(name)) for name in packages),
        ("platform", platform.platform()),
        ("processor", _processor()),
        ("instructions", torch.backends.cpu.get_cpu_capability()),
        *(() if gpu is None else (("gpu", gpu),)),
        ("cores", str(os.cpu_count())),
    )


def _processor() -> str:
    """Return the processor's name, or its architecture where the system does not tell."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [
        value.strip()
        for key, _, value in (line.partition(":") for line in lines)
        if key.strip() == "model name"
    ]
    return names[0] if names else platform.processor() or platform.machine()
