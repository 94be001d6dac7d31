"""From a job to its outcome: what a worker runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from nas.backbone import BackboneSpace
from nas.controller import Evaluate, Outcome, TrainSupernet
from nas.errors import ConfigError
from nas.learners.base import Learner
from nas.precision import Precision
from nas.product import candidate_of
from nas.space import Architecture, Space, TaskShape
from nas.tasks.base import ScoreSource, TaskSource


class Budget(BaseModel):
    """What one evaluation may spend."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_episodes: Annotated[int, Field(ge=1, lt=2**31, description="training tasks of a trial")] = 300
    validation_episodes: Annotated[int, Field(ge=2, lt=2**31, description="tasks behind a score")] = 200
    score_at: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Field(description="training tasks after which a trial is scored, too: its learning curve"),
    ] = ()

    @model_validator(mode="after")
    def _scored_on_the_way(self) -> Self:
        late = [mark for mark in self.score_at if mark >= self.train_episodes]
        if late:
            raise ConfigError(
                f"budget.score_at: {late[0]} is not below budget.train_episodes={self.train_episodes}. "
                "Leave it out: a trial is scored at its end in any case."
            )
        return self


class Ancestor(NamedTuple):
    """A part of a training that others go on from.

    Attributes:
        architecture: what was trained, of the search's space.
        episodes: training episodes at its end.
        name: of its checkpoint.
    """

    architecture: Architecture
    episodes: int
    name: str


@dataclass(frozen=True, slots=True)
class Job:
    """One evaluation to run.

    Attributes:
        number: the trial's number in its search.
        attempt: 0, or how often it was tried before.
        architecture: what to evaluate, of the search's space.
        seed: of the weights and of the training episodes.
        repeat: which of the architecture's seeds that is.
        episodes: to train on; None: as many as the budget says.
        name: of its checkpoint, which trainings of other lengths have too.
        folder: of the checkpoint, for longer trainings to go on from shorter ones; None to have none.
        log: file of what its worker prints; None: it prints where it would.
        part: whether it is a part of a training of the whole budget, up to `episodes`.
        parent: number of the trial that it goes on from; None: it begins anew.
        lineage: the parts before, the first one first; empty: it begins anew.
    """

    number: int
    attempt: int
    architecture: Architecture
    seed: int
    repeat: int = 0
    episodes: int | None = None
    name: str = ""
    folder: str | None = None
    log: str | None = None
    part: bool = False
    parent: int | None = None
    lineage: tuple[Ancestor, ...] = ()

    @property
    def evaluation(self) -> Evaluate:
        """What was proposed."""
        return Evaluate(self.architecture, self.repeat, self.episodes, self.parent)


@dataclass(frozen=True, slots=True)
class SupernetJob:
    """One supernet to train.

    Attributes:
        number, attempt, seed: as of a `Job`; the seed is of all that is random.
        supernet: what was proposed.
        name: of its checkpoint: another for other settings.
        folder: of the checkpoint, to save each epoch to and to continue from; None to save nothing.
        log: file of what its worker prints; None: it prints where it would.
        sample: what to score with the shared weights once they are trained, apart from what is derived.
        memory: bytes that the training takes; None: the worker measures them.
    """

    number: int
    attempt: int
    supernet: TrainSupernet
    seed: int
    name: str = ""
    folder: str | None = None
    log: str | None = None
    sample: tuple[Architecture, ...] = ()
    memory: int | None = None


AnyJob: TypeAlias = Job | SupernetJob


MakeLearner: TypeAlias = Callable[[nn.Module, TaskShape], Learner]
"""From a backbone and a shape to a learner."""

Chosen: TypeAlias = Mapping[str, Mapping[str, Any]]
"""What a candidate chose for settings of sections, by section."""


class Leg(NamedTuple):
    """A part of a training under settings of its own.

    Attributes:
        episodes: its length; the spans of a training are stretched or shortened to its budget.
        settings: those that differ, by section.
    """

    episodes: int
    settings: Chosen


