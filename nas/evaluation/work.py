"""What a worker does for one evaluation: train with early stopping, then score once on test tasks."""

from __future__ import annotations

import functools
import hashlib
import math
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from nas import plugins
from nas.controller import Measurement
from nas.errors import Diverged, Unwritable
from nas.evaluation.artifacts import store_weights
from nas.evaluation.selection import Selection
from nas.evaluator import Leg, Trainee, ends
from nas.executors.base import Runner
from nas.executors.output import log_of, of_evaluations
from nas.learners.base import Learner, remedy
from nas.learners.schedule import constant
from nas.queries.results import NOT_FINITE
from nas.settings.evaluation import EvaluationConfig
from nas.states import EvaluationState, TrialState
from nas.storage.evaluations import Trained
from nas.tasks.base import TaskSource
from nas.training.checkpoint import VERSIONS, Checkpoint
from nas.training.latency import latencies
from nas.training.loop import Turn, start
from nas.training.scoring import lenient_scores, not_finite, score, summary

LINEAGES = "lineages"
"""The folder of what trainings of any length pass through; it is kept, for longer ones to go on from."""

REPORT_SECONDS = 1.0
CHECKPOINT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """One evaluation to run.

    Attributes:
        id: of its row in the database.
        name: of its files: the same for the same settings, architecture and seed.
        config: space, tasks, learner, budget and precision.
        architecture: text of the space.
        seed: of the weights and of the training episodes.
        folder: of checkpoints and weights.
        lineage: name of the file that trainings of another length pass through, too; None to have none.
        earlier: training episodes of a shorter training that is complete; 0 if there is none.
        attempt: 0, or how often it was tried before.
    """

    id: int
    name: str
    config: EvaluationConfig
    architecture: str
    seed: int
    folder: Path
    lineage: str | None = None
    earlier: int = 0
    attempt: int = 0


class Interim:
    """A report that others follow."""

    __slots__ = ()
    final: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Begin(Interim):
    """Where a training begins that a shorter one was before.

    Attributes:
        done: its training episodes already, those of the shorter one; 0 if it begins anew.
        earlier: training episodes of the shorter one at most.
        reason: why it begins anew.
    """

    done: int
    earlier: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Progress(Interim):
    """Training episodes so far."""

    done: int


@dataclass(frozen=True, slots=True)
class Validated(Interim):
    """What was measured at a validation, or, when a training is continued, at all those before."""

    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class Scoring(Interim):
    """Training is over; the test episodes, so many, are being scored."""

    episodes: int


