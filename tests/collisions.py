"""Whether keys are equal only where networks are: networks as functions of numbers, as their papers say."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.space import Architecture, Space

Values = npt.NDArray[np.float64]

INPUT = np.random.default_rng(7).normal(size=6)


def applied(name: str, x: Values) -> Values:
    """Return what an operation makes of numbers: a function of its own for each name, the same everywhere."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    return np.tanh(rng.normal(size=(6, 6)) @ x + rng.normal(size=6))


def told(values: Iterable[Values]) -> tuple[float, ...]:
    """Return numbers that tell outputs apart, whatever their order."""
    return tuple(sorted(round(float(np.sum(value)), 9) for value in values))


def assert_no_collision(
    space: Space[Any], function: Callable[[Architecture], object], count: int, seed: int = 0
) -> int:
    """Draw architectures; those of one key must be one function. Return how many share a key with others."""
    first: dict[str, Architecture] = {}
    several: dict[str, set[Architecture]] = defaultdict(set)
    rng = np.random.default_rng(seed)
    for _ in range(count):
        architecture = space.sample(rng)
        known = first.setdefault(space.canonical(architecture), architecture)
        if known != architecture:
            several[space.canonical(architecture)] |= {known, architecture}
    for group in several.values():
        assert len({function(architecture) for architecture in group}) == 1, group
    return sum(map(len, several.values()))
