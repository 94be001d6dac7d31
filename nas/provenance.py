"""What a result may hang on besides its configuration: seeds, data, versions, machine."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

import nas
from nas.tasks.base import Split, TaskSource


def training_seed(seed: int, key: str, attempt: int) -> int:
    """Return the seed of one training run, below 2⁶³.

    It hangs on the network, not on the trial's number: under one search seed a network gets one score,
    whichever controller proposes it and whenever.
    """
    digest = hashlib.sha256(f"{seed}:{key}:{attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def classes(tasks: TaskSource, splits: Sequence[Split] = ("train", "validation")) -> dict[str, str]:
    """Return what tasks are drawn from: a hash of the classes of each split, by default those of a search."""
    return dict(tasks.fingerprint(split) for split in splits)


def environment() -> dict[str, str]:
    """Return the versions and the machine that a result may hang on."""
    return dict(_environment())


@functools.cache
def _environment() -> tuple[tuple[str, str], ...]:
    packages = ("torch", "ray", "numpy", "sqlalchemy")
    return (
        ("nas", nas.__version__),
        ("python", platform.python_version()),
        *((name, version(name)) for name in packages),
        ("platform", platform.platform()),
        ("cores", str(os.cpu_count())),
    )
