"""Stopping by learning curves: a trial ends when a new best score has become improbable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import final

import numpy as np

from nas.intervals import student_cdf

ENOUGH = 10
"""Whole trainings, the earlier ones too, before any trial is stopped."""

_NORMAL = NormalDist()


@final
class Curves:
    """Predicts a trial's last score from its score at a rung, by the whole trainings of the search so far.

    At each rung the last score is regressed on the normal score (the quantile of its rank) of the score
    there, so that the unit and the shape of scores do not matter. Student's t of the prediction gives the
    chance of a score above the best so far; a trial stops when that is below the threshold. That only trials
    that were good at the rung are seen to the end does not bias the regression, since it is conditional on
    what chose them. (Predictions from partial curves by regression: Baker et al. 2017, arXiv 1705.10823.)

    Args:
        threshold: the chance below which a trial stops.
        budget: training episodes of a whole trial.
        rungs: training episodes at which trials are judged, ascending, below the budget.
        earlier: whole trainings that the prediction begins with, each with a score for every rung and for the
            budget, in the search's unit. None of them is its best so far.
    """

    def __init__(
        self, threshold: float, budget: int, rungs: Sequence[int], earlier: Sequence[Mapping[int, float]] = ()
    ) -> None:
        self._threshold, self._budget = threshold, budget
        before = {-1 - place: scores for place, scores in enumerate(earlier)}  # no trial has such a number
        self._scores: dict[int, dict[int, float]] = {
            rung: {place: scores[rung] for place, scores in before.items()} for rung in rungs
        }
        self._before = {place: scores[budget] for place, scores in before.items()}
        self._last: dict[int, float] = {}

    def report(self, trial: int, step: int, score: float) -> bool:
        """Record a score at the rung that was passed last; return whether the trial should go on."""
        self.record(trial, step, score)
        if not math.isfinite(score):
            return False
        return self.chance(step, score) >= self._threshold

    def record(self, trial: int, step: int, score: float) -> None:
        """Record a score that was judged before."""
        if math.isfinite(score):
            self._at(step)[trial] = score

    def complete(self, trial: int, score: float) -> None:
        """Record the score of a whole training."""
        if math.isfinite(score):
            self._last[trial] = score

    def forget(self, trial: int) -> None:
        """Drop the scores of a trial that failed after all."""
        for scores in self._scores.values():
            scores.pop(trial, None)

    def chance(self, step: int, score: float) -> float:
        """Return the predicted chance of a last score above the best so far; 1 while too few are known."""
        scores, lasts = self._at(step), self._before | self._last
        whole = [trial for trial in lasts if trial in scores]
        if len(whole) < ENOUGH or not self._last:
            return 1.0
        ranked = np.sort(list(scores.values()))
        place = _normal_scores(ranked, np.array([score, *(scores[trial] for trial in whole)]))
        last = np.array([lasts[trial] for trial in whole])
        design = np.column_stack([np.ones(len(whole)), place[1:]])
        inverse = np.linalg.pinv(design.T @ design)
        weights = inverse @ design.T @ last
        freedom = len(whole) - 2
        here = np.array([1.0, place[0]])
        variance = float(np.sum((last - design @ weights) ** 2)) / freedom
        spread = math.sqrt(variance * (1 + here @ inverse @ here))
        ahead = max(self._last.values()) - float(here @ weights)
        if spread == 0:
            return float(ahead <= 0)
        return 1 - student_cdf(ahead / spread, freedom)

    def _at(self, step: int) -> dict[int, float]:
        """Return the scores of the last rung at or before `step`; before the first and at the end, none."""
        passed = [rung for rung in self._scores if rung <= step < self._budget]
        return self._scores[passed[-1]] if passed else {}


def _normal_scores(ranked: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the normal quantiles of values' mid-ranks among sorted scores, `[n]`."""
    places = (np.searchsorted(ranked, values, "left") + np.searchsorted(ranked, values, "right")) / 2
    shares = np.clip(places / len(ranked), 0.5 / len(ranked), 1 - 0.5 / len(ranked))
    return np.array([_NORMAL.inv_cdf(float(share)) for share in shares])
