"""Asynchronous successive halving by promotion: never waits for a rung to fill."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import Any, final

import numpy as np

from nas.controller import Controller, Evaluate, Finish, Outcome, Proposal
from nas.schedulers.promoting import Promotable, Promoting
from nas.space import Space


@final
class Promotion(Promoting):
    """ASHA as it is published (Li et al. 2020, arXiv 1810.05934, Algorithm 2).

    A free worker trains the best candidate that is among the top 1/eta of its rung and was not promoted, from
    the longest rung down; where there is none, it trains a new candidate for the shortest length.
    """

    def __init__(self, controller: Controller, space: Space[Any], lengths: Sequence[int], eta: int) -> None:
        super().__init__(controller, space, lengths, eta)
        self._rungs: list[list[Promotable]] = [[] for _ in lengths]
        self._begun: list[set[str]] = [set() for _ in lengths]

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        """Propose to promote a candidate, or a new one."""
        going = [set[str]() for _ in self._lengths]
        for evaluation in pending:
            going[self.rung(evaluation)].add(self._space.canonical(evaluation.architecture))
        for rung in reversed(range(len(self._lengths) - 1)):
            scored = self._rungs[rung]
            for candidate in scored[: len(scored) // self._eta]:
                if candidate.key not in self._begun[rung + 1] | going[rung + 1]:
                    return self.asked(candidate.architecture, rung + 1)
        drawn = sum(self.rung(evaluation) == 0 for evaluation in pending)
        proposal = self.draw(pending, drawn, 0, rng)
        return None if isinstance(proposal, Finish) and pending else proposal

    def observe(self, number: int, outcome: Outcome) -> None:
        """Put a candidate on its rung."""
        if outcome.architecture is not None:
            rung, key = self.rung(outcome), self._space.canonical(outcome.architecture)
            self._drawn += rung == 0
            candidate = self.scored(number, outcome)
            if candidate is not None and all(key != other.key for other in self._rungs[rung]):
                insort(self._rungs[rung], candidate)
            self._begun[rung].add(key)
        self._controller.observe(number, outcome)

    def promotable(self, trials: int) -> frozenset[str]:
        """Return who is, or may come to be, among the best of a rung: ranks only fall as a rung grows."""
        found = set[str]()
        for rung, scored in enumerate(self._rungs[:-1]):
            best = scored[: (len(scored) + trials) // self._eta]
            found |= {candidate.key for candidate in best} - self._begun[rung + 1]
        return frozenset(found)
