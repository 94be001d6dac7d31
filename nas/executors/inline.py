"""Trials in this process, one after the other."""

from __future__ import annotations

from dataclasses import replace

from nas.controller import State
from nas.executors.base import Executor, Workload
from nas.executors.worker import Worker
from nas.settings.search import SearchConfig
from nas.tasks.base import TaskSource


class InlineExecutor(Executor):
    """Runs trials in this process: for tests, debugging, and evaluators that only look something up."""

    def __init__(self, config: SearchConfig, tasks: TaskSource) -> None:
        self._worker = Worker(config, tasks)

    def run(self, workload: Workload) -> None:
        """Run every job, in the order given."""
        while (job := workload.next()) is not None:
            for outcome in self._worker.run(job):
                if outcome.state.final:
                    workload.finish(job, outcome)
                elif not workload.report(job, outcome):
                    workload.finish(job, replace(outcome, state=State.STOPPED, measurements=()))
                    break
                workload.tick()
