"""Jobs, who has them and who runs them: a workload, an executor, and the runner inside of each worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeAlias, TypeVar

from nas.states import TrialState

JobT = TypeVar("JobT")


class Report(Protocol):
    """What is known of a job so far, or, if it is final, what came out."""

    @property
    def final(self) -> bool:
        """Whether the job is over."""


ReportT = TypeVar("ReportT", bound=Report)
_Told = TypeVar("_Told", contravariant=True)


class Workload(Protocol[JobT, _Told]):
    """Where jobs come from and reports go: the driver, seen from its executor. Called in one thread."""

    @property
    def done(self) -> bool:
        """Whether there will be no further job."""

    @property
    def left(self) -> int:
        """How many further jobs there may be before one that runs ends: more workers would wait."""

    def next(self) -> JobT | None:
        """Return the next job, or None: ask again after one ended, or never if `done`."""

    def tick(self) -> None:
        """Do what has to be done now and then while jobs run: show signs of life, look for a stop."""

    def report(self, job: JobT, report: _Told) -> bool:
        """Take note of what is known so far; return whether the job should go on."""

    def finish(self, job: JobT, report: _Told) -> None:
        """Take the final report of a job, or the one after which it should not go on."""

    def lost(self, job: JobT, error: str) -> None:
        """Take note that the job's worker died under it."""


class Runner(ABC, Generic[JobT, ReportT]):
    """Turns jobs into reports inside of a worker. Warm: one runs many jobs, and none leaves a trace."""

    def warm(self) -> None:
        """Do what takes long once, before the first job: read data, start the accelerator."""

    @abstractmethod
    def run(self, job: JobT) -> Iterator[ReportT]:
        """Yield what is known so far; last, a final report.

        Whatever it raises costs this job alone, which `failure` then reports, but for two errors, after which
        it has no report, and can be run again.

        Raises:
            Unwritable: the job cannot write its files.
            Unready: this machine lacks what the job asks for.
        """

    @abstractmethod
    def failure(self, job: JobT, state: TrialState, error: str) -> ReportT:
        """Return the final report of the job that ran last and raised.

        Args:
            job: what ran.
            state: `infeasible`, `failed`, or `stopped`: by the limit of time.
            error: why.
        """

    def log(self, job: JobT) -> str | None:
        """Return the file for what the job prints in a worker's process; None: it prints where it would."""
        return None

    def limit(self, job: JobT) -> float | None:
        """Return the seconds after which the job is stopped; None: never."""
        return None


MakeRunner: TypeAlias = Callable[[], Runner[JobT, ReportT]]
"""Makes the runner of a worker; it is pickled to get there."""


class Executor(ABC, Generic[JobT, ReportT]):
    """Runs a workload's jobs on workers until it is done."""

    @abstractmethod
    def run(self, workload: Workload[JobT, ReportT]) -> None:
        """Run every job; return when the workload is done and no job runs any more.

        A job is asked for when a worker is ready to run it, and ends with exactly one call of `finish` or
        `lost`. An interrupt (KeyboardInterrupt) stops the workers and is raised again.

        Raises:
            Stillborn: workers die before they have a job.
            Unready: a worker cannot work.
            Unwritable: a worker cannot write its files.
        """

    def look(self) -> None:
        """Look, while jobs run and the workload waits for something else, whether workers can be reached.

        Raises:
            HeadLost: they cannot.
        """
