"""NSGA-II: a population that keeps the better fronts and, on the last of them, those with most room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple, final

import numpy as np
from pydantic import Field

from nas.controller import Controller, Evaluate, Outcome
from nas.objective import Objective
from nas.pareto import Point, crowded, crowding
from nas.space import Architecture, Space
from nas.states import TrialState
from nas.tried import Tried

SCORED = frozenset({TrialState.COMPLETED, TrialState.STOPPED, TrialState.REUSED})
"""Trials that enter the population."""

REDRAWS = 100
"""Children drawn until one is new."""


class Member(NamedTuple):
    """What lives: training episodes behind its score, its point (less is better), and what it is."""

    episodes: int
    point: Point
    architecture: Architecture


@final
class Nsga2(Controller):
    """NSGA-II (Deb et al. 2002, doi 10.1109/4235.996017), asynchronous and steady-state.

    Each outcome with a score joins the population. Where that makes more than `population`, the member on the
    last front with the least room there dies; of equal ones, the oldest. Both parents of a child win a binary
    tournament by the same order. Uniform crossover takes each decision from one of them, and mutation changes
    each with the probability 1 / number of decisions. A child that was tried before is drawn again. The first
    `population` trials are random.

    A network lives once, by its longest training, and a longer training outranks a shorter one
    (`nas.fidelity`). With one objective the fronts are the scores.
    """

    def __init__(
        self,
        space: Space[object],
        seed: int,
        *,
        population: Annotated[int, Field(ge=2, description="networks that live")] = 20,
        crossover: Annotated[
            float, Field(ge=0, le=1, description="probability that a child has two parents")
        ] = 0.9,
    ) -> None:
        self._space = space
        self._size, self._crossover = population, crossover
        self._objective = Objective()
        self._population: dict[str, Member] = {}
        self._places: dict[str, tuple[int, int, float]] = {}
        self._tried = Tried(space)

    def aim(self, objective: Objective) -> None:
        """Take any objective."""
        self._objective = objective

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        """Propose a random architecture at first, then a child that is new."""
        if number < self._size or not self._population:
            return Evaluate(self._space.sample(rng))
        taken = self._tried.taken(pending)
        for _ in range(REDRAWS):
            child = self._child(rng)
            if self._space.canonical(child) not in taken:
                break
        return Evaluate(child)

    def observe(self, number: int, outcome: Outcome) -> None:
        """Let a scored architecture into the population, and the last of those that live out of it."""
        point, architecture = self._objective.point(outcome.values), outcome.architecture
        if architecture is None:
            return
        self._tried.add(architecture)
        if outcome.state not in SCORED or point is None:
            return
        key = self._space.canonical(architecture)
        known = self._population.get(key)
        if known is not None and known.episodes >= outcome.train_episodes:
            return
        self._population.pop(key, None)
        self._population[key] = Member(outcome.train_episodes, point, architecture)
        self._places = self._ranked()
        if len(self._population) > self._size:
            self._drop(max(self._population, key=self._places.__getitem__))

    def _drop(self, key: str) -> None:
        """Drop a member of the last front: only those on it have another place without it, for their room."""
        del self._population[key]
        length, rank, _ = self._places.pop(key)
        front = [own for own, place in self._places.items() if place[:2] == (length, rank)]
        for own, room in zip(front, crowding([self._population[own].point for own in front]), strict=True):
            self._places[own] = (length, rank, -room)

    def _ranked(self) -> dict[str, tuple[int, int, float]]:
        """Return what members rank by, less being better: a longer training, then the crowded comparison."""
        by_length: dict[int, list[str]] = {}
        for key, member in self._population.items():
            by_length.setdefault(member.episodes, []).append(key)
        places = {}
        for episodes, keys in by_length.items():
            points = [self._population[key].point for key in keys]
            for key, (rank, room) in zip(keys, crowded(points), strict=True):
                places[key] = (-episodes, rank, room)
        return places

    def _child(self, rng: np.random.Generator) -> Architecture:
        parent = self._parent(rng)
        if rng.random() < self._crossover:
            parent = self._space.crossover(parent, self._parent(rng), rng)
        sizes = [len(decision.choices) for decision in self._space.decisions]
        change = rng.random(len(sizes)) < 1 / len(sizes)
        shifts = [1 + int(rng.integers(max(size - 1, 1))) for size in sizes]
        choices = (
            (choice + shift) % size if changes else choice
            for choice, shift, size, changes in zip(parent.choices, shifts, sizes, change, strict=True)
        )
        return Architecture(self._space.name, tuple(choices))

    def _parent(self, rng: np.random.Generator) -> Architecture:
        """Return the better of two members, the first drawn of equal ones."""
        keys = list(self._population)
        two = rng.choice(len(keys), size=min(2, len(keys)), replace=False)
        best = min((keys[int(i)] for i in two), key=self._places.__getitem__)
        return self._population[best].architecture
