"""Racing: the best candidates of a search get further seeds until their means part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from nas.controller import Evaluate, Outcome
from nas.intervals import student_t
from nas.space import Architecture, Space
from nas.states import TrialState

FIRST_ROUND = 2
"""Further seeds of each finalist before any is dropped: a spread takes two."""


class Racing(BaseModel):
    """Further seeds for the best candidates, once the search's own trials have ended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    finalists: Annotated[int, Field(ge=2, description="candidates that are trained under further seeds")] = 4
    max_repeats: Annotated[
        int, Field(ge=FIRST_ROUND, description="further seeds of each finalist at most")
    ] = 8
    confidence: Annotated[
        float,
        Field(gt=0.5, lt=1, description="probability that the race does not drop the best finalist"),
    ] = 0.95


class Race:
    """Successive elimination among the finalists of a search (Maron & Moore 1994; Even-Dar et al. 2006).

    In each round every finalist that is left is trained under one further seed. It is dropped once it is
    worse than the best by more than Student's t allows, with the variance pooled over those that are left,
    and the error shared out evenly over all comparisons of the race. One that failed under a seed is dropped,
    too. The scores that chose the finalists are too good, and count for nothing here. Validation tasks are
    the same for all, so that what makes them hard or easy does not count as noise.

    What is proposed is a function of the outcomes alone, in any order.

    Args:
        settings: how many, and how sure.
        space: of the candidates.
    """

    def __init__(self, settings: Racing, space: Space[Any]) -> None:
        self._settings, self._space = settings, space
        self._first: dict[str, tuple[float, int, Architecture]] = {}
        self._further: dict[str, dict[int, float | None]] = {}

    def observe(self, number: int, outcome: Outcome) -> None:
        """Take down a score of a whole training."""
        if outcome.architecture is None or outcome.episodes is not None:
            return
        key, score = self._space.canonical(outcome.architecture), outcome.score
        if outcome.repeat:
            completed = outcome.state is TrialState.COMPLETED and score is not None
            self._further.setdefault(key, {})[outcome.repeat] = (
                score.value if completed and score is not None else None
            )
        elif outcome.state is TrialState.COMPLETED and score is not None:
            self._first.setdefault(key, (-score.value, number, outcome.architecture))

    def propose(self, pending: Sequence[Evaluate]) -> Evaluate | None:
        """Return the next training; None: the race is over, or waits for what is pending."""
        running = {(self._space.canonical(job.architecture), job.repeat) for job in pending}
        left = sorted(self._first, key=self._first.__getitem__)[: self._settings.finalists]
        for round_ in range(1, self._settings.max_repeats + 1):
            if len(left) < 2:
                return None
            missing = [key for key in left if round_ not in self._further.get(key, {})]
            for key in missing:
                if (key, round_) not in running:
                    return Evaluate(self._first[key][2], repeat=round_)
            if missing:
                if round_ < FIRST_ROUND:  # nobody is dropped before that, so nothing is to be waited for
                    continue
                return None
            if round_ >= FIRST_ROUND:
                left = self._kept(left, round_)
        return None

    def _kept(self, keys: Sequence[str], round_: int) -> list[str]:
        """Return who is left after a round, in the order given."""
        scores: dict[str, list[float]] = {}
        for key in keys:
            so_far = [self._further[key][repeat] for repeat in range(1, round_ + 1)]
            if None not in so_far:
                scores[key] = [score for score in so_far if score is not None]
        if len(scores) < 2:
            return list(scores)
        means = {key: fmean(values) for key, values in scores.items()}
        pooled = fmean(variance(values) for values in scores.values())
        rounds = self._settings.max_repeats - FIRST_ROUND + 1
        error = (1 - self._settings.confidence) / (rounds * (self._settings.finalists - 1))
        freedom = len(scores) * (round_ - 1)
        margin = student_t(freedom, 1 - 2 * error) * math.sqrt(2 * pooled / round_)
        best = max(means.values())
        return [key for key in scores if best - means[key] <= margin]
