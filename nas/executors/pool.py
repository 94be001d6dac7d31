"""A pool of warm workers, whatever they are: jobs go to those that are ready, and each runs many."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeAlias

from nas.errors import Stillborn, Unready, Unwritable
from nas.executors.attempts import DEATHS
from nas.executors.base import Executor, JobT, ReportT, Workload

TICK_SECONDS = 1.0

PATIENCE_SECONDS = 30.0
"""How long to wait for a worker without a word; for each further one twice as long."""


class Ready(NamedTuple):
    """A worker is warm, and takes jobs from now on."""


class Died(NamedTuple):
    """A worker died.

    Attributes:
        error: that it did, where and why.
        gone: whether its machine is gone, too: that says nothing of workers.
    """

    error: str
    gone: bool = False


Word: TypeAlias = ReportT | Ready | Unready | Unwritable | Died
"""What a worker has to say: of itself, or of the job that it has."""


class Worker(ABC, Generic[JobT, ReportT]):
    """The driver's end of one worker.

    Args:
        place: from 0; no two workers at a time have the same.
    """

    def __init__(self, place: int) -> None:
        self.place = place
        self.ready = False
        self.job: JobT | None = None

    @abstractmethod
    def begin(self, job: JobT) -> None:
        """Have it run a job; it is ready and has none."""

    @abstractmethod
    def answer(self, goes_on: bool) -> None:
        """Tell it, after a report that was not final, whether its job goes on."""

    @abstractmethod
    def hear(self) -> Word[ReportT]:
        """Return what it has to say."""

    @abstractmethod
    def kill(self) -> None:
        """End it, whatever it does."""


class PoolExecutor(Executor[JobT, ReportT]):
    """Runs jobs on workers of its own, which it starts as far as there are jobs for them.

    Workers are asked for all at once, and jobs begin on those that are ready, so that no start counts as a
    job's time. One that dies is replaced.

    Args:
        workers: how many there are at most.
        say: told if none gets ready for long.
    """

    def __init__(self, workers: int, say: Callable[[str], None]) -> None:
        self._workers, self._say = workers, say

    @abstractmethod
    def _start(self, place: int) -> Worker[JobT, ReportT]:
        """Return a worker that begins to start."""

    @abstractmethod
    def _heard(
        self, workers: Sequence[Worker[JobT, ReportT]], seconds: float
    ) -> Sequence[Worker[JobT, ReportT]]:
        """Wait so many seconds at most for workers that have something to say; return these."""

    def run(self, workload: Workload[JobT, ReportT]) -> None:
        """Run every job.

        Raises:
            Unready: a worker cannot work for a reason that is no death.
            Stillborn: workers die one after the other before they are ready.
        """
        pool: list[Worker[JobT, ReportT]] = []
        stillborn, more = 0, True
        began, patience = time.monotonic(), PATIENCE_SECONDS
        try:
            while True:
                for worker in pool:
                    if more and worker.ready and worker.job is None:
                        job = workload.next()
                        more = job is not None
                        if job is not None:
                            worker.begin(job)
                busy = sum(worker.job is not None for worker in pool)
                if not busy and (not more or workload.done):
                    return
                if more and len(pool) < self._workers:
                    self._fill(pool, busy + workload.left if busy else max(workload.left, 1))
                for worker in self._heard(pool, TICK_SECONDS):
                    stillborn = self._hear(worker, workload, pool, stillborn)
                    more |= worker.job is None
                workload.tick()
                waited = time.monotonic() - began
                if any(worker.ready for worker in pool):
                    began, patience = time.monotonic(), PATIENCE_SECONDS
                elif waited > patience:
                    self._say(
                        f"No worker is ready after {waited:.0f} s: {len(pool)} start, or wait for a machine "
                        "that has room for them."
                    )
                    patience *= 2
        finally:
            for worker in pool:
                worker.kill()

    def _fill(self, pool: list[Worker[JobT, ReportT]], wanted: int) -> None:
        while len(pool) < min(wanted, self._workers):
            taken = {worker.place for worker in pool}
            pool.append(self._start(next(place for place in range(self._workers) if place not in taken)))

    def _hear(
        self,
        worker: Worker[JobT, ReportT],
        workload: Workload[JobT, ReportT],
        pool: list[Worker[JobT, ReportT]],
        stillborn: int,
    ) -> int:
        """Pass on what a worker says; return how many died by themselves since the last that got ready."""
        word, job = worker.hear(), worker.job
        if isinstance(word, Unready | Unwritable):
            raise word
        if isinstance(word, Ready):
            worker.ready = True
            return 0
        if isinstance(word, Died):
            pool.remove(worker)
            worker.kill()
            worker.job = None
            if job is not None:
                workload.lost(job, word.error)
            stillborn += not (worker.ready or word.gone)
            if stillborn > max(DEATHS, self._workers):
                raise Stillborn(f"{stillborn} workers died before they had a job. The last one: {word.error}")
            return stillborn
        assert job is not None, "a worker without a job reports nothing"
        if not word.final:
            goes_on = workload.report(job, word)
            worker.answer(goes_on)
            if goes_on:
                return stillborn
        worker.job = None
        workload.finish(job, word)
        return stillborn
