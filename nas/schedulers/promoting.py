"""What schedulers that promote share: a controller around the one that proposes candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nas.controller import Controller, Evaluate, Finish, Inherited, Outcome, Proposal, Reject
from nas.errors import Unsupported
from nas.space import Architecture, Space
from nas.states import TrialState


class Promotable(NamedTuple):
    """A candidate with a score of some length; sorts best first, then in the order of trials."""

    loss: float
    number: int
    key: str
    architecture: Architecture


class Promoting(Controller):
    """Asks an inner controller for candidates, which train for the shortest length first.

    The inner controller numbers its own proposals from 0, and observes every outcome, whatever its length.

    Args:
        controller: who proposes candidates.
        space: of what is proposed.
        lengths: training episodes, ascending; the last is a whole training.
        eta: about one candidate in so many is promoted to the next length.
    """

    def __init__(self, controller: Controller, space: Space[Any], lengths: Sequence[int], eta: int) -> None:
        self._controller, self._space = controller, space
        self._lengths, self._eta = tuple(lengths), eta
        self._drawn = 0

    def inherit(self, outcomes: Sequence[Inherited]) -> None:
        """Tell the inner controller."""
        self._controller.inherit(outcomes)

    def rung(self, trial: Evaluate | Outcome) -> int:
        """Return the place among the lengths of what was asked for."""
        return len(self._lengths) - 1 if trial.episodes is None else self._lengths.index(trial.episodes)

    def asked(self, architecture: Architecture, rung: int) -> Evaluate:
        """Return the proposal of a length."""
        whole = rung == len(self._lengths) - 1
        return Evaluate(architecture, episodes=None if whole else self._lengths[rung])

    def scored(self, number: int, outcome: Outcome) -> Promotable | None:
        """Return the candidate of an outcome; None where it has no score of the length asked for."""
        architecture, score = outcome.architecture, outcome.score
        if outcome.state in (TrialState.STOPPED, TrialState.FAILED) or not (score and architecture):
            return None
        return Promotable(-score.value, number, self._space.canonical(architecture), architecture)

    def draw(
        self, pending: Sequence[Evaluate], drawn: int, rung: int, rng: np.random.Generator
    ) -> Proposal | None:
        """Return what the inner controller proposes next, to be trained for the length of a rung.

        Args:
            pending: what is evaluated now.
            drawn: how many of it are candidates of the inner controller that were not observed.
            rung: the place of the length.
            rng: the only source of chance.

        Raises:
            Unsupported: it proposes something else than candidates.
        """
        proposal = self._controller.propose(self._drawn + drawn, pending, rng)
        match proposal:
            case None | Finish():
                return proposal
            case Reject():
                return replace(proposal, episodes=self.asked(proposal.architecture, rung).episodes)
            case Evaluate(architecture):
                return self.asked(architecture, rung)
        raise Unsupported(
            "scheduler: it promotes candidates, and the controller trains a supernet. Leave one of them out."
        )


def unique(candidates: Sequence[Promotable]) -> list[Promotable]:
    """Return sorted candidates, each network once."""
    found: dict[str, Promotable] = {}
    for candidate in candidates:
        found.setdefault(candidate.key, candidate)
    return list(found.values())
