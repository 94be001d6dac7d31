"""Who watches a search."""

from __future__ import annotations

from typing import Protocol

from nas.controller import Outcome
from nas.evaluator import AnyJob


class Observer(Protocol):
    """Who watches a search: the progress display."""

    def started(self, job: AnyJob) -> None:
        """Take note that a job went to a worker."""

    def reported(self, job: AnyJob, outcome: Outcome) -> None:
        """Take note of what is known so far of a running job."""

    def recorded(self, number: int, outcome: Outcome) -> None:
        """Take note of a final outcome, committed."""

    def retried(self, job: AnyJob, error: str) -> None:
        """Take note that a failed job will be tried again."""
