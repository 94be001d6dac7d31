"""A trial that was run again, compared with what was recorded of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nas.controller import Outcome
from nas.storage.schema import Search, Trial
from nas.training.provenance import LATER, MACHINE, environment

EXACT = 1e-6
"""How far scores may differ that come from the same arithmetic: they are recorded to more digits."""

IRRELEVANT = ("ray", "sqlalchemy", "cores")
"""What of a machine and of its versions no score depends on."""


@dataclass(frozen=True, slots=True)
class RerunRow:
    """Two scores of one trial.

    Attributes:
        trial: `SEARCH/TRIAL`.
        score, recorded: on validation tasks, of the rerun and of the trial.
        difference: `score` less `recorded`.
        tolerance: how far they may differ.
        agrees: whether they differ by no more.
        seconds, recorded_seconds: of a worker.
        seed: of the weights and of the training episodes of both.
        architecture: text of the space.
    """

    trial: str
    score: float
    recorded: float
    difference: float
    tolerance: float
    agrees: bool
    seconds: float
    recorded_seconds: float | None
    seed: int
    architecture: str | None


def compared(
    search: Search, trial: Trial, outcome: Outcome, tolerance: float | None = None
) -> tuple[RerunRow, list[str]]:
    """Return how a trial and its rerun compare, and why the scores may differ, a sentence each.

    Without a reason, machine and versions are those that were recorded.

    Args:
        search: that the trial is of.
        trial: as recorded, with a score.
        outcome: of the rerun in this process, with a score.
        tolerance: how far the scores may differ; None: by rounding, or by half of the recorded
            interval where there is a reason.
    """
    assert trial.score is not None
    assert outcome.score is not None
    reasons = _reasons(search)
    if tolerance is None:
        tolerance = max(trial.ci95 or 0.0, EXACT) if reasons else EXACT
    difference = outcome.score.value - trial.score
    row = RerunRow(
        trial=f"{search.name}/{trial.number}",
        score=outcome.score.value,
        recorded=trial.score,
        difference=difference,
        tolerance=tolerance,
        agrees=abs(difference) <= tolerance,
        seconds=outcome.seconds,
        recorded_seconds=trial.seconds,
        seed=trial.seed,
        architecture=trial.architecture,
    )
    return row, reasons


def _reasons(search: Search) -> list[str]:
    before, now = search.environment, environment()
    reasons = [
        f"{key}: {before.get(key) or 'not recorded'} then, {now.get(key) or 'gone'} now"
        for key in sorted({*now, *MACHINE})
        if key not in IRRELEVANT and before.get(key) != now.get(key)
    ]
    if LATER in before:
        reasons.append(f"The search was resumed on other machines: {'; '.join(before[LATER])}.")
    if torch.cuda.is_available():
        reasons.append("A GPU adds up in an order that changes from run to run.")
    return reasons
