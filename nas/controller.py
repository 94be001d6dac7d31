"""Who chooses: controllers propose jobs and observe their outcomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from nas.space import Architecture, SearchSpace


class State(StrEnum):
    """What became of a trial."""

    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED = "stopped"
    """A scheduler stopped it early: the score belongs to a smaller budget."""
    REUSED = "reused"
    """An isomorphic architecture had been scored before; no worker was spent."""
    INFEASIBLE = "infeasible"
    """No network for this task shape, or a broken constraint."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """The driver died or was stopped while it ran; `nas resume` runs it again."""

    @property
    def final(self) -> bool:
        """Whether the trial is over and counts towards the search's number of trials."""
        return self not in (State.RUNNING, State.INTERRUPTED)


@dataclass(frozen=True, slots=True)
class Score:
    """A mean over evaluation episodes; higher is better (accuracy, or −MSE).

    Attributes:
        value: the mean.
        ci95: half width of its 95 % confidence interval over episodes (normal approximation).
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of one trial, final or so far (`state` is `running`).

    Attributes:
        state: what became of it.
        architecture: what was evaluated.
        score: on validation tasks; None where there is none (yet).
        train_episodes: training episodes spent.
        seconds: worker time spent.
        parameters, macs: the backbone's cost.
        measurements: what was measured since the report before.
        error: why it failed or is infeasible.
        reused: number of the trial whose score this is.
    """

    state: State
    architecture: Architecture
    score: Score | None = None
    train_episodes: int = 0
    seconds: float = 0.0
    parameters: int | None = None
    macs: int | None = None
    measurements: tuple[Measurement, ...] = ()
    error: str | None = None
    reused: int | None = None


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Train this architecture from scratch and score it."""

    architecture: Architecture


@dataclass(frozen=True, slots=True)
class Reuse:
    """Take the score that trial number `trial` of this search found for the same network."""

    architecture: Architecture
    trial: int


@dataclass(frozen=True, slots=True)
class Reject:
    """Record the architecture as infeasible without spending a worker."""

    architecture: Architecture
    reason: str


Proposal = Evaluate | Reuse | Reject


class Controller(ABC):
    """Proposes architectures and learns from their outcomes.

    A concrete controller takes `(space, seed, *, settings...)`: its keyword-only arguments are its settings.
    A proposal is a pure function of the seed, the number and the history: `propose` changes nothing and draws
    only from the generator it is given; all learning happens in `observe`, which is called in the order in
    which the database recorded the outcomes. A search resumes by observing that record again.
    """

    @abstractmethod
    def __init__(self, space: SearchSpace, seed: int) -> None: ...

    @abstractmethod
    def propose(
        self, number: int, pending: Sequence[Architecture], rng: np.random.Generator
    ) -> Proposal | None:
        """Propose trial `number`, or return None to wait for a pending result.

        Args:
            number: the trial's number in the search, from 0.
            pending: what runs now.
            rng: seeded by the search's seed and `number`; the only source of chance.
        """

    @abstractmethod
    def observe(self, number: int, outcome: Outcome) -> None:
        """Learn from a trial that ended; `outcome.state` is final."""
