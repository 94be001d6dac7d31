"""Asynchronous successive halving: stop what does worse than most did after as much training.

Ray Tune has this as `AsyncHyperBandScheduler`, and the decisions here equal its own. It is written again
because a search resumes from the database alone: when the driver restarts, Tune's scheduler forgets its rungs
and so stops fewer trials, while these are filled again from the stored scores. And the inline executor runs
without Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import numpy as np


@final
class Asha:
    """What trials have scored at each rung, which decides whether the next one goes on.

    This is the variant of one bracket that stops trials instead of pausing and promoting them (Li et al.
    2020, arXiv 1810.05934, §3).

    A score belongs to the last rung at or before its step, for a meta-batch may carry a trial past a rung: a
    trial is to be reported once after each rung that it passes. A score at the full budget is at no rung.

    Args:
        eta: about one trial in so many goes on.
        budget: training episodes of a whole trial.
        rungs: training episodes at which trials are judged, ascending, below the budget.
    """

    def __init__(self, eta: int, budget: int, rungs: Sequence[int]) -> None:
        self._percentile = 100 * (1 - 1 / eta)
        self._budget = budget
        self._scores: dict[int, dict[int, float]] = {rung: {} for rung in rungs}

    def report(self, trial: int, step: int, score: float) -> bool:
        """Return whether a trial should go on, and record its score.

        It stops when its score is below the 100·(1 − 1/eta)th percentile (interpolated) of those recorded at
        the rung before it, or is not finite. The first trial at a rung goes on.

        Args:
            trial: its number.
            step: training episodes behind the trial.
            score: on the validation tasks; higher is better.
        """
        scores = list(self._at(step).values())
        cutoff = float(np.percentile(scores, self._percentile)) if scores else -math.inf
        self.record(trial, step, score)
        return math.isfinite(score) and score >= cutoff

    def record(self, trial: int, step: int, score: float) -> None:
        """Record a score that was judged before: a resumed search replays its measurements."""
        if math.isfinite(score):
            self._at(step)[trial] = score

    def complete(self, trial: int, score: float) -> None:
        """Pass over the score of a whole training: it is at no rung."""

    def forget(self, trial: int) -> None:
        """Drop the scores of a trial that failed after all."""
        for scores in self._scores.values():
            scores.pop(trial, None)

    def _at(self, step: int) -> dict[int, float]:
        """Return the scores of the last rung at or before `step`; before the first and at the end, none."""
        passed = [rung for rung in self._scores if rung <= step < self._budget]
        return self._scores[passed[-1]] if passed else {}
