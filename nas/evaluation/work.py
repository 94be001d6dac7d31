"""What a worker does for one evaluation: train with early stopping, then score once on test tasks."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.checkpoint import Checkpoint
from nas.controller import Measurement
from nas.errors import Diverged, Infeasible, NasError
from nas.evaluation.artifacts import store_weights
from nas.evaluation.config import EvaluationConfig
from nas.evaluation.results import NOT_FINITE
from nas.evaluation.selection import Selection
from nas.learners.base import remedy
from nas.scoring import lenient_scores, not_finite, score, summary
from nas.storage.evaluations import Trained
from nas.storage.schema import EvaluationState
from nas.tasks.base import TaskSource
from nas.training import start

REPORT_SECONDS = 1.0
CHECKPOINT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Job:
    """One evaluation to run.

    Attributes:
        id: of its row in the database.
        name: of its files: the same for the same settings, architecture and seed.
        config: space, tasks, learner, budget and precision.
        architecture: text of the space.
        seed: of the weights and of the training episodes.
        folder: of checkpoints and weights.
    """

    id: int
    name: str
    config: EvaluationConfig
    architecture: str
    seed: int
    folder: Path


@dataclass(frozen=True, slots=True)
class Progress:
    """Training episodes so far."""

    done: int


@dataclass(frozen=True, slots=True)
class Curve:
    """What was measured at a validation, or, when a training is continued, at all those before."""

    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class Scoring:
    """Training is over; the test episodes, so many, are being scored."""

    episodes: int


@dataclass(frozen=True, slots=True)
class Lost:
    """In so many test episodes a prediction was not finite, and its query counted as answered wrongly."""

    measurements: tuple[Measurement, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The evaluation ended without a result: `failed` or `infeasible`, and why."""

    state: EvaluationState
    error: str


Report = Progress | Curve | Scoring | Lost | Trained | Failure
"""A job's reports end with `Trained` or `Failure`."""


def reports(job: Job, make_tasks: Callable[[Job], TaskSource]) -> Iterator[Report]:
    """Run a job, from its checkpoint if it has one; whatever goes wrong is the last report, a `Failure`."""
    try:
        yield from _Run(job, make_tasks(job)).reports()
    except Infeasible as error:
        yield Failure(EvaluationState.INFEASIBLE, str(error))
    except NasError as error:
        yield Failure(EvaluationState.FAILED, f"{type(error).__name__}: {error}")
    except Exception as error:  # whatever plugin code raises must cost this evaluation alone
        where = "".join(traceback.format_exception(error)[-6:])
        yield Failure(EvaluationState.FAILED, f"{type(error).__name__}: {error}\n{where}")


class _Run:
    """One job on its way: what a checkpoint holds, and the time it took."""

    def __init__(self, job: Job, tasks: TaskSource) -> None:
        self._began = self._saved = self._reported = time.monotonic()
        self._job, self._tasks, self._space = job, tasks, job.config.make_space()
        self._architecture = self._space.decode(job.architecture)
        self._cost = self._space.cost(self._architecture, tasks.shape)
        self._checkpoint = Checkpoint(job.folder, job.name)
        self._fresh()
        saved = self._checkpoint.load()
        if saved is not None:
            try:
                self._restore(saved)
            except (KeyError, TypeError, ValueError, RuntimeError):  # of a plugin that has changed since
                self._fresh()

    def _fresh(self) -> None:
        config = self._job.config
        self._training = start(
            self._space,
            self._architecture,
            self._tasks,
            config.make_learner,
            config.precision,
            config.budget.train_episodes,
            self._job.seed,
        )
        self._selection = Selection(config.budget.patience)
        self._losses: list[float] = []
        self._before = 0.0

    def reports(self) -> Iterator[Report]:
        """Train to the budget or until validation stands still, then score the best weights on test tasks."""
        if self._selection.curve:
            yield Curve(self._selection.curve)
        try:
            yield from self._train()
        except Diverged:
            self._checkpoint.remove()  # from there it would diverge again
            raise
        yield from self._test()

    def _train(self) -> Iterator[Report]:
        training, selection, budget = self._training, self._selection, self._job.config.budget
        for mark in budget.validations():
            if mark <= selection.validated:
                continue
            if selection.over:
                return
            for loss in training.until(mark):
                self._losses.append(loss)
                if time.monotonic() - self._reported > REPORT_SECONDS:
                    self._reported = time.monotonic()
                    yield Progress(training.done)
                if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
                    self._save()
            measured = score(
                training.learner, self._tasks, "validation", budget.validation_episodes, training.arithmetic
            )
            weights = training.state()["learner"]
            curve = selection.observe(training.done, self._losses, measured, weights)
            self._losses = []
            self._save()  # before the driver hears of it: it may end this process then
            yield Curve(curve)

    def _test(self) -> Iterator[Report]:
        training, selection = self._training, self._selection
        assert selection.score is not None, "the last validation is at the end of the budget"
        training.learner.load_state_dict(selection.weights)
        episodes = self._job.config.budget.test_episodes
        yield Scoring(episodes)
        scores, lost = lenient_scores(training.learner, self._tasks, "test", episodes, training.arithmetic)
        if lost:
            yield self._lost(scores, lost)
        yield Trained(
            validation=selection.score,
            test=summary(training.learner, self._tasks, "test", scores),
            scores=tuple(scores),
            parameters=self._cost.parameters,
            macs=self._cost.macs,
            seconds=self._seconds,
            best_episodes=selection.episodes,
            train_episodes=training.done,
            weights=store_weights(self._job.folder, self._job.name, selection.weights),
        )

    def _lost(self, scores: Sequence[float], lost: Sequence[int]) -> Lost:
        """Return what to say of test episodes with predictions that are not finite.

        Raises:
            Diverged: they have no score.
        """
        what, remedy_ = not_finite("test", lost, len(scores)), remedy(self._training.learner)
        if not all(map(math.isfinite, scores)):
            raise Diverged(f"{what} In regression such an error has no mean. {remedy_}")
        count = Measurement(self._selection.episodes, NOT_FINITE, len(lost))
        return Lost((count,), f"{what} Their queries count as answered wrongly. {remedy_}")

    @property
    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    def _save(self) -> None:
        state = {
            "training": self._training.state(),
            "selection": self._selection.state(),
            "losses": list(self._losses),
            "seconds": self._seconds,
        }
        self._checkpoint.save(state)
        self._saved = time.monotonic()

    def _restore(self, saved: Mapping[str, Any]) -> None:
        self._training.restore(saved["training"])
        self._selection.restore(saved["selection"])
        self._losses, self._before = saved["losses"], saved["seconds"]
