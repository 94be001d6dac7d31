"""Regularized evolution: tournament selection, mutation, and death by age."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Annotated, Literal, final

import numpy as np
from pydantic import Field

from nas.controller import Controller, Evaluate, Outcome
from nas.errors import ConfigError
from nas.objective import Objective
from nas.pareto import Point, crowded, crowding
from nas.space import Architecture, Space
from nas.states import TrialState
from nas.tried import DRAWS, Tried

SCORED = frozenset({TrialState.COMPLETED, TrialState.STOPPED, TrialState.PAUSED, TrialState.REUSED})
"""Trials whose score enters the population; a shorter training ranks behind all longer ones."""

Start = Annotated[
    str | None,
    Field(
        description="architecture that the first trials begin from, as text or by its name: itself, then "
        "mutants of it; default: random ones"
    ),
]


@final
class Evolution(Controller):
    """Regularized evolution (Real et al. 2019, arXiv 1802.01548, Algorithm 1), made asynchronous.

    The population is the last `population` scored outcomes in the order observed: an outcome that enters
    pushes out the oldest. A parent is the best of `sample` uniform draws with replacement; a child differs
    from its parent in one decision. The first `population` trials are random.

    Where the objective has several goals, the best draw is that on the better front of the population and, on
    one front, that with more room: the crowded comparison of NSGA-II (Deb et al. 2002).

    Where members were trained for unequal lengths, a longer training outranks a shorter one (`nas.fidelity`).

    With `dies` at `worst` the population is instead the best of all that was scored, each network once. With
    `fresh` a known or running network is drawn again, so that no trial repeats one. With `start` the first
    trials are that network and mutants of it, in place of random ones.
    """

    def __init__(
        self,
        space: Space[object],
        seed: int,
        *,
        population: Annotated[int, Field(ge=1, description="scored outcomes that live, the newest")] = 16,
        sample: Annotated[int, Field(ge=1, description="draws of which the best becomes the parent")] = 4,
        dies: Annotated[
            Literal["oldest", "worst"], Field(description="who makes room where the population is full")
        ] = "oldest",
        fresh: Annotated[bool, Field(description="propose no network that is known or running")] = False,
        start: Start = None,
    ) -> None:
        if sample > population:
            raise ConfigError(
                f"controller.sample: {sample} is more than controller.population ({population}); "
                "draw at most as many as live, a quarter is usual."
            )
        self._space = space
        self._size = population
        self._sample = sample
        self._objective = Objective()
        self._dies, self._fresh = dies, fresh
        self._start = None if start is None else space.decode(start)
        self._population: deque[tuple[int, Point, Architecture]] = deque()
        self._tried = Tried(space)
        self._order: list[tuple[int, Point]] = []

    def aim(self, objective: Objective) -> None:
        """Take any objective; where it has several goals, parents are chosen by the crowded comparison."""
        self._objective = objective

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        """Propose a random architecture at first, then a mutant of a tournament's winner."""
        if not self._fresh:
            return Evaluate(self._draw(number, rng))
        drawn = (self._draw(number, rng) for _ in range(DRAWS))
        return Evaluate(self._tried.untried(drawn, pending, rng))

    def _draw(self, number: int, rng: np.random.Generator) -> Architecture:
        if number < self._size or not self._population:
            if self._start is None:
                return self._space.sample(rng)
            return self._space.mutate(self._start, rng) if number else self._start
        draws = rng.integers(len(self._population), size=self._sample)
        *_, parent = self._population[min(draws, key=self._order.__getitem__)]
        return self._space.mutate(parent, rng)

    def observe(self, number: int, outcome: Outcome) -> None:
        """Let a scored architecture into the population."""
        point, architecture = self._objective.point(outcome.values), outcome.architecture
        if self._fresh and architecture is not None:
            self._tried.add(architecture)
        if outcome.state not in SCORED or point is None or architecture is None:
            return
        full = len(self._population) == self._size
        self._population.append((outcome.train_episodes, point, architecture))
        leaves = self._leaves() if full else None
        if leaves is not None:
            del self._population[leaves]
        self._order = self._ranked()
        if full and leaves is None:
            self._drop(self._order.index(max(self._order)))

    def _leaves(self) -> int | None:
        """Return who makes room whatever its rank: the oldest, or the newest's twin; None: the worst does."""
        if self._dies == "oldest":
            return 0
        keys = [self._space.canonical(architecture) for *_, architecture in self._population]
        twin = keys.index(keys[-1])
        return twin if twin < len(keys) - 1 else None

    def _drop(self, place: int) -> None:
        """Drop a member of the last front: only those on it have another rank without it, for their room."""
        del self._population[place]
        length, standing = self._order.pop(place)
        if not self._objective.several:
            return
        front = [i for i, (own, (rank, *_)) in enumerate(self._order) if (own, rank) == (length, standing[0])]
        for i, room in zip(front, crowding([self._population[i][1] for i in front]), strict=True):
            self._order[i] = length, (standing[0], -room)

    def _ranked(self) -> list[tuple[int, Point]]:
        """Return what members rank by, less being better: a longer training, then the score or the front."""
        order = [(-episodes, point) for episodes, point, _ in self._population]
        if not self._objective.several:
            return order
        for length in {length for length, _ in order}:
            alike = [index for index, member in enumerate(order) if member[0] == length]
            for index, place in zip(alike, crowded([order[i][1] for i in alike]), strict=True):
                order[index] = length, place
        return order
