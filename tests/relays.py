"""A controller whose trainings go on from one another, as short as can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np

from nas.controller import Controller, Evaluate, Finish, Outcome, Proposal
from nas.product import MAIN, Product
from nas.space import Architecture, Space

STEP = 6


@final
class Relay(Controller):
    """Two trainings in parts; after each part both go on from the better one, the second with other settings.

    It waits for both.
    """

    continues = True

    def __init__(self, space: Space[Any], seed: int) -> None:
        assert isinstance(space, Product)
        self._space = space
        self._ended: dict[int, Outcome] = {}

    def plan(self, whole: int) -> int:
        """Return two trials for each part."""
        self._whole = whole
        return 2 * -(-whole // STEP)

    def continuable(self) -> frozenset[int]:
        """Return the last part's two, and who is ahead of them."""
        return frozenset(sorted(self._ended)[-3:])

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        """Propose one of the next two."""
        part, second = divmod(number, 2)
        last = [number - 2 - second, number - 1 - second]
        if part and any(one not in self._ended for one in last):
            return None
        if part and self._ended[last[0]].episodes is None:
            return Finish()
        if not part:
            return Evaluate(self._other(self._space.default, rng) if second else self._space.default, 0, STEP)
        parent = max(last, key=self._score)
        architecture = self._ended[parent].architecture
        assert architecture is not None
        if second:
            architecture = self._other(architecture, rng)
        until = STEP * (part + 1)
        return Evaluate(architecture, episodes=None if until >= self._whole else until, parent=parent)

    def observe(self, number: int, outcome: Outcome) -> None:
        """Take it down."""
        self._ended[number] = outcome

    def _score(self, number: int) -> float:
        score = self._ended[number].score
        return -np.inf if score is None else score.value

    def _other(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        parts = self._space.parts(architecture)
        slots = [slot for slot in parts if slot != MAIN]
        others = {slot: self._space.slots[slot].mutate(parts[slot], rng) for slot in slots}
        return self._space.join({**parts, **others})
