"""What has become of a search, of a trial and of an evaluation."""

from __future__ import annotations

from enum import StrEnum


class SearchState(StrEnum):
    """What a search is doing."""

    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED = "stopped"
    """Someone asked it to stop."""
    INTERRUPTED = "interrupted"
    """No driver has taken it up, or the driver left before the end; `nas resume` continues it."""
    FAILED = "failed"


class TrialState(StrEnum):
    """What became of a trial."""

    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED = "stopped"
    """A scheduler, or a limit of time, stopped it early: the score belongs to a smaller budget."""
    PAUSED = "paused"
    """It was to be shorter than the budget, and was: a longer trial of the same may go on from it."""
    REUSED = "reused"
    """An isomorphic architecture had been scored before; no worker was spent."""
    INFEASIBLE = "infeasible"
    """No network for this task shape, or a broken constraint."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """The driver died or was stopped while it ran; `nas resume` runs it again."""

    @property
    def final(self) -> bool:
        """Whether the trial is over and counts towards the search's number of trials."""
        return self not in (TrialState.RUNNING, TrialState.INTERRUPTED)


class EvaluationState(StrEnum):
    """What became of an evaluation."""

    RUNNING = "running"
    COMPLETED = "completed"
    INFEASIBLE = "infeasible"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Its driver left before the end; asking again continues it from its checkpoint."""
