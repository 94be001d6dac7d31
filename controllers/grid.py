"""Every network of a small space, once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from typing import Any, final

import numpy as np

from nas.controller import Controller, Evaluate, Finish, Inherited, Outcome, settled
from nas.errors import ConfigError
from nas.objective import Objective
from nas.space import Architecture, Space

LIMIT = 50_000
"""Encodings of the largest space that is gone through: all of them are listed at once."""


@final
class Grid(Controller):
    """Evaluates each network of the space once, in the order of its decisions, and ends the search.

    Of encodings with one canonical key the first is evaluated. What failed is not tried again.
    """

    def __init__(self, space: Space[Any], seed: int) -> None:
        if space.size > LIMIT:
            raise ConfigError(
                f"controller: 'grid' evaluates all of a space, and '{space.name}' has {space.size:,} "
                f"encodings, more than {LIMIT:,}. Choose a smaller space, or another controller, such as "
                "'random'."
            )
        self._space = space

    def __getstate__(self) -> dict[str, Any]:
        return {"_space": self._space}

    def aim(self, objective: Objective) -> None:
        """Take any objective: nothing is learned from outcomes."""

    def inherit(self, outcomes: Sequence[Inherited]) -> None:
        """Refuse: all of the space is tried anyway.

        Raises:
            Unsupported: always.
        """
        raise settled("grid")

    def propose(
        self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator
    ) -> Evaluate | Finish:
        """Propose the network at `number`; after the last one there is nothing more."""
        return Evaluate(self._all[number]) if number < len(self._all) else Finish()

    def observe(self, number: int, outcome: Outcome) -> None:
        """Learn nothing."""

    @cached_property
    def _all(self) -> list[Architecture]:
        found: dict[str, Architecture] = {}
        for choices in product(*(range(len(decision.choices)) for decision in self._space.decisions)):
            architecture = Architecture(self._space.name, choices)
            found.setdefault(self._space.canonical(architecture), architecture)
        return list(found.values())
