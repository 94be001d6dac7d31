"""From a job to its outcome: what a worker runs."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from nas.controller import Measurement, Outcome, Score, State, TrainSupernet
from nas.learners.base import Learner
from nas.precision import Precision
from nas.scoring import score
from nas.space import Architecture, SearchSpace, TaskShape
from nas.tasks.base import TaskSource
from nas.training import start

REPORTS = 10
"""How often a training run reports its loss, evenly spaced."""


class Budget(BaseModel):
    """What one evaluation may spend."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_episodes: Annotated[int, Field(ge=1, lt=2**31, description="training tasks of a trial")] = 300
    validation_episodes: Annotated[int, Field(ge=2, lt=2**31, description="tasks behind a score")] = 200


@dataclass(frozen=True, slots=True)
class Job:
    """One evaluation to run.

    Attributes:
        number: the trial's number in its search.
        attempt: 0, or how often it was tried before.
        architecture: what to evaluate.
        seed: of the weights and of the training episodes.
    """

    number: int
    attempt: int
    architecture: Architecture
    seed: int


@dataclass(frozen=True, slots=True)
class SupernetJob:
    """One supernet to train.

    Attributes:
        number, attempt, seed: as of a `Job`; the seed is of all that is random.
        supernet: what was proposed.
        name: of its checkpoint: another for other settings.
        folder: of the checkpoint, to save each epoch to and to continue from; None to save nothing.
        sample: what to score with the shared weights once they are trained, apart from what is derived.
    """

    number: int
    attempt: int
    supernet: TrainSupernet
    seed: int
    name: str = ""
    folder: str | None = None
    sample: tuple[Architecture, ...] = ()


AnyJob: TypeAlias = Job | SupernetJob


@dataclass(frozen=True, slots=True)
class Context:
    """What every job of a search shares.

    Attributes:
        space: builds the backbones.
        tasks: samples the episodes.
        learner: from a backbone and a shape to a learner.
        budget: of one evaluation.
        rungs: training episodes at which a scheduler wants a score, ascending, below the budget.
        precision: of the arithmetic in forward and backward passes.
        seconds: after which the training of a supernet ends with its epoch; None: no limit.
    """

    space: SearchSpace
    tasks: TaskSource
    learner: Callable[[nn.Module, TaskShape], Learner]
    budget: Budget
    rungs: Sequence[int] = ()
    precision: Precision = "auto"
    seconds: float | None = None


class Evaluator(ABC):
    """Turns jobs into outcomes. Warm: one instance runs many jobs, none of which leaves a trace in the next.

    A concrete evaluator takes `(context, *, settings...)`: its keyword-only arguments are its settings.
    """

    @abstractmethod
    def __init__(self, context: Context) -> None: ...

    @abstractmethod
    def evaluate(self, job: Job) -> Iterator[Outcome]:
        """Yield what is known so far (state `running`), with a score at each rung; last, a final outcome.

        Each report carries only the measurements taken since the one before.

        Raises:
            Infeasible: the architecture has no network for the tasks.
            Diverged: a loss or a prediction is not finite.
        """


class Lookup(Evaluator):
    """An evaluator that trains nothing: its searches have neither `tasks` nor `learner`."""

    @classmethod
    @abstractmethod
    def source(cls, space: SearchSpace, **settings: Any) -> TaskSource:
        """Return what stands where others have tasks: a label and a fingerprint, nothing to sample."""

    @classmethod
    def lengths(cls, **settings: Any) -> tuple[int, ...]:
        """Return the training lengths whose scores can be looked up, ascending, the whole training last.

        They are in the unit of whoever measured, such as epochs. None: only the score of a whole training.
        """
        return ()


class Train(Evaluator):
    """Meta-trains the architecture from scratch, then scores it on the fixed list of validation tasks."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def evaluate(self, job: Job) -> Iterator[Outcome]:
        """Train on `budget.train_episodes` tasks; reports the mean training loss ten times on the way."""
        context, shape = self._context, self._context.tasks.shape
        began = time.perf_counter()
        cost = context.space.cost(job.architecture, shape)

        def outcome(state: State, episodes: int, score: Score | None, *seen: Measurement) -> Outcome:
            seconds = time.perf_counter() - began
            return Outcome(
                state, job.architecture, score, episodes, seconds, cost.parameters, cost.macs, tuple(seen)
            )

        budget = context.budget
        training = start(
            context.space,
            job.architecture,
            context.tasks,
            context.learner,
            context.precision,
            budget.train_episodes,
            job.seed,
        )
        for mark in _marks(budget.train_episodes, context.rungs):
            before, losses = training.done, list(training.until(mark))
            done = training.done
            if done == before:
                continue
            loss = Measurement(done, "train_loss", float(np.mean(losses)))
            final = done == budget.train_episodes
            if final or any(before < rung <= done for rung in context.rungs):
                measured = score(
                    training.learner,
                    context.tasks,
                    "validation",
                    budget.validation_episodes,
                    training.arithmetic,
                )
                seen = (loss, Measurement(done, "score", measured.value))
                yield outcome(State.COMPLETED if final else State.RUNNING, done, measured, *seen)
            else:
                yield outcome(State.RUNNING, done, None, loss)


def _marks(budget: int, rungs: Sequence[int]) -> list[int]:
    """Return the training episodes after which to report, ascending: tenths of the budget and the rungs."""
    return sorted({budget * i // REPORTS for i in range(1, REPORTS + 1)} - {0} | set(rungs))
