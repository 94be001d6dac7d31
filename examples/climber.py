"""A controller of one's own: hill climbing."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from nas.controller import Controller, Evaluate, Outcome
from nas.fidelity import standing
from nas.space import Space

Warmup = Annotated[int, Field(ge=1, description="random trials at first")]


class Climber(Controller):
    """Mutates the best architecture seen so far."""

    def __init__(self, space: Space[object], seed: int, *, warmup: Warmup = 4) -> None:
        self.space, self.warmup, self.best = space, warmup, None

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        """Propose at random at first, then a neighbour of the best."""
        if number < self.warmup or self.best is None:
            return Evaluate(self.space.sample(rng))
        return Evaluate(self.space.mutate(self.best[1], rng))

    def observe(self, number: int, outcome: Outcome) -> None:
        """Remember the best."""
        if outcome.score and (self.best is None or standing(outcome) > self.best[0]):
            self.best = standing(outcome), outcome.architecture
