"""What has not been tried: so that no trial of a search repeats another."""

from __future__ import annotations

from collections.abc import Iterable, Set
from itertools import chain
from typing import Any

import numpy as np

from nas.controller import Evaluate
from nas.space import Architecture, Space

DRAWS = 100
"""Random architectures drawn before a space counts as known."""


def untried(
    space: Space[Any], ordered: Iterable[Architecture], taken: Set[str], rng: np.random.Generator
) -> Architecture:
    """Return the first whose network is not taken, else a random one; where all is taken, the last one drawn.

    Args:
        space: of the architectures.
        ordered: what is preferred, the best first.
        taken: canonical keys.
        rng: draws what is random.
    """
    for architecture in chain(ordered, (space.sample(rng) for _ in range(DRAWS))):
        if space.canonical(architecture) not in taken:
            return architecture
    return architecture


def running(space: Space[Any], pending: Iterable[Evaluate]) -> set[str]:
    """Return the canonical keys of what is evaluated now."""
    return {space.canonical(evaluation.architecture) for evaluation in pending}
