"""Jobs in this process, one after the other."""

from __future__ import annotations

from contextlib import closing

from nas.chance import alone
from nas.executors.base import Executor, JobT, MakeRunner, ReportT, Runner, Workload
from nas.executors.worker import ready, reports


class InlineExecutor(Executor[JobT, ReportT]):
    """Runs jobs in this process: for tests, debugging, and evaluators that only look something up.

    Of several in threads of one process, one runs a job at a time: trainings draw from the same generators.
    """

    def __init__(self, make: MakeRunner[JobT, ReportT]) -> None:
        self._make = make

    def run(self, workload: Workload[JobT, ReportT]) -> None:
        """Run every job, in the order given."""
        if workload.done:
            return
        with alone(workload.tick):  # a runner may train to be warm
            runner = ready(lambda: self._make)
        while True:
            with alone(workload.tick):
                if (job := workload.next()) is None:
                    return
                last = _last(runner, job, workload)
            workload.finish(job, last)
            workload.tick()


def _last(runner: Runner[JobT, ReportT], job: JobT, workload: Workload[JobT, ReportT]) -> ReportT:
    """Run a job; return its final report, or that after which it should not go on."""
    with closing(reports(runner, job)) as running:
        while not (report := next(running)).final and workload.report(job, report):
            workload.tick()
    return report
