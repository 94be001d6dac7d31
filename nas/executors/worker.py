"""The inside of a worker: one warm evaluator, and failures turned into outcomes."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import torch

from nas.config import SearchConfig
from nas.controller import Outcome, State
from nas.errors import Infeasible, NasError
from nas.evaluator import Evaluator, Job
from nas.tasks.base import TaskSource


class Worker:
    """Runs jobs one after the other with the evaluator of one search; nothing that a job raises gets out."""

    def __init__(self, config: SearchConfig, tasks: TaskSource) -> None:
        torch.set_num_threads(config.resources.cpus)
        self._config, self._tasks = config, tasks
        self._evaluator: Evaluator | None = None

    def run(self, job: Job) -> Iterator[Outcome]:
        """Yield the job's outcomes, the last one final."""
        try:
            if self._evaluator is None:
                self._evaluator = self._config.make_evaluator(self._config.make_space(), self._tasks)
            yield from self._evaluator.evaluate(job)
        except Infeasible as error:
            yield Outcome(State.INFEASIBLE, job.architecture, error=str(error))
        except NasError as error:
            yield Outcome(State.FAILED, job.architecture, error=f"{type(error).__name__}: {error}")
        except Exception as error:  # whatever plugin code raises must cost one trial, not the search
            where = "".join(traceback.format_exception(error)[-6:])
            yield Outcome(State.FAILED, job.architecture, error=f"{type(error).__name__}: {error}\n{where}")
        finally:
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()
