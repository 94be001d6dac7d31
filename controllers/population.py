"""A population of trainings: the weak go on from the weights of the strong, under other settings."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from nas.controller import Controller, Evaluate, Finish, Outcome, Proposal
from nas.errors import ConfigError
from nas.product import MAIN, Product
from nas.space import Architecture, Decision, Space
from nas.states import TrialState
from nas.tried import DRAWS, Tried

CONTINUABLE = frozenset({TrialState.PAUSED, TrialState.REUSED})
"""Parts of trainings that left a state."""

Quantile = Annotated[
    float, Field(gt=0, le=0.5, description="share that copies after a part, and share that it copies from")
]
Resample = Annotated[
    float, Field(ge=0, le=1, description="probability that a setting is drawn anew where a copy explores")
]


class Part(NamedTuple):
    """A part of a training that ended with a score; sorts best first, then in the order observed."""

    loss: float
    place: int
    trial: int
    architecture: Architecture


class EndedMember(NamedTuple):
    """A part of a training that another one is to follow.

    Attributes:
        episodes: training episodes at its end.
        part: None: it has no score.
        architecture, parent: what was tried, and from whom it went on.
    """

    episodes: int
    part: Part | None
    architecture: Architecture | None
    parent: int | None


def numeric(decision: Decision) -> bool:
    """Return whether the choices of a decision are numbers, which have neighbours."""
    return all(isinstance(c, int | float) and not isinstance(c, bool) for c in decision.choices)


class PopulationBased(Controller):
    """Population-based training (Jaderberg et al. 2017, arXiv 1711.09846), made asynchronous and exact.

    A trial is one part of a training, `interval` long. The next part of a training follows its last one, in
    the order in which these were observed, so that no worker waits for a generation. Exploit (truncation
    selection): a part among the worst `quantile` of those seen of its length is not continued. In its place
    one of the best `quantile` is, drawn uniformly, with its weights and its network, and under settings that
    explore near its own. All others go on as they are. At least one of two parts copies, and never more than
    half.

    A part that failed copies one of the best, too; if none of its length has a score it begins again, from
    what it began with, under other settings.

    Args:
        space: a product of networks and settings: settings alone change within a training.

    Raises:
        ConfigError: the space has no settings, or no such network.
    """

    continues = True

    def __init__(
        self,
        space: Space[Any],
        seed: int,
        *,
        quantile: Quantile,
        resample: Resample,
        population: Annotated[int, Field(ge=2, description="trainings side by side")] = 16,
        interval: Annotated[
            int, Field(ge=1, description="training episodes of a part, after which the weak copy the strong")
        ] = 30,
        network: Annotated[
            str | None, Field(description="of all trainings; by default each draws its own")
        ] = None,
    ) -> None:
        if not isinstance(space, Product):
            raise ConfigError(
                "controller: a population changes settings while it trains, and this search chooses none. "
                "Give it some, such as --slot learner.lr=[0.001,0.003,0.01]."
            )
        self._space = space
        self._size, self._interval, self._whole = population, interval, 2**31
        self._quantile, self._resample = quantile, resample
        try:
            self._network = None if network is None else space.slots[MAIN].decode(network)
        except ConfigError as error:
            raise ConfigError(f"controller.network: {error}") from None
        self._tried = Tried(space)
        self._open: list[EndedMember] = []
        """In the order observed."""
        self._parts: dict[int, list[Part]] = {}
        """By training episodes at their end, in the order observed."""
        self._begun = 0
        """How many trainings have ended a part."""
        self._waiting: dict[int, EndedMember] = {}
        """Those of the open ones whose next part has not ended, by its number."""
        self._reached: dict[int, int] = {}
        """By trial, training episodes at the end of a part with a score."""

    @abstractmethod
    def begin(self, number: int, rng: np.random.Generator) -> Architecture:
        """Return what training `number` begins with; its network is replaced where one is given."""

    @abstractmethod
    def shift(self, rng: np.random.Generator) -> int:
        """Return by how many places the value of a number moves where it is not drawn anew."""

    def plan(self, whole: int) -> int:
        """Return how many parts the trainings have together.

        Raises:
            ConfigError: a part is as long as a whole training.
        """
        if self._interval >= whole:
            raise ConfigError(
                f"controller.interval: {self._interval} is not below budget.train_episodes={whole}, so that "
                "no training would have a second part. Choose less."
            )
        self._whole = whole
        return self._size * -(-whole // self._interval)

    def _until(self, episodes: int) -> int | None:
        """Return what to ask for so that a training goes on up to there."""
        return None if episodes >= self._whole else episodes

    def continuable(self) -> frozenset[int]:
        """Return the parts of lengths that not all trainings have passed."""
        behind = min(map(self._source, self._waiting.values()), default=self._whole)
        if self._begun < self._size:
            behind = 0
        left = (parts for episodes, parts in self._parts.items() if episodes >= behind)
        return frozenset(part.trial for parts in left for part in parts)

    def _source(self, ended: EndedMember) -> int:
        """Return the training episodes of what its next part goes on from; 0: it begins anew."""
        if ended.part is not None or ended.episodes in self._parts:
            return ended.episodes
        return 0 if ended.parent is None else self._reached[ended.parent]

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        """Propose the first part of a training, or the one after the part that has waited longest."""
        if number < self._size:
            return Evaluate(self._first(number, pending, rng), episodes=self._interval)
        if number - self._size >= len(self._open):
            return None if pending else Finish()
        return self._next(self._open[number - self._size], number, pending, rng)

    def observe(self, number: int, outcome: Outcome) -> None:
        """Take down a part."""
        episodes, part = outcome.episodes, None
        if outcome.architecture is not None:
            self._tried.add(outcome.architecture)
        self._begun += number < self._size
        self._waiting.pop(number, None)
        if episodes is None:  # a whole training
            return
        if outcome.state in CONTINUABLE and outcome.score is not None and outcome.architecture is not None:
            ranked = self._parts.setdefault(episodes, [])
            trial = number if outcome.reused is None else outcome.reused
            part = Part(-outcome.score.value, len(ranked), trial, outcome.architecture)
            ranked.append(part)
            self._reached[trial] = episodes
        ended = EndedMember(episodes, part, outcome.architecture, outcome.parent)
        self._waiting[self._size + len(self._open)] = ended
        self._open.append(ended)

    def explore(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """Return settings near those of an architecture, with its network.

        Each is drawn anew with probability `resample`. Otherwise a number moves among its values by `shift`,
        at most to the last one, and a text stays.
        """
        parts = self._space.parts(architecture)
        for slot, part in parts.items():
            if slot != MAIN:
                decisions = self._space.slots[slot].decisions
                choices = (self._moved(*one, rng) for one in zip(decisions, part.choices, strict=True))
                parts[slot] = Architecture(part.space, tuple(choices))
        return self._space.join(parts)

    def _moved(self, decision: Decision, choice: int, rng: np.random.Generator) -> int:
        if rng.random() < self._resample:
            return int(rng.integers(len(decision.choices)))
        if not numeric(decision):
            return choice
        ascending = sorted(range(len(decision.choices)), key=decision.choices.__getitem__)
        place = ascending.index(choice) + self.shift(rng)
        return ascending[min(max(place, 0), len(ascending) - 1)]

    def _first(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Architecture:
        """Return the first of a few draws that nobody began with, else the last."""
        taken = self._tried.taken(pending)
        for _ in range(DRAWS):
            drawn = self.begin(number, rng)
            if self._network is not None:
                drawn = self._space.join({**self._space.parts(drawn), MAIN: self._network})
            if self._space.canonical(drawn) not in taken:
                break
        return drawn

    def _next(
        self, ended: EndedMember, number: int, pending: Sequence[Evaluate], rng: np.random.Generator
    ) -> Evaluate:
        """Return the part that follows another one."""
        ranked = sorted(self._parts.get(ended.episodes, ()))
        few = min(math.ceil(self._quantile * len(ranked)), len(ranked) // 2)
        after = self._until(ended.episodes + self._interval)
        if ended.part is not None and ended.part not in ranked[len(ranked) - few :]:
            return Evaluate(ended.part.architecture, episodes=after, parent=ended.part.trial)
        if ranked:
            best = ranked[: max(few, 1)]
            source = best[int(rng.integers(len(best)))]
            return Evaluate(self._other(source.architecture, rng), episodes=after, parent=source.trial)
        if ended.parent is None or ended.architecture is None:
            return Evaluate(self._first(number, pending, rng), episodes=ended.episodes)
        other = self._other(ended.architecture, rng)
        return Evaluate(other, episodes=ended.episodes, parent=ended.parent)

    def _other(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """Explore until something differs, a few times at most: the same would be the same training."""
        for _ in range(DRAWS):
            other = self.explore(architecture, rng)
            if other != architecture:
                break
        return other
