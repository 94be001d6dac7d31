"""Local search: to the first better neighbour, and on from there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeAlias, final

import numpy as np
from pydantic import Field

from nas.controller import Controller, Evaluate, Outcome
from nas.objective import Objective
from nas.pareto import Point
from nas.space import Architecture, Space
from nas.states import TrialState
from nas.tried import Tried

Rank: TypeAlias = tuple[int, Point]
"""What scored outcomes are compared by, less being better: a longer training first (`nas.fidelity`)."""


@final
class LocalSearch(Controller):
    """Hill climbing with restarts (White et al. 2020, arXiv 2005.02960; Den Ottelander et al. 2020).

    A climb begins at the best of `initial` scored random architectures. Neighbours, which differ in one
    decision, are tried in random order. The first outcome that is better than where the climb stands is where
    it goes on, even if it is of a random architecture. Where every neighbour is known, the climb is over, and
    the next one begins with random architectures.

    No worker waits: while the last neighbours of a climb run, random architectures are proposed. What is
    known or running is not proposed.
    """

    def __init__(
        self,
        space: Space[Any],
        seed: int,
        *,
        initial: Annotated[
            int, Field(ge=1, description="scored random architectures of which the best begins a climb")
        ] = 10,
    ) -> None:
        self._space, self._initial = space, initial
        self._objective = Objective()
        self._tried = Tried(space)
        self._drawn: list[tuple[Rank, Architecture]] = []
        self._top: tuple[Rank, Architecture] | None = None

    def aim(self, objective: Objective) -> None:
        """Take any objective with one goal."""
        self._objective = objective.alone(self)

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        """Propose a neighbour of where the climb stands, or a random architecture."""
        around = [] if self._top is None else list(self._space.neighbours(self._top[1]))
        ordered = [around[place] for place in rng.permutation(len(around))] if around else []
        return Evaluate(self._tried.untried(ordered, pending, rng))

    def observe(self, number: int, outcome: Outcome) -> None:
        """Go on to what is better; begin anew where every neighbour is known."""
        architecture, point = outcome.architecture, self._objective.point(outcome.values)
        if architecture is None:
            return
        self._tried.add(architecture)
        scored = outcome.state not in (TrialState.FAILED, TrialState.INFEASIBLE)
        if point is not None and scored:
            self._climb((-outcome.train_episodes, point), architecture)
        if self._top is not None and not any(self._unknown(self._top[1])):
            self._top = None

    def _climb(self, rank: Rank, architecture: Architecture) -> None:
        if self._top is not None:
            self._top = min(self._top, (rank, architecture), key=lambda one: one[0])
            return
        self._drawn.append((rank, architecture))
        if len(self._drawn) >= self._initial:
            self._top = min(self._drawn, key=lambda one: one[0])
            self._drawn = []

    def _unknown(self, architecture: Architecture) -> Iterator[bool]:
        return (one not in self._tried for one in self._space.neighbours(architecture))
