"""The inside of a search's worker: one warm evaluator, which trials and supernets share."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from nas.controller import Outcome
from nas.evaluator import AnyJob, Context, Evaluator, Job, SupernetJob
from nas.executors import make_executor
from nas.executors.base import Executor, Runner
from nas.settings.search import SearchConfig
from nas.states import TrialState
from nas.tasks.base import ScoreSource, TaskSource
from nas.training.oneshot.epochs import train_supernet


class Trials(Runner[AnyJob, Outcome]):
    """Runs the jobs of one search.

    Args:
        config: of the search.
        tasks: what the configuration names; None: it is read when the runner is warmed.
    """

    def __init__(self, config: SearchConfig, tasks: ScoreSource | None = None) -> None:
        torch.set_num_threads(config.resources.cpus)
        self._config, self._tasks = config, tasks
        self._context: Context | None = None
        self._evaluator: Evaluator | None = None
        self._began = self._before = 0.0
        self._scored: Outcome | None = None
        self._node = socket.gethostname()

    def warm(self) -> None:
        """Read the tasks, if they are not given, and make the evaluator ready; a second time, do nothing."""
        if self._evaluator is not None:
            return
        tasks, space = self._tasks or self._config.make_source(), self._config.make_space()
        if isinstance(tasks, TaskSource):
            self._context = self._config.make_context(space, tasks)
            self._evaluator = self._config.make_evaluator(self._context)
        else:
            self._evaluator = self._config.make_lookup(space, tasks)
        self._evaluator.warm()

    def log(self, job: AnyJob) -> str | None:
        """Return the file that the job names."""
        return job.log

    def limit(self, job: AnyJob) -> float | None:
        """Return `resources.seconds`; a supernet looks at it itself, and ends with its epoch."""
        return self._config.resources.seconds if isinstance(job, Job) else None

    def run(self, job: AnyJob) -> Iterator[Outcome]:
        """Yield the job's outcomes, the last one final."""
        self._began, self._before, self._scored = time.perf_counter(), 0.0, None
        return self._noted(job)

    def failure(self, job: AnyJob, state: TrialState, error: str) -> Outcome:
        """Return the outcome of a job that raised; one that was late has its last score, or has failed."""
        seconds = self._before + time.perf_counter() - self._began
        if state is TrialState.STOPPED and self._scored is not None:
            return replace(self._scored, state=state, measurements=(), seconds=seconds, error=error)
        state = TrialState.INFEASIBLE if state is TrialState.INFEASIBLE else TrialState.FAILED
        architecture = job.architecture if isinstance(job, Job) else None
        return Outcome(state, architecture, seconds=seconds, error=error, node=self._node)

    def _noted(self, job: AnyJob) -> Iterator[Outcome]:
        for found in self._outcomes(job):
            outcome = replace(found, node=self._node)
            if isinstance(job, SupernetJob):  # it may go on from a checkpoint, and counts on from there
                self._began, self._before = time.perf_counter(), outcome.seconds
            if outcome.score is not None:
                self._scored = outcome
            yield outcome

    def _outcomes(self, job: AnyJob) -> Iterator[Outcome]:
        if self._evaluator is None:
            self.warm()
            self._began = time.perf_counter()  # making a worker ready is no trial's time
        if isinstance(job, SupernetJob):
            assert self._context is not None, "a search that looks scores up trains no supernet"
            return train_supernet(self._context, job)
        assert self._evaluator is not None
        return self._evaluator.evaluate(job)


def executor(
    config: SearchConfig,
    tasks: ScoreSource,
    address: str | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> Executor[AnyJob, Outcome]:
    """Return the executor that the configuration of a search names.

    Args:
        config: of the search.
        tasks: what it names. Processes of this machine read them again; other workers are given these.
        address: of a Ray cluster; None: that of RAY_ADDRESS, or a Ray started here.
        say: told if no worker gets ready for long.
    """
    return make_executor(
        config.executor,
        partial(Trials, config, None if config.executor == "process" else tasks),
        workers=config.workers,
        demand=config.resources.demand,
        address=address,
        say=say,
    )
