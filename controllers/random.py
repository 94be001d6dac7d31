"""Random search: what every other controller has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from nas.controller import Controller, Evaluate, Outcome
from nas.objective import Objective
from nas.space import Space


@final
class Random(Controller):
    """Draws every choice uniformly and independently, and learns nothing."""

    def __init__(self, space: Space[object], seed: int) -> None:
        self._space = space

    def aim(self, objective: Objective) -> None:
        """Take any objective: nothing is learned from outcomes."""

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        """Propose a uniform sample of the space."""
        return Evaluate(self._space.sample(rng))

    def observe(self, number: int, outcome: Outcome) -> None:
        """Learn nothing."""
