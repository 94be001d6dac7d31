"""What a worker of evaluations says, in a few words, and what an error does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.metrics import VALIDATION_SCORE

if TYPE_CHECKING:
    from nas.evaluation.work import Begin, Report, Validated
    from nas.storage.schema import Evaluation


def words(row: Evaluation, report: Report) -> str:
    """Return what a worker says, in a few words."""
    from nas.evaluation.work import Begin, Failure, Lost, Progress, Scoring, Validated

    total = row.config["budget"]["train_episodes"]
    match report:
        case Progress():
            return f"{report.done}/{total} training episodes"
        case Validated():
            done, score = last(report)
            return f"{done}/{total} training episodes, validation {score:.4f}"
        case Scoring():
            return f"testing on {report.episodes} episodes"
        case Begin():
            return _begins(report)
        case Lost():
            return f"warning: {report.message}"
        case Failure():
            return f"{report.state}: {first(report.error)}"
    return f"test {report.test.value:.4f} ± {report.test.ci95:.4f} in {report.seconds:.0f} s"


def first(error: str) -> str:
    """Return the first line of an error."""
    return error.strip().partition("\n")[0]


def _begins(begin: Begin) -> str:
    """Return where a training begins that a shorter one was before."""
    if begin.done:
        return f"goes on after the {begin.done} training episodes of an earlier training"
    return f"begins anew, not from a training of {begin.earlier} episodes: {begin.reason}"


def last(curve: Validated) -> tuple[int, float]:
    """Return the training episodes and the validation score of a curve's last point."""
    point = next(m for m in reversed(curve.measurements) if m.metric == VALIDATION_SCORE)
    return point.step, point.value
