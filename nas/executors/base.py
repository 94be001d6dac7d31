"""What an executor is given to run, and what it promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from nas.controller import Outcome
from nas.evaluator import AnyJob


class Workload(Protocol):
    """Where jobs come from and outcomes go: the search, seen from its executor. Called in one thread."""

    @property
    def done(self) -> bool:
        """Whether there will be no further job."""

    def next(self) -> AnyJob | None:
        """Return the next job, or None: ask again after a result, or never if `done`."""

    def tick(self) -> None:
        """Do what has to be done now and then while jobs run: show signs of life, look for a stop."""

    def report(self, job: AnyJob, outcome: Outcome) -> bool:
        """Take note of what is known so far; return whether the job should go on."""

    def finish(self, job: AnyJob, outcome: Outcome) -> None:
        """Take the final outcome of a job."""

    def lost(self, job: AnyJob, error: str) -> None:
        """Take note that the job's worker died under it."""


class Executor(ABC):
    """Runs a workload's jobs on workers until it is done."""

    @abstractmethod
    def run(self, workload: Workload) -> None:
        """Run every job; return when the workload is done and no job runs any more.

        A job ends with exactly one call of `finish` or `lost`. An interrupt (KeyboardInterrupt) stops the
        workers and is raised again.

        Raises:
            Unwritable: a worker cannot write its files.
        """
