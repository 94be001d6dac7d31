"""The median stopping rule, as Ray Tune decides it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, final

NOBODY_WAITS: Any = SimpleNamespace(get_live_trials=lambda: ())
"""What Tune's schedulers take for their controller: no trial is to be paused for another."""


@dataclass(frozen=True)
class _Trial:
    """A trial, as Tune's schedulers know it."""

    trial_id: str


@final
class Median:
    """Stops a trial whose best score so far is below the median of the others' mean scores up to there.

    The rule is that of Golovin et al. (2017, Google Vizier, §3.2.2), decided by `ray.tune`'s
    `MedianStoppingRule`: while fewer than three others have come as far, every trial goes on. Tune's
    schedulers forget all when a driver restarts; this one is told everything again.

    Args:
        budget: training episodes of a whole trial.
        rungs: training episodes at which trials are judged, ascending, below the budget.
    """

    def __init__(self, budget: int, rungs: Sequence[int]) -> None:
        self._budget, self._first = budget, rungs[0]
        self._scores: dict[int, dict[int, float]] = {}
        self._rule: Any = None

    def report(self, trial: int, step: int, score: float) -> bool:
        """Record a score; return whether the trial should go on."""
        from ray.tune.schedulers import TrialScheduler

        if not math.isfinite(score):
            return False
        told = self._told()
        self._scores.setdefault(trial, {})[step] = score
        verdict = told.on_trial_result(NOBODY_WAITS, _Trial(str(trial)), {"step": step, "score": score})
        return bool(verdict != TrialScheduler.STOP)

    def record(self, trial: int, step: int, score: float) -> None:
        """Record a score that was judged before."""
        if math.isfinite(score):
            self._scores.setdefault(trial, {})[step] = score
            self._rule = None  # Tune's rule takes the last score that it is told for that of the last step

    def complete(self, trial: int, score: float) -> None:
        """Record the score of a whole training."""
        if self._rule is None:
            self.record(trial, self._budget, score)
        elif math.isfinite(score):
            self._scores.setdefault(trial, {})[self._budget] = score
            _tell(self._rule, trial, self._budget, score)

    def forget(self, trial: int) -> None:
        """Drop the scores of a trial that failed after all."""
        if self._scores.pop(trial, None):
            self._rule = None

    def _told(self) -> Any:
        """Return Tune's rule, once it knows all that is known, in order."""
        from ray.tune.schedulers import MedianStoppingRule

        if self._rule is None:
            self._rule = MedianStoppingRule(
                time_attr="step", metric="score", mode="max", grace_period=self._first
            )
            for trial, scores in self._scores.items():
                for step, score in sorted(scores.items()):
                    _tell(self._rule, trial, step, score)
        return self._rule


def _tell(rule: Any, trial: int, step: int, score: float) -> None:
    rule.on_trial_complete(NOBODY_WAITS, _Trial(str(trial)), {"step": step, "score": score})
