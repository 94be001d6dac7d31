"""Search by a model of scores: what the model finds most promising near the best is tried next."""

from __future__ import annotations

import heapq
import logging
import math
from abc import abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from controllers.threads import one_thread
from nas.controller import Controller, Evaluate, Outcome
from nas.errors import Infeasible
from nas.objective import Objective
from nas.space import Architecture, Space
from nas.states import TrialState
from nas.tried import Tried

Initial = Annotated[int, Field(ge=1, description="random trials at first")]
Candidates = Annotated[int, Field(ge=1, description="mutants that the model ranks for a proposal")]
Parents = Annotated[int, Field(ge=1, description="networks, the best, that are mutated")]
Points = Annotated[
    int, Field(ge=2, description="networks that the model learns from: the best half, and the latest")
]

TWICE = 0.5
"""Share of candidates that are mutated twice."""

Rank: TypeAlias = tuple[int, float]
"""Minus the training episodes, then the value: a longer training outranks a shorter one (`nas.fidelity`)."""

WORST: Rank = (1, 0.0)
"""Of what failed or is infeasible: behind every score."""

_LOG = logging.getLogger(__name__)


class Known(NamedTuple):
    """What is known of a network: one of its architectures, its features and its rank, less for better."""

    architecture: Architecture
    features: npt.NDArray[np.float32]
    rank: Rank


class ModelBased(Controller):
    """Proposes what a model of scores ranks first among candidates, and nothing that is known or running.

    The first `initial` trials are random by their number. Then `candidates` mutants of the `parents` best
    networks, half of them mutated twice, and `elsewhere` times as many random architectures are ranked. The
    model learns from features (`Space.features`) and normal scores: the Gaussian quantiles of the ranks, so
    that accuracies, percentages and −MSE of any size teach alike. A network that failed or is infeasible
    ranks behind every score, and one that trained for a shorter time behind the longer trainings. One that
    was scored several times counts with its last score.

    A model that raises, or finds something that is no number, stops no search: a mutant of one of the best is
    proposed in its place, and a line is logged once.

    A concrete controller implements `rank`. Its model is a pure function of what was observed. It is kept in
    `self.model`, which is no part of the state, and dropped in `observe`.
    """

    elsewhere: ClassVar[float] = 0.0

    def __init__(
        self, space: Space[Any], seed: int, initial: int, candidates: int, parents: int, points: int
    ) -> None:
        self.space, self.seed = space, seed
        self.initial, self.candidates, self.parents, self.points = initial, candidates, parents, points
        self.known: dict[str, Known] = {}
        self._tried = Tried(space)
        self.model: Any = None
        self._complained = False
        self._objective = Objective()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"model": None, "_complained": False}

    @abstractmethod
    def rank(self, candidates: Tensor, pending: Tensor, rng: np.random.Generator) -> Tensor:
        """Return how promising candidates are, `[m]`, more for better.

        Args:
            candidates: features `[m, n]`, float64.
            pending: of what is evaluated now, `[k, n]`.
            rng: the proposal's.
        """

    def aim(self, objective: Objective) -> None:
        """Take any objective with one goal."""
        self._objective = objective.alone(self)

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        """Propose at random at first, then the candidate that the model ranks first."""
        best = self.best
        drawn = self._candidates(best, rng) if number >= self.initial and best else {}
        if not drawn:
            return Evaluate(self._tried.untried([], pending, rng))
        try:
            with one_thread():
                promise = self.rank(stacked(drawn.values()), self._running(pending), rng)
            if not promise.isfinite().all():
                raise ArithmeticError("it finds something that is no number")
            order = torch.argsort(promise, descending=True, stable=True).tolist()
        except (ArithmeticError, RuntimeError, ValueError) as error:  # torch's own are RuntimeErrors
            self._complain(error)
            order = [*range(len(drawn))]
        architectures = list(drawn)
        return Evaluate(self._tried.untried((architectures[place] for place in order), pending, rng))

    def observe(self, number: int, outcome: Outcome) -> None:
        """Learn the network's last value, or that there is none."""
        point, architecture = self._objective.point(outcome.values), outcome.architecture
        ended_badly = outcome.state in (TrialState.FAILED, TrialState.INFEASIBLE)
        if architecture is None or (point is None and not ended_badly):
            return
        features, key = self._features(architecture), self.space.canonical(architecture)
        self._tried.add(architecture)
        if features is not None:
            self.known.pop(key, None)  # the latest stand last
            rank = WORST if point is None or ended_badly else (-outcome.train_episodes, point[0])
            self.known[key] = Known(architecture, features, rank)

    @property
    def best(self) -> list[Known]:
        """The `parents` best networks that have a score, the best first."""
        scored = (one for one in self.known.values() if one.rank < WORST)
        return heapq.nsmallest(self.parents, scored, key=lambda one: one.rank)

    @property
    def learned(self) -> tuple[Tensor, Tensor]:
        """What the model learns from: features `[p, n]`, and normal scores `[p]`, more for better."""
        every = list(self.known.values())
        ranks = normal_scores([one.rank for one in every])
        half = self.points // 2
        latest = range(max(len(every) - (self.points - half), 0), len(every))
        order = sorted(range(latest.start), key=lambda place: every[place].rank)
        chosen = [*order[:half], *latest]
        return stacked([every[place].features for place in chosen]), ranks[chosen]

    def _features(self, architecture: Architecture) -> npt.NDArray[np.float32] | None:
        try:
            return self.space.features(architecture)
        except Infeasible:
            return None

    def _running(self, pending: Sequence[Evaluate]) -> Tensor:
        found = (self._features(evaluation.architecture) for evaluation in pending)
        return stacked([features for features in found if features is not None])

    def _candidates(
        self, best: Sequence[Known], rng: np.random.Generator
    ) -> dict[Architecture, npt.NDArray[np.float32]]:
        """Return the candidates and their features; those that have none are left out."""
        drawn: dict[Architecture, None] = {}
        for _ in range(self.candidates):
            mutant = self.space.mutate(best[int(rng.integers(len(best)))].architecture, rng)
            drawn[self.space.mutate(mutant, rng) if rng.random() < TWICE else mutant] = None
        for _ in range(math.ceil(self.elsewhere * self.candidates)):
            drawn[self.space.sample(rng)] = None
        pairs = ((architecture, self._features(architecture)) for architecture in drawn)
        return {architecture: features for architecture, features in pairs if features is not None}

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            _LOG.warning(
                "The model of the controller %s fails (%s); mutants of the best are proposed in its place.",
                type(self).__name__,
                str(error).partition("\n")[0],
            )


def stacked(rows: Iterable[npt.NDArray[np.float32]]) -> Tensor:
    """Return features as a matrix `[rows, n]`, float64."""
    every = list(rows)
    return torch.from_numpy(np.stack(every)).double() if every else torch.empty(0, 0).double()


def normal_scores(ranks: Sequence[Any]) -> Tensor:
    """Return Gaussian quantiles `[n]` of what ranks by less being better; what ties has one quantile."""
    ordered = sorted(ranks)
    beaten = [(bisect_left(ordered, rank) + bisect_right(ordered, rank)) / 2 for rank in ranks]
    return math.sqrt(2) * torch.erfinv(1 - 2 * torch.tensor(beaten).double() / len(ranks))
