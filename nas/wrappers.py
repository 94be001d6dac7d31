"""Controllers around a controller: skip what is known, reject what costs too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, final

import numpy as np

from nas.controller import Controller, Evaluate, Outcome, Proposal, Reject, Reuse
from nas.costs import excess
from nas.errors import Infeasible
from nas.product import candidate_of
from nas.space import Architecture, Space, TaskShape
from nas.states import TrialState

REDRAWS = 100
"""Proposals asked of the inner controller, all from one generator, before a wrapper gives up."""


Known: TypeAlias = tuple[str, int, int | None]
"""What has one score: canonical key, repeat, and training episodes that were asked for."""


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
            evaluation = Evaluate(outcome.architecture, outcome.repeat, outcome.episodes)
            self._completed.setdefault(self._known(evaluation), number)
        self._controller.observe(number, outcome)

    def _known(self, evaluation: Evaluate) -> Known:
        return self._space.canonical(evaluation.architecture), evaluation.repeat, evaluation.episodes


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

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        """Propose the inner controller's first draw that breaks no limit, or reject its last."""
        for _ in range(REDRAWS):
            proposal = self._controller.propose(number, pending, rng)
            if not isinstance(proposal, Evaluate):
                return proposal
            reason = self._reason(proposal.architecture)
            if reason is None:
                return proposal
            rejected = Reject(proposal.architecture, reason, proposal.repeat, proposal.episodes)
        return rejected

    def observe(self, number: int, outcome: Outcome) -> None:
        """Tell the inner controller."""
        self._controller.observe(number, outcome)

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