def ends(spans: Sequence[Leg], whole: int) -> list[int]:
    """Return the training episodes at the end of each span of a training that has so many."""
    total = sum(span.episodes for span in spans)
    return [done * whole // total for done in accumulate(span.episodes for span in spans)]


@dataclass(frozen=True, slots=True)
class Trainee:
    """What the training of one candidate takes.

    Attributes:
        space: builds the backbone.
        architecture: of the backbone.
        tasks: samples the episodes.
        learner: from a backbone and a shape to a learner.
    """

    space: BackboneSpace
    architecture: Architecture
    tasks: TaskSource
    learner: MakeLearner


@dataclass(frozen=True, slots=True)
class Context:
    """What every job of a search shares.

    Attributes:
        space: of what is evaluated: of backbones, or of these and settings side by side.
        tasks: samples the episodes, where a candidate does not choose otherwise.
        learner: from a backbone and a shape to a learner, where a candidate does not choose otherwise.
        budget: of one evaluation.
        rungs: training episodes at which a score is wanted, ascending, below the budget.
        precision: of the arithmetic in forward and backward passes.
        seconds: after which the training of a supernet ends with its epoch; None: no limit.
        vary: returns tasks and learner under other settings, such as a candidate chose; None: there are none.
        spans: what a training goes through; none: its settings stay.
    """

    space: Space[Any]
    tasks: TaskSource
    learner: MakeLearner
    budget: Budget
    rungs: Sequence[int] = ()
    precision: Precision = "auto"
    seconds: float | None = None
    vary: Callable[[Chosen], tuple[TaskSource, MakeLearner]] | None = None
    spans: Sequence[Leg] = ()

    def trainee(self, architecture: Architecture, span: Leg | None = None) -> Trainee:
        """Return what an architecture of the space means for a training, or for a span of it."""
        space, network, settings = candidate_of(self.space, architecture)
        if span is not None:
            both = {**settings, **span.settings}
            settings = {slot: {**settings.get(slot, {}), **span.settings.get(slot, {})} for slot in both}
        tasks, learner = self.vary(settings) if self.vary else (self.tasks, self.learner)
        return Trainee(space, network, tasks, learner)

    def networks(self) -> Context:
        """Return the context of a search that chooses networks alone: all else is at its default."""
        default = self.trainee(self.space.default)
        return replace(self, space=default.space, tasks=default.tasks, learner=default.learner, vary=None)


@dataclass(frozen=True, slots=True)
class LookupContext:
    """What every job of a search shares whose scores are looked up.

    Attributes:
        space: of what is evaluated.
        source: what the evaluator's `source` returned.
        rungs: training lengths at which a score is wanted, ascending, below the whole.
    """

    space: Space[Any]
    source: ScoreSource
    rungs: Sequence[int] = ()


class Evaluator(ABC):
    """Turns jobs into outcomes. Warm: one instance runs many jobs, none of which leaves a trace in the next.

    A concrete evaluator takes `(context, *, settings...)`: its keyword-only arguments are its settings.
    """

    @abstractmethod
    def __init__(self, context: Context) -> None: ...

    def warm(self) -> None:  # noqa: B027  (most have nothing to do)
        """Do what takes long once, before the first job, so that no trial is billed for it."""

    @abstractmethod
    def evaluate(self, job: Job) -> Iterator[Outcome]:
        """Yield what is known so far (state `running`), with a score at each rung; last, a final outcome.

        Each report carries only the measurements taken since the one before.

        Raises:
            Infeasible: the architecture has no network for the tasks.
            Diverged: a loss or a prediction is not finite.
        """


class Lookup(Evaluator):
    """An evaluator that trains nothing: its searches have neither `tasks` nor `learner`.

    A concrete lookup takes `(context, *, settings...)`, as any evaluator, with a context of its own.

    Attributes:
        repeats: whether it has scores of further seeds, for jobs with a `repeat`.
    """

    repeats: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, context: LookupContext) -> None: ...

    @classmethod
    @abstractmethod
    def source(cls, space: BackboneSpace, **settings: Any) -> ScoreSource:
        """Return what stands where others have tasks: a label and a fingerprint, nothing to sample."""

    @classmethod
    def lengths(cls, **settings: Any) -> tuple[int, ...]:
        """Return the training lengths whose scores can be looked up, ascending, the whole training last.

        They are in the unit of whoever measured, such as epochs. None: only the score of a whole training.
        """
        return ()

    @classmethod
    def told(cls, **settings: Any) -> tuple[str, ...]:
        """Return which costs of networks its source knows and outcomes have, by names of `nas.costs.OWN`."""
        return ()
