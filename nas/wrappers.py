"""Controllers around a controller: skip what is known, reject what costs too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, TypeAlias, final

import numpy as np

from nas.controller import Controller, Evaluate, Inherited, Outcome, Proposal, Reject, Reuse
from nas.costs import excess
from nas.errors import Infeasible
from nas.product import candidate_of
from nas.space import Architecture, Space, TaskShape
from nas.states import TrialState
from nas.tried import running

REDRAWS = 100
"""Proposals asked of the inner controller, all from one generator, before a wrapper gives up."""


Known: TypeAlias = tuple[str, int, int | None, int | None]
"""What has one score: canonical key, repeat, training episodes that were asked for, and parent."""


@final
class Deduplicated(Controller):
    """Trains no network twice: equal canonical keys share one score for each repeat and each length.

    A network that an earlier trial completed is proposed as `Reuse` of that trial; one that runs now is drawn
    again, and where nothing else comes up the search waits. A paused trial is known as well, for another of
    its length. Other outcomes are not worth reusing: a stopped trial's score belongs to a smaller budget, and
    one that failed may succeed. What a supernet derived is proposed like anything else.
    """

    def __init__(self, controller: Controller, space: Space[Any]) -> None:
        self._controller = controller
        self._space = space
        self._completed: dict[Known, int] = {}

    def inherit(self, outcomes: Sequence[Inherited]) -> None:
        """Tell the inner controller; what others scored is not known here."""
        self._controller.inherit(outcomes)

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        """Propose what the inner controller does, unless that network is known or running."""
        running = {self._known(evaluation) for evaluation in pending}
        for _ in range(REDRAWS):
            proposal = self._controller.propose(number, pending, rng)
            if not isinstance(proposal, Evaluate):
                return proposal
            known = self._known(proposal)
            if known in self._completed:
                return Reuse(proposal.architecture, self._completed[known])
            if known not in running:
                return proposal
        return None

    def observe(self, number: int, outcome: Outcome) -> None:
        """Remember the first trial that completed each network; tell the inner controller everything."""
        done = outcome.state in (TrialState.COMPLETED, TrialState.PAUSED)
        if done and outcome.architecture is not None:
            evaluation = Evaluate(outcome.architecture, outcome.repeat, outcome.episodes, outcome.parent)
            self._completed.setdefault(self._known(evaluation), number)
        self._controller.observe(number, outcome)

    def promotable(self, trials: int) -> frozenset[str] | None:
        """Return what the inner controller does."""
        return self._controller.promotable(trials)

    def continuable(self) -> frozenset[int] | None:
        """Return what the inner controller does."""
        return self._controller.continuable()

    def _known(self, evaluation: Evaluate) -> Known:
        key = self._space.canonical(evaluation.architecture)
        return key, evaluation.repeat, evaluation.episodes, evaluation.parent


@final
class WarmStarted(Controller):
    """Tries the best networks of earlier searches first, then what the inner controller proposes.

    They take the place of what the inner controller proposes, but for further seeds and other lengths of what
    was tried. Networks that several searches know count with their mean share.

    Args:
        controller: who proposes.
        space: of what is proposed.
        trials: how many of the best are tried.
    """

    def __init__(self, controller: Controller, space: Space[Any], trials: int) -> None:
        self._controller, self._space, self._trials = controller, space, trials
        self._best: dict[str, Architecture] = {}
        self._tried: dict[str, set[int | None]] = {}

    def inherit(self, outcomes: Sequence[Inherited]) -> None:
        """Find the best; of equal ones, the first. Tell the inner controller everything."""
        self._controller.inherit(outcomes)
        found: dict[str, list[Inherited]] = {}
        for outcome in outcomes:
            found.setdefault(self._space.canonical(outcome.architecture), []).append(outcome)
        order = sorted(found, key=lambda key: -fmean(outcome.share for outcome in found[key]))
        self._best = {key: found[key][0].architecture for key in order[: self._trials]}

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        """Propose the best network that was not tried, while there is one."""
        proposal = self._controller.propose(number, pending, rng)
        now = running(self._space, pending)
        left = [key for key in self._best if key not in self._tried and key not in now]
        if not left or not isinstance(proposal, Evaluate) or proposal.repeat or proposal.parent is not None:
            return proposal
        lengths = self._tried.get(self._space.canonical(proposal.architecture), {proposal.episodes})
        if proposal.episodes not in lengths:
            return proposal
        return replace(proposal, architecture=self._best[left[0]])

    def observe(self, number: int, outcome: Outcome) -> None:
        """Remember what was tried; tell the inner controller everything."""
        if outcome.architecture is not None:
            key = self._space.canonical(outcome.architecture)
            self._tried.setdefault(key, set()).add(outcome.episodes)
        self._controller.observe(number, outcome)

    def promotable(self, trials: int) -> frozenset[str] | None:
        """Return what the inner controller does."""
        return self._controller.promotable(trials)

    def continuable(self) -> frozenset[int] | None:
        """Return what the inner controller does."""
        return self._controller.continuable()


@final
class Constrained(Controller):
    """Lets through only networks that can be built for the task and keep within the limits.

    Any other is drawn again; where none fits in `REDRAWS` draws, the last becomes a `Reject` that says which
    limit it breaks and by how much. So does what a supernet derived, which is drawn the same each time.

    Args:
        controller: who proposes.
        space: of what is proposed; its backbones are counted.
        shape: the task's.
        limits: the most that the backbone may cost, by a name in `nas.costs.COUNTED`.
    """

    def __init__(
        self,
        controller: Controller,
        space: Space[Any],
        shape: TaskShape,
        limits: Mapping[str, float],
    ) -> None:
        self._controller = controller
        self._space = space
        self._shape = shape
        self._limits = dict(limits)
        self._reasons: dict[str, str | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reasons": {}}  # a memo of pure values, no part of the state

    def inherit(self, outcomes: Sequence[Inherited]) -> None:
        """Tell the inner controller of those that break no limit here."""
        self._controller.inherit([one for one in outcomes if self._reason(one.architecture) is None])

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        """Propose the inner controller's first draw that breaks no limit, or reject its last."""
        for _ in range(REDRAWS):
            proposal = self._controller.propose(number, pending, rng)
            if not isinstance(proposal, Evaluate):
                return proposal
            reason = self._reason(proposal.architecture)
            if reason is None:
                return proposal
            rejected = Reject(
                proposal.architecture, reason, proposal.repeat, proposal.episodes, proposal.parent
            )
        return rejected

    def observe(self, number: int, outcome: Outcome) -> None:
        """Tell the inner controller."""
        self._controller.observe(number, outcome)

    def promotable(self, trials: int) -> frozenset[str] | None:
        """Return what the inner controller does."""
        return self._controller.promotable(trials)

    def continuable(self) -> frozenset[int] | None:
        """Return what the inner controller does."""
        return self._controller.continuable()

    def _reason(self, architecture: Architecture) -> str | None:
        """Return why the architecture is out, None if it is not; each network is counted once."""
        candidate = candidate_of(self._space, architecture)
        key = candidate.key
        if key not in self._reasons:
            try:
                cost = candidate.space.cost(candidate.architecture, self._shape)
                self._reasons[key] = excess(cost._asdict(), self._limits)
            except Infeasible as error:
                self._reasons[key] = str(error)
        return self._reasons[key]
