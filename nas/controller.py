"""Who chooses: controllers propose jobs and observe their outcomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from nas.errors import Unsupported
from nas.objective import SCORE, Objective
from nas.space import Architecture, Space
from nas.states import TrialState


@dataclass(frozen=True, slots=True)
class Score:
    """A mean over evaluation episodes; higher is better (accuracy, or −MSE).

    Attributes:
        value: the mean.
        ci95: half width of its 95 % confidence interval over episodes (normal approximation);
            NaN where there is none.
        episodes: how many episodes it was measured on.
        split: which tasks, such as `omniglot/vinyals/validation`.
        classes: hash of the split's list of classes.
        normalization: how batch norm found its statistics.
    """

    value: float
    ci95: float
    episodes: int
    split: str = ""
    classes: str = ""
    normalization: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number seen along the way: `metric` after `step` training episodes."""

    step: int
    metric: str
    value: float


class Derived(NamedTuple):
    """An architecture that a supernet derived, and its score with the shared weights."""

    architecture: Architecture
    score: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of one trial, final or so far (`state` is `running`).

    Attributes:
        state: what became of it.
        architecture: what was evaluated; None where a supernet was trained.
        score: on validation tasks; None where there is none (yet), and for a supernet.
        train_episodes: training episodes behind the score; of a reused trial, behind the score it took over.
        seconds: worker time spent.
        costs: the backbone's, by the names of `nas.costs`; empty where they are not known.
        measurements: what was measured since the report before.
        error: why it failed or is infeasible, or why a supernet's training ended before its budget.
        reused: number of the trial whose score this is.
        derived: what a supernet derived, best first; so far, the one that it would derive now.
        repeat, episodes, parent: what was asked for, as of `Evaluate`.
        continued: training episodes that another training had done; their seconds are in its outcome.
        node: name of the machine that ran it, for those who watch; no controller learns of it.
    """

    state: TrialState
    architecture: Architecture | None
    score: Score | None = None
    train_episodes: int = 0
    seconds: float = 0.0
    costs: Mapping[str, float] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    error: str | None = None
    reused: int | None = None
    derived: tuple[Derived, ...] = ()
    repeat: int = 0
    episodes: int | None = None
    parent: int | None = None
    continued: int = 0
    node: str | None = field(default=None, compare=False)

    @property
    def values(self) -> dict[str, float]:
        """What an objective goes by: score and costs, as far as they are known.

        A reused trial took no time of its own, and has no `seconds`.
        """
        found = dict(self.costs)
        if self.state is not TrialState.REUSED:
            found["seconds"] = self.seconds
        return found if self.score is None else found | {SCORE: self.score.value}

    @property
    def final(self) -> bool:
        """Whether the trial is over."""
        return self.state.final


class SupernetBudget(BaseModel):
    """What the training of one supernet may spend: the setting `budget` of a one-shot controller."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: Annotated[
        int, Field(ge=1, lt=2**31, description="each is recorded, and saved to be continued")
    ] = 50
    steps: Annotated[int, Field(ge=1, lt=2**31, description="steps of an epoch")] = 20
    batch: Annotated[
        int | None,
        Field(ge=1, lt=2**31, description="training tasks of a batch; by default the learner's meta_batch"),
    ] = None
    validation_episodes: Annotated[
        int, Field(ge=2, lt=2**31, description="validation tasks behind a score with shared weights")
    ] = 50


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Train this architecture and score it.

    Under one search's seed an architecture has one score for each `repeat` and each length of training.

    Attributes:
        architecture: what to train.
        repeat: which of its seeds: 0 is the first, and 1, 2, … are further ones.
        episodes: how long, in training episodes, less than the search's budget; None: the whole budget. The
            trial is `paused` when these are done.
        parent: number of the trial that the training goes on from: in the state that it left, its training
            episodes included; None: it begins anew. Controllers whose `continues` is true propose it. Of
            another network, weights are taken over as far as they fit (`BackboneSpace.kinship`), and the
            trial is `paused` at its end: a score by inherited weights stands in no ranking.
    """

    architecture: Architecture
    repeat: int = 0
    episodes: int | None = None
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class Reuse:
    """Take the score that trial number `trial` of this search found for the same network."""

    architecture: Architecture
    trial: int


@dataclass(frozen=True, slots=True)
class Reject:
    """Record the architecture as infeasible without spending a worker; else as of `Evaluate`."""

    architecture: Architecture
    reason: str
    repeat: int = 0
    episodes: int | None = None
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class TrainSupernet:
    """Train the space's supernet, and derive architectures from it.

    Attributes:
        strategy: how, by the registered name of its controller or as `module:Class`.
        settings: the strategy's own; what is left out takes its default.
        derive: how many architectures.
        budget: of the training.
        whole: whether the search ends with what is derived; otherwise it goes on to its number of trials.
    """

    strategy: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    derive: int = 1
    budget: SupernetBudget = field(default_factory=SupernetBudget)
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Finish:
    """Propose nothing more, whatever is still to come: the search ends with what runs now."""


Proposal = Evaluate | Reuse | Reject | TrainSupernet | Finish


@dataclass(frozen=True, slots=True)
class Inherited:
    """What an earlier search found of an architecture: its place among what that search tried.

    Scores of another task or another budget do not compare with this search's own, and so are not told.

    Attributes:
        architecture: of this search's space.
        share: of the networks of the earlier search, the share that it outranked, itself among them and ties
            counting half; in (0, 1), more for better.
        origin: name of the earlier search.
    """

    architecture: Architecture
    share: float
    origin: str


class Controller(ABC):
    """Proposes architectures and learns from their outcomes.

    A concrete controller takes `(space, seed, *, settings...)`: its keyword-only arguments are its settings.
    A proposal is a pure function of the seed, the number and the history: `propose` changes nothing and draws
    only from the generator it is given; all learning happens in `observe`, which is called in the order in
    which the database recorded the outcomes. A search resumes by observing that record again.

    Attributes:
        one_shot: whether trial 0 trains a supernet, and the setting `derive` tells how many architectures of
            it are evaluated.
        given: the setting that lists what is evaluated; None: the controller chooses.
        continues: whether its trials are parts of trainings of the whole budget, each of which goes on from
            another: an `Evaluate` then says up to where with `episodes`, and from whom with `parent`.
    """

    one_shot: ClassVar[bool] = False
    given: ClassVar[str | None] = None
    continues: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, space: Space[object], seed: int) -> None: ...

    def aim(self, objective: Objective) -> None:
        """Take up what the search makes better; called once, before all else.

        By default that is the score, and nothing else will do. A controller that can do more replaces this.

        Raises:
            Unsupported: this controller does not make that better.
        """
        if objective != Objective():
            raise Unsupported(
                f"objective: {objective}; the controller {type(self).__name__} makes the score alone better. "
                "Choose one that makes others better too, such as 'nsga2', 'evolution' or 'random', or leave "
                "the objective out."
            )

    def inherit(self, outcomes: Sequence[Inherited]) -> None:  # noqa: B027
        """Take up what earlier searches found; called once, before the first trial, after `aim`.

        Whatever a controller makes of it, the first trials of the search are the best of these networks,
        trained anew (`nas.wrappers.WarmStarted`), and it observes their outcomes as those of its own
        proposals. That is all, by default.

        Args:
            outcomes: search after search, each network once in a search, in the order recorded.

        Raises:
            Unsupported: what this controller tries is settled.
        """

    def plan(self, whole: int) -> int | None:
        """Take up how long a whole training is; called once, after `aim`.

        Args:
            whole: its training episodes.

        Returns:
            How many trials a search has, where that follows; None, by default: as many as are asked for.

        Raises:
            ConfigError: that is too short for this controller.
        """
        return None

    @abstractmethod
    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        """Propose trial `number`, or return None to wait for a pending result.

        Args:
            number: the trial's number in the search, from 0, where trials of a race do not count.
            pending: what is evaluated now.
            rng: seeded by the search's seed and `number`; the only source of chance.
        """

    @abstractmethod
    def observe(self, number: int, outcome: Outcome) -> None:
        """Learn from a trial that ended; `outcome.state` is final."""

    def promotable(self, trials: int) -> frozenset[str] | None:
        """Return which networks it may yet ask to have trained longer, by their canonical keys.

        States of other short trainings are not needed any more. None, by default: it does not tell.

        Args:
            trials: how many further ones there may be, those that run now among them.
        """
        return None

    def continuable(self) -> frozenset[int] | None:
        """Return the numbers of the trials that others may yet go on from, if `continues` is true.

        States of others are not needed any more. None, by default: it does not tell.
        """
        return None


def settled(controller: str) -> Unsupported:
    """Return the refusal of a warm start by a controller, whose name is given, that chooses nothing."""
    return Unsupported(
        f"warm_start: what the controller '{controller}' tries is settled, so that earlier searches change "
        "nothing. Leave warm_start out, or choose a controller that searches, such as 'evolution'."
    )
