"""Jobs in this process, one after the other."""

from __future__ import annotations

from contextlib import closing

from nas.chance import ALONE
from nas.executors.base import Executor, JobT, MakeRunner, ReportT, Workload
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
        with ALONE:  # a runner may train to be warm
            runner = ready(lambda: self._make)
        while (job := workload.next()) is not None:
            with ALONE, closing(reports(runner, job)) as running:
                for report in running:
                    if report.final or not workload.report(job, report):
                        workload.finish(job, report)
                        break
                    workload.tick()
            workload.tick()
