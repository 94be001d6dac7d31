"""Evolution whose children begin with the weights of their parents."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple, final

import numpy as np
from pydantic import Field

from controllers.evolution import Start
from nas.controller import Controller, Evaluate, Outcome
from nas.errors import ConfigError
from nas.product import Product
from nas.space import Architecture, Space
from nas.states import TrialState
from nas.tried import DRAWS, Tried, running

ENDED = frozenset({TrialState.PAUSED, TrialState.COMPLETED})
"""Trials that came to the end of their part."""


class Living(NamedTuple):
    """A network that lives.

    Attributes:
        score: after the whole budget, its own training episodes and those of the weights that it began with.
        key: canonical.
        architecture: the network.
        passes: the trial whose state its children begin with; None: it has inherited its own weights.
    """

    score: float
    key: str
    architecture: Architecture
    passes: int | None


@final
class Lamarckian(Controller):
    """Regularized evolution (Real et al. 2019) with Lamarckian inheritance (Elsken et al. 2019).

    A network that is trained from scratch stops after `passes_on` training episodes, leaves its state, and
    goes on to the end of the budget. Its children begin in that state: what they share with it has its
    weights, and they train for the rest of the budget. So all scores that are compared have the whole budget
    behind them, while a child takes a part of its time.

    A score by inherited weights is a promise. A child that wins a tournament is trained from scratch, and
    has children only then: weights are inherited once, never from one that inherited.

    The population is the last `population` networks with a score, each once. No network is proposed again but
    to be trained from scratch. With several workers, whoever is trained from scratch is passed over.
    """

    continues = True

    def __init__(
        self,
        space: Space[object],
        seed: int,
        *,
        population: Annotated[int, Field(ge=1, description="networks that live, the newest")] = 16,
        sample: Annotated[int, Field(ge=1, description="draws of which the best becomes the parent")] = 8,
        passes_on: Annotated[
            int | None,
            Field(
                ge=1,
                description="training episodes after which a state is left for children, by default three "
                "quarters of the budget",
            ),
        ] = None,
        start: Start = None,
    ) -> None:
        if sample > population:
            raise ConfigError(
                f"controller.sample: {sample} is more than controller.population ({population}); "
                "draw at most as many as live, a half is usual."
            )
        if isinstance(space, Product):
            raise ConfigError(
                "slots: the controller 'lamarckian' passes weights from network to network, and chooses no "
                "settings. Leave slots out, or set another controller, such as 'evolution'."
            )
        self._space, self._size, self._sample, self._passes_on = space, population, sample, passes_on
        self._start = None if start is None else space.decode(start)
        self._members: deque[Living] = deque()
        self._tried = Tried(space)
        self._begun: dict[int, str] = {}
        """The networks trained from scratch, by the trial of the first part."""
        self._open: dict[int, Architecture] = {}
        """Those whose second part has not ended, in the order observed."""

    def plan(self, whole: int) -> None:
        """Take up when a state is left, if that is not given.

        Raises:
            ConfigError: it would be left at the end of a training, or after it.
        """
        if self._passes_on is None:
            self._passes_on = 3 * whole // 4
        if not 0 < self._passes_on < whole:
            raise ConfigError(
                f"controller.passes_on: {self._passes_on} is not below budget.train_episodes={whole}, so "
                "that children would learn nothing. Three quarters of the budget leave them a quarter."
            )

    def continuable(self) -> frozenset[int]:
        """Return the first parts of those who live, or whose second part is to come."""
        alive = (member.passes for member in self._members if member.passes is not None)
        return frozenset({*alive, *self._open})

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        """Propose the second part of a training, a random network at first, or what a tournament decides."""
        going = {job.parent: self._space.canonical(job.architecture) for job in pending}
        for first, architecture in self._open.items():
            if going.get(first) != self._begun[first]:
                return Evaluate(architecture, parent=first)
        scratch = [job for job in pending if job.parent is None]
        if len(self._begun) + len(scratch) < self._size or not self._members:
            return self._scratch(self._tried.untried(self._first(number, rng), pending, rng))
        known = {*running(self._space, scratch), *map(self._space.canonical, self._open.values())}
        draws = [self._members[place] for place in rng.integers(len(self._members), size=self._sample)]
        for winner in sorted(draws, key=lambda member: -member.score):
            if winner.passes is not None:
                children = (self._space.mutate(winner.architecture, rng) for _ in range(DRAWS))
                return Evaluate(self._tried.untried(children, pending, rng), parent=winner.passes)
            if winner.key not in known:
                return self._scratch(winner.architecture)
        return self._scratch(self._tried.untried((), pending, rng))

    def _first(self, number: int, rng: np.random.Generator) -> Iterator[Architecture]:
        """Yield where evolution starts, and mutants of that; where it starts is not given, nothing."""
        if self._start is None:
            return
        if not number:
            yield self._start
        yield from (self._space.mutate(self._start, rng) for _ in range(DRAWS))

    def _scratch(self, architecture: Architecture) -> Evaluate:
        assert self._passes_on is not None, "it was not told how long a whole training is"
        return Evaluate(architecture, episodes=self._passes_on)

    def observe(self, number: int, outcome: Outcome) -> None:
        """Take down a part, or let a network that has its score live."""
        architecture = outcome.architecture
        if architecture is None:
            return
        self._tried.add(architecture)
        key, parent = self._space.canonical(architecture), outcome.parent
        if parent is None:
            self._begun[number] = key
            if outcome.state in ENDED:
                self._open[number] = architecture
            elif outcome.state is TrialState.REUSED:
                self._leave(key, promises=True)
            else:
                self._leave(key)
            return
        again = self._begun[parent] == key
        if again:
            self._open.pop(parent, None)
            self._leave(key)
        if outcome.state in ENDED and outcome.score is not None:
            self._members.append(Living(outcome.score.value, key, architecture, parent if again else None))
            if len(self._members) > self._size:
                self._members.popleft()

    def _leave(self, key: str, *, promises: bool = False) -> None:
        """Forget a network that was trained from scratch anew, or could not be; or its promises alone."""
        kept = (m for m in self._members if m.key != key or (promises and m.passes is not None))
        self._members = deque(kept)
