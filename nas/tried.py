"""What a search has tried: so that no trial of it repeats another."""

from __future__ import annotations

from collections.abc import Iterable, Set
from itertools import chain
from typing import Any, final

import numpy as np

from nas.controller import Evaluate
from nas.space import Architecture, Space

DRAWS = 100
"""Random architectures drawn before a space counts as known."""


def running(space: Space[Any], pending: Iterable[Evaluate]) -> set[str]:
    """Return the canonical keys of what is evaluated now."""
    return {space.canonical(evaluation.architecture) for evaluation in pending}


@final
class Tried:
    """The candidates that were tried, each known by its canonical key.

    Args:
        space: of the candidates.
    """

    def __init__(self, space: Space[Any]) -> None:
        self._space = space
        self._keys = set[str]()

    def add(self, architecture: Architecture) -> None:
        """Take note of an architecture."""
        self._keys.add(self._space.canonical(architecture))

    def __contains__(self, architecture: Architecture) -> bool:
        return self._space.canonical(architecture) in self._keys

    def taken(self, pending: Iterable[Evaluate]) -> Set[str]:
        """Return the keys of what was tried or is evaluated now."""
        return self._keys | running(self._space, pending)

    def untried(
        self, ordered: Iterable[Architecture], pending: Iterable[Evaluate], rng: np.random.Generator
    ) -> Architecture:
        """Return the first that is not taken, else a random one; where all is taken, the last one drawn.

        Args:
            ordered: what is preferred, the best first.
            pending: what is evaluated now.
            rng: draws what is random.
        """
        taken = self.taken(pending)
        for architecture in chain(ordered, (self._space.sample(rng) for _ in range(DRAWS))):
            if self._space.canonical(architecture) not in taken:
                return architecture
        return architecture
