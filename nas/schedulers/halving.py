"""Synchronous successive halving, and Hyperband: brackets of candidates, halved from rung to rung."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import numpy as np

from nas.controller import Controller, Evaluate, Finish, Outcome, Proposal
from nas.schedulers.promoting import Promotable, Promoting, unique
from nas.space import Space


class Bracket(NamedTuple):
    """How many candidates begin at which length.

    Attributes:
        first: the place of the shortest length that they train for.
        candidates: how many there are.
    """

    first: int
    candidates: int


def brackets(lengths: int, eta: int) -> list[Bracket]:
    """Return the brackets of Hyperband (Li et al. 2018, arXiv 1603.06560, Algorithm 1), the longest first.

    Bracket s begins with ⌈(s_max + 1) / (s + 1) · etaˢ⌉ candidates and has s + 1 lengths.
    """
    most = lengths - 1
    return [Bracket(most - s, math.ceil((most + 1) * eta**s / (s + 1))) for s in reversed(range(lengths))]


@final
class Halving(Promoting):
    """Trains a bracket of candidates for one length, then the best 1/eta of them for the next, and so on.

    A rung waits for its last trial (Jamieson & Talwalkar 2016, arXiv 1502.07943). Hyperband takes its
    brackets in turn, successive halving the one that begins at the shortest length; after the last the first
    begins again, with new candidates. Where the inner controller has no more, a bracket begins with those
    that there are.
    """

    def __init__(
        self,
        controller: Controller,
        space: Space[Any],
        lengths: Sequence[int],
        eta: int,
        *,
        hyperband: bool,
    ) -> None:
        super().__init__(controller, space, lengths, eta)
        every = brackets(len(lengths), eta)
        self._brackets = every if hyperband else every[:1]
        self._turn = 0
        self._rung, self._target = self._brackets[0]
        self._ended = 0
        self._scored: list[Promotable] = []
        self._winners: list[Promotable] = []

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        """Propose the next candidate of a rung, or wait for its last trial."""
        ahead = [evaluation for evaluation in pending if self.rung(evaluation) != self._rung]
        here = len(pending) - len(ahead)
        if self._rung > self._first:
            begun = self._ended + here
            return self._promoted(self._winners, begun, self._rung) if begun < self._target else None
        if not ahead and self._ended + here < self._target:
            proposal = self.draw(pending, here, self._rung, rng)
            if not isinstance(proposal, Finish):
                return proposal
        if here:
            return None
        # The inner controller has no more: whatever ended is the whole rung.
        winners = self._best()
        if len(ahead) < len(winners):
            return self._promoted(winners, len(ahead), self._rung + 1)
        return None if ahead else Finish()

    def observe(self, number: int, outcome: Outcome) -> None:
        """Take down who ended, and go on to the next rung, or bracket, after the last of a rung."""
        if outcome.architecture is not None:
            rung = self.rung(outcome)
            if rung > self._rung:
                self._climb()
            self._drawn += rung == self._first
            self._ended += 1
            candidate = self.scored(number, outcome)
            if candidate is not None:
                self._scored.append(candidate)
            if self._ended == self._target:
                self._climb()
        self._controller.observe(number, outcome)

    def promotable(self, trials: int) -> frozenset[str]:
        """Return who was promoted to the rung, and who may be from it, whatever else it will hold."""
        best = unique(sorted(self._scored))[: max(1, self._target // self._eta)]
        from_here = [] if self._rung == len(self._lengths) - 1 else best
        return frozenset(candidate.key for candidate in (*self._winners, *from_here))

    @property
    def _first(self) -> int:
        return self._brackets[self._turn].first

    def _best(self) -> list[Promotable]:
        """Return who is promoted from the rung as it is."""
        if self._rung == len(self._lengths) - 1:
            return []
        return unique(sorted(self._scored))[: max(1, self._ended // self._eta)]

    def _promoted(self, winners: Sequence[Promotable], place: int, rung: int) -> Evaluate:
        return self.asked(winners[place].architecture, rung)

    def _climb(self) -> None:
        """Go on to the next rung; from the last, or if nobody has a score, to the next bracket."""
        self._winners = self._best()
        self._scored, self._ended = [], 0
        if self._winners:
            self._rung, self._target = self._rung + 1, len(self._winners)
            return
        self._turn = (self._turn + 1) % len(self._brackets)
        self._rung, self._target = self._brackets[self._turn]
