"""Given architectures in turn: a baseline under the same budget as a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, final

import numpy as np
from pydantic import Field

from nas.controller import Controller, Evaluate, Inherited, Outcome, settled
from nas.errors import ConfigError
from nas.objective import Objective
from nas.space import Space


@final
class Fixed(Controller):
    """Evaluates the given architectures in turn, and after the last begins again with the first.

    So a search of more trials than architectures repeats them: where it deduplicates, the repeats take over
    the first round's scores, and only what failed is tried again.
    """

    given = "architectures"

    def __init__(
        self,
        space: Space[object],
        seed: int,
        *,
        architectures: Annotated[
            tuple[str, ...],
            Field(min_length=1, description="what to evaluate: texts of the space, or names such as conv4"),
        ],
    ) -> None:
        try:
            self._architectures = tuple(space.decode(text) for text in architectures)
        except ConfigError as error:
            raise ConfigError(f"controller.architectures: {error}") from None

    def aim(self, objective: Objective) -> None:
        """Take any objective: nothing is learned from outcomes."""

    def inherit(self, outcomes: Sequence[Inherited]) -> None:
        """Refuse: what is tried is given.

        Raises:
            Unsupported: always.
        """
        raise settled("fixed")

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        """Propose the architecture at `number`, modulo how many there are."""
        return Evaluate(self._architectures[number % len(self._architectures)])

    def observe(self, number: int, outcome: Outcome) -> None:
        """Learn nothing."""
