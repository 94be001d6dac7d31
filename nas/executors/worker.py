"""The inside of a worker: one warm evaluator, and failures turned into outcomes."""

from __future__ import annotations

import time
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
        start = time.perf_counter()

        def end(state: State, error: str) -> Outcome:
            return Outcome(state, job.architecture, seconds=time.perf_counter() - start, error=error)

        try:
            if self._evaluator is None:
                self._evaluator = self._config.make_evaluator(self._config.make_space(), self._tasks)
            for outcome in self._evaluator.evaluate(job):
                yield outcome
                if outcome.state.final:
                    return
            yield end(
                State.FAILED, f"The evaluator '{self._config.evaluator['name']}' gave no final outcome."
            )
        except Infeasible as error:
            yield end(State.INFEASIBLE, str(error))
        except NasError as error:
            yield end(State.FAILED, f"{type(error).__name__}: {error}")
        except Exception as error:  # whatever plugin code raises must cost one trial, not the search
            where = "".join(traceback.format_exception(error)[-6:])
            yield end(State.FAILED, f"{type(error).__name__}: {error}\n{where}")
        finally:
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()
