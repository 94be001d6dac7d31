"""Controllers around a controller: of a few candidates, the most promising is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, final

import numpy as np

from nas.controller import Controller, Evaluate, Finish, Inherited, Outcome, Proposal, Reuse, TrainSupernet
from nas.errors import Infeasible
from nas.prediction import Prediction
from nas.product import candidate_of
from nas.space import Architecture, Space, TaskShape
from nas.tasks.base import ScoreSource
from nas.tried import Tried

Promise: TypeAlias = Callable[[Architecture], float]
"""What an architecture promises before it is trained: higher is better, −∞ where nothing can be said."""


@final
class Prescreened(Controller):
    """Asks for several new candidates at each trial, all from one generator, and sends on the best of them.

    A candidate is new if no trial has had its network and settings. Where the inner controller's first word
    is something else, to train longer or again what is known, or to wait, it is passed on as it is. Of equal
    candidates the first is taken.

    Args:
        controller: who proposes.
        space: of what is proposed.
        promise: of an architecture, the same each time.
        candidates: how many draws a trial is chosen from.
        trials: how many of the search's first trials are chosen so; None: all.
    """

    def __init__(
        self,
        controller: Controller,
        space: Space[Any],
        promise: Promise,
        candidates: int,
        trials: int | None = None,
    ) -> None:
        self._controller, self._space, self._promise = controller, space, promise
        self._candidates, self._trials = candidates, trials
        self._tried = Tried(space)
        self._promises: dict[Architecture, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_promises": {}}  # a memo of pure values, no part of the state

    def inherit(self, outcomes: Sequence[Inherited]) -> None:
        """Tell the inner controller."""
        self._controller.inherit(outcomes)

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        """Propose the most promising of the inner controller's draws."""
        taken = self._tried.taken(pending)
        first, drawn = self._controller.propose(number, pending, rng), dict[str, Evaluate]()
        if self._trials is not None and number >= self._trials:
            return first
        proposal = first
        for rest in reversed(range(self._candidates)):
            if isinstance(proposal, Evaluate):
                key = self._space.canonical(proposal.architecture)
                if key not in taken:
                    drawn.setdefault(key, proposal)
                elif proposal is first:
                    return first
            elif proposal is None or isinstance(proposal, TrainSupernet | Finish):
                break
            if rest:
                proposal = self._controller.propose(number, pending, rng)
        if len(drawn) < 2:
            return next(iter(drawn.values()), first)
        return max(drawn.values(), key=lambda proposal: self._known(proposal.architecture))

    def observe(self, number: int, outcome: Outcome) -> None:
        """Remember what was tried; tell the inner controller everything."""
        if outcome.architecture is not None:
            self._tried.add(outcome.architecture)
        self._controller.observe(number, outcome)

    def promotable(self, trials: int) -> frozenset[str] | None:
        """Return what the inner controller does."""
        return self._controller.promotable(trials)

    def _known(self, architecture: Architecture) -> float:
        if architecture not in self._promises:
            self._promises[architecture] = self._promise(architecture)
        return self._promises[architecture]


@final
class Counted:
    """What candidates promise by a cost of their networks that is known before they are scored.

    Args:
        space: of what is proposed.
        source: knows the costs.
        cost: which, by a name in `nas.costs.OWN`; the higher, the more is promised.
    """

    def __init__(self, space: Space[Any], source: ScoreSource, cost: str) -> None:
        self._space, self._source, self._cost = space, source, cost

    def __call__(self, architecture: Architecture) -> float:
        """Return the cost of a candidate, −∞ where none is known."""
        try:
            costs = self._source.costs(candidate_of(self._space, architecture).architecture)
        except Infeasible:
            return -math.inf
        return costs.get(self._cost, -math.inf)


@final
class Guided(Controller):
    """Trains a supernet as trial 0, and lets its scores choose among the candidates of another controller.

    What a candidate promises is its score with shared weights, predicted from those that the supernet told.
    Where these tell nothing, the other controller's own proposals are trained. To that controller the trials
    after the supernet are all there are: it counts them from 0.

    Args:
        controller: who proposes the other trials.
        space: of what is proposed.
        shape: the task's; what has no network for it promises nothing.
        supernet: what is trained first; the architectures that it derives are those whose scores it tells.
        candidates, trials: as of `Prescreened`.
    """

    def __init__(
        self,
        controller: Controller,
        space: Space[Any],
        shape: TaskShape,
        supernet: TrainSupernet,
        candidates: int,
        trials: int | None = None,
    ) -> None:
        self._space, self._shape, self._supernet, self._told = space, shape, supernet, False
        self._predict: Prediction | None = None
        self._screened = Prescreened(controller, space, self._promise, candidates, trials)

    def inherit(self, outcomes: Sequence[Inherited]) -> None:
        """Tell the inner controller."""
        self._screened.inherit(outcomes)

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        """Propose the supernet; None while it is trained; then the most promising candidate."""
        if number == 0:
            return self._supernet
        if not self._told:
            return None
        proposal = self._screened.propose(number - 1, pending, rng)
        return replace(proposal, trial=proposal.trial + 1) if isinstance(proposal, Reuse) else proposal

    def observe(self, number: int, outcome: Outcome) -> None:
        """Learn what shared weights say, or tell the other controller."""
        if number > 0:
            reused = None if outcome.reused is None else outcome.reused - 1
            self._screened.observe(number - 1, replace(outcome, reused=reused))
            return
        self._told = True
        networks = [
            (candidate_of(self._space, d.architecture).architecture, d.score) for d in outcome.derived
        ]
        known = [(network.choices, score) for network, score in networks if math.isfinite(score)]
        scores = [score for _, score in known]
        if len(set(scores)) > 1:
            self._predict = Prediction([choices for choices, _ in known], scores)

    def promotable(self, trials: int) -> frozenset[str] | None:
        """Return what the other controller does."""
        return self._screened.promotable(trials)

    def _promise(self, architecture: Architecture) -> float:
        if self._predict is None:
            return -math.inf
        candidate = candidate_of(self._space, architecture)
        try:
            candidate.space.cost(candidate.architecture, self._shape)
        except Infeasible:
            return -math.inf
        return self._predict(candidate.architecture.choices)
