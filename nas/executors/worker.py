"""The inside of a worker: one warm evaluator, and failures turned into outcomes."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from dataclasses import replace

import torch

from nas.controller import Outcome, State
from nas.errors import Infeasible, NasError, Unwritable
from nas.evaluator import AnyJob, Context, Evaluator, Job, SupernetJob
from nas.executors.limit import Overtime, limited
from nas.settings.search import SearchConfig
from nas.tasks.base import TaskSource
from nas.training.oneshot.epochs import train_supernet


class Worker:
    """Runs jobs one after the other with the evaluator of one search.

    Nothing that a job raises gets out, but for what no job is to blame for: a disk that cannot be written.
    """

    def __init__(self, config: SearchConfig, tasks: TaskSource) -> None:
        torch.set_num_threads(config.resources.cpus)
        self._config, self._tasks = config, tasks
        self._context: Context | None = None
        self._evaluator: Evaluator | None = None

    def run(self, job: AnyJob) -> Iterator[Outcome]:
        """Yield the job's outcomes, the last one final.

        Raises:
            Unwritable: the job cannot write its files; it has no outcome, and can be run again.
        """
        start, before = time.perf_counter(), 0.0

        def end(state: State, error: str) -> Outcome:
            architecture = job.architecture if isinstance(job, Job) else None
            return Outcome(state, architecture, seconds=before + time.perf_counter() - start, error=error)

        limit = self._config.resources.seconds if isinstance(job, Job) else None
        scored: Outcome | None = None
        try:
            outcomes = self._outcomes(job)
            while True:
                with limited(limit and limit + start - time.perf_counter()):
                    outcome = next(outcomes, None)
                if outcome is None:
                    break
                if isinstance(job, SupernetJob):  # it may go on from a checkpoint, and counts on from there
                    start, before = time.perf_counter(), outcome.seconds
                yield outcome
                if outcome.state.final:
                    return
                scored = outcome if outcome.score is not None else scored
            who = f"evaluator '{self._config.evaluator['name']}'" if isinstance(job, Job) else "supernet"
            yield end(State.FAILED, f"The {who} gave no final outcome.")
        except Overtime:
            words = f"It took longer than resources.seconds = {limit:g} s."
            failed = end(State.FAILED, words)
            if scored is None:
                yield failed
            else:
                stopped = replace(scored, state=State.STOPPED, measurements=())
                yield replace(stopped, seconds=failed.seconds, error=words)
        except Infeasible as error:
            yield end(State.INFEASIBLE, str(error))
        except Unwritable:
            raise
        except NasError as error:
            yield end(State.FAILED, f"{type(error).__name__}: {error}")
        except Exception as error:  # whatever plugin code raises must cost one trial, not the search
            where = "".join(traceback.format_exception(error)[-6:])
            yield end(State.FAILED, f"{type(error).__name__}: {error}\n{where}")
        finally:
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()

    def _outcomes(self, job: AnyJob) -> Iterator[Outcome]:
        if self._context is None:
            self._context = self._config.make_context(self._config.make_space(), self._tasks)
        if isinstance(job, SupernetJob):
            return train_supernet(self._context, job)
        if self._evaluator is None:
            self._evaluator = self._config.make_evaluator(self._context)
        return self._evaluator.evaluate(job)