@dataclass(frozen=True, slots=True)
class Lost(Interim):
    """In so many test episodes a prediction was not finite, and its query counted as answered wrongly."""

    measurements: tuple[Measurement, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The evaluation ended without a result: `failed` or `infeasible`, why, and on which machine."""

    final: ClassVar[bool] = True
    state: EvaluationState
    error: str
    node: str | None = None


Report = Begin | Progress | Validated | Scoring | Lost | Trained | Failure
"""A job's reports end with `Trained` or `Failure`."""


class Trainings(Runner[EvaluationJob, Report]):
    """Runs evaluations on one thread each: two trainings on a thread each beat one on two.

    Args:
        sources: task sources that are known, with their settings; others are read, and the last one kept.
        mark: a file that the driver left in the folder of all jobs, for workers that may not see it; None:
            they do.
    """

    def __init__(
        self, sources: Sequence[tuple[dict[str, Any], TaskSource]] = (), mark: Path | None = None
    ) -> None:
        torch.set_num_threads(1)
        self._known, self._mark = sources, mark
        self._held: list[tuple[dict[str, Any], TaskSource]] = []

    def run(self, job: EvaluationJob) -> Iterator[Report]:
        """Run a job, from its checkpoint if it has one.

        Raises:
            Unwritable: this machine does not see the folder of the job, or cannot write it.
        """
        if not self._sees_the_folder:
            raise Unwritable(
                f"The worker on host {socket.gethostname()} does not see {job.folder} as the driver "
                "does. Give a folder that all machines share under one path with --artifacts."
            )
        return _Run(job, self._tasks(job.config)).reports()

    def log(self, job: EvaluationJob) -> str | None:
        """Return its file among those of evaluations; None where this machine does not see the folder."""
        return log_of(of_evaluations(job.folder), job.name, job.attempt) if self._sees_the_folder else None

    @property
    def _sees_the_folder(self) -> bool:
        return self._mark is None or self._mark.is_file()

    def failure(self, job: EvaluationJob, state: TrialState, error: str) -> Failure:
        """Return why a job has no result."""
        return Failure(EvaluationState(state), error, socket.gethostname())

    def _tasks(self, config: EvaluationConfig) -> TaskSource:
        for settings, source in (*self._known, *self._held):
            if settings == config.tasks:
                return source
        self._held = [(config.tasks, config.make_tasks())]
        return self._held[0][1]


class _Run:
    """One job on its way: what a checkpoint holds, and the time it took."""

    def __init__(self, job: EvaluationJob, tasks: TaskSource) -> None:
        self._began = self._saved = self._reported = time.monotonic()
        self._job, self._tasks, self._space = job, tasks, job.config.make_space()
        self._architecture = self._space.decode(job.architecture)
        trainee = Trainee(self._space, self._architecture, tasks, job.config.make_learner)
        counted = self._space.cost(self._architecture, tasks.shape)._asdict()
        self._costs = counted | latencies(trainee, job.config.precision)
        self._checkpoint = Checkpoint(job.folder, job.name)
        self._fresh()
        shared = job.lineage is not None and self._lasts
        self._lineage = Checkpoint(job.folder, str(job.lineage), LINEAGES) if shared else None
        self._made_by = {**VERSIONS, "code": code(job.config)}
        self._begin: Begin | None = None
        saved = self._checkpoint.load() or self._of_shorter()
        if saved is not None:
            try:
                self._restore(saved)
            except (KeyError, TypeError, ValueError, RuntimeError):  # of a plugin that has changed since
                self._fresh()

    @property
    def _lasts(self) -> bool:
        """Whether a step is the same however long the training is to be."""
        return constant(self._training.learner.decay) and not self._job.config.spans

    def _of_shorter(self) -> dict[str, Any] | None:
        """Return what a shorter training of the same kind left, if this one passes through it."""
        budget, earlier = self._job.config.budget.train_episodes, self._job.earlier
        saved = self._lineage.load(self._made_by) if self._lineage else None
        if saved is not None and saved["training"]["done"] <= budget:
            self._begin = Begin(saved["training"]["done"], earlier)
            return saved
        if earlier:
            reason = (
                "what it passed through is gone, or was made by other code or other versions"
                if self._lasts
                else "its learning rate or its phases go by the whole length, so no step is the same"
            )
            self._begin = Begin(0, earlier, reason)
        return None

    def _fresh(self) -> None:
        config = self._job.config
        budget, spans = config.budget.train_episodes, config.spans
        first = config.at(spans[0]) if spans else config
        marks = ends(spans, budget)[:-1]
        turns = [Turn(at, partial(self._begun, span)) for at, span in zip(marks, spans[1:], strict=True)]
        self._last_turn = marks[-1] if marks else 0
        self._training = start(
            self._space,
            self._architecture,
            self._source(first),
            first.make_learner,
            config.precision,
            budget,
            self._job.seed,
            turns,
        )
        self._selection = Selection(config.budget.patience)
        self._losses: list[float] = []
        self._before = 0.0

    def _begun(self, span: Leg) -> tuple[Learner, TaskSource]:
        config = self._job.config.at(span)
        shape = self._tasks.shape
        return config.make_learner(self._space.build(self._architecture, shape), shape), self._source(config)

    def _source(self, config: EvaluationConfig) -> TaskSource:
        return self._tasks if config.tasks == self._job.config.tasks else config.make_tasks()

    def reports(self) -> Iterator[Report]:
        """Train to the budget or until validation stands still, then score the best weights on test tasks."""
        if self._begin is not None:
            yield self._begin
        if self._selection.curve:
            yield Validated(self._selection.curve)
        try:
            yield from self._train()
        except Diverged:
            self._checkpoint.remove()  # from there it would diverge again
            raise
        yield from self._test()

    def _train(self) -> Iterator[Report]:
        training, selection, budget = self._training, self._selection, self._job.config.budget
        for mark in budget.validations():
            if mark <= max(selection.validated, self._last_turn):  # phases are gone through to the last one
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
            told = training.learner.measurements()
            curve = selection.observe(training.done, self._losses, measured, weights, told)
            self._losses = []
            self._save()  # before the driver hears of it: it may end this process then
            if self._lineage and mark % budget.validate_every == 0 and self._whole_steps:
                self._lineage.save(self._state(), self._made_by)
            yield Validated(curve)

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
            costs=self._costs,
            seconds=self._seconds,
            best_episodes=selection.episodes,
            train_episodes=training.done,
            weights=store_weights(self._job.folder, self._job.name, selection.weights),
            node=socket.gethostname(),
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

    @property
    def _whole_steps(self) -> bool:
        """Whether no step was cut short by the budget."""
        return self._training.done % self._training.learner.meta_batch == 0

    def _save(self) -> None:
        self._checkpoint.save(self._state())
        self._saved = time.monotonic()

    def _state(self) -> dict[str, Any]:
        return {
            "training": self._training.state(),
            "selection": self._selection.state(),
            "losses": list(self._losses),
            "seconds": self._seconds,
        }

    def _restore(self, saved: Mapping[str, Any]) -> None:
        self._training.restore(saved["training"])
        self._selection.restore(saved["selection"])
        self._losses, self._before = saved["losses"], saved["seconds"]


def code(config: EvaluationConfig) -> str:
    """Return a hash of the sources of nas and of the packages that the plugins of a configuration come from.

    It is kept with a result (`environment.code`), and is no part of what identifies it: otherwise a changed
    comment would have everything trained again.
    """
    sections = {"space": config.space, "tasks": config.tasks, "learner": config.learner}
    classes = [cls for kind, section in sections.items() for cls in plugins.classes(kind, section)]
    packages = {"nas", *(cls.__module__.partition(".")[0] for cls in classes)}
    return hashlib.sha256("".join(map(_of_package, sorted(packages))).encode()).hexdigest()[:16]


@functools.cache
def _of_package(name: str) -> str:
    module = sys.modules[name]
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    if not folders and getattr(module, "__file__", None):
        files = [Path(str(module.__file__))]
    digest = hashlib.sha256(name.encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
