"""Episodes and the sources that sample them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from typing import ClassVar, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas.errors import ConfigError
from nas.space import Architecture, TaskShape

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

EPISODE_LIST_SEED = 2019
"""Seeds the fixed list of validation (and test) episodes: the same for every trial of every search."""


class Second(NamedTuple):
    """What queries are labelled as, too, where they are mixtures of two examples.

    Attributes:
        labels: `[T, Q]` int64.
        share: `[T, Q]` float32, of the query's own label in its loss; the rest is that of the second one.
    """

    labels: Tensor
    share: Tensor


@dataclass(frozen=True, slots=True)
class Episode:
    """A batch of T tasks, each a support set to learn from and a query set to be judged on.

    On ordinary data a task is one minibatch: its queries, without a support, labelled by the classes of all.

    Attributes:
        support_x: `[T, S, *input]`, float32; S = ways · shots, ordered class by class.
        support_y: `[T, S]` int64 labels in `[0, ways)`, or `[T, S, outputs]` float32 targets in regression.
        query_x: `[T, Q, *input]`; Q = ways · queries, or the size of the minibatch.
        query_y: like `support_y`.
        ways: classes of each task; 0 in regression.
        shots: support examples of each class; 0 on ordinary data.
        classes: `[T, ways]` which classes of the split were drawn, for audit; `[T, 0]` in regression.
        clean: beside the minibatches of ordinary data, as many of examples that are known to be right; None
            where there are none.
        second: labels of queries that are mixtures; None where none is. Training alone has such.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    ways: int
    shots: int
    classes: npt.NDArray[np.int64]
    clean: Episode | None = None
    second: Second | None = None

    def __len__(self) -> int:
        """Return T, the number of tasks."""
        return len(self.support_x)

    def __iter__(self) -> Iterator[Episode]:
        """Yield the tasks one by one, each an episode with T = 1."""
        return self.chunks(1)

    def chunks(self, tasks: int) -> Iterator[Episode]:
        """Yield consecutive episodes of `tasks` tasks, the last perhaps of fewer; all are views of this one.

        Raises:
            ValueError: `tasks` is less than 1.
        """
        if tasks < 1:
            raise ValueError(f"A chunk holds at least 1 task, not {tasks}.")
        clean = repeat(None) if self.clean is None else self.clean.chunks(tasks)
        for start, beside in zip(range(0, len(self), tasks), clean, strict=False):
            some = slice(start, start + tasks)
            yield Episode(
                self.support_x[some],
                self.support_y[some],
                self.query_x[some],
                self.query_y[some],
                self.ways,
                self.shots,
                self.classes[some],
                beside,
                None if self.second is None else Second(*(each[some] for each in self.second)),
            )

    @property
    def regression(self) -> bool:
        """Whether the targets are real numbers."""
        return self.query_y.is_floating_point()

    def to(self, device: torch.device) -> Episode:
        """Return the episode with its tensors on `device`."""
        return replace(
            self,
            support_x=self.support_x.to(device, non_blocking=True),
            support_y=self.support_y.to(device, non_blocking=True),
            query_x=self.query_x.to(device, non_blocking=True),
            query_y=self.query_y.to(device, non_blocking=True),
            clean=None if self.clean is None else self.clean.to(device),
            second=None if self.second is None else Second(*(each.to(device) for each in self.second)),
        )


class ScoreSource(ABC):
    """Where the scores of a search come from: tasks to be learned, or scores that are known."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What is scored in a few words, such as `omniglot 20-way 1-shot`."""

    @abstractmethod
    def fingerprint(self, split: Split) -> tuple[str, str]:
        """Return the split's full name, such as `omniglot/vinyals/validation`, and a hash of its classes."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Return what a user should know of the data, a sentence or two each: what is left out, what is odd.

        They are told, and recorded, where a search begins.
        """
        return ()

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Return what is known of a network's costs before it is scored, by the names of `nas.costs.OWN`.

        Of tasks that is nothing: there, a space counts for their shape.

        Raises:
            Infeasible: the architecture has no network.
        """
        return {}


class TaskSource(ScoreSource):
    """A distribution of few-shot tasks, split into training, validation and test classes.

    Or ordinary data, split into training, validation and test examples, whose tasks are minibatches.

    A concrete source sets `name` and takes keyword-only arguments alone: they are its settings, and, on
    few-shot tasks, `shots`, `queries` and, where it classifies, `ways` are among them. Settings `train_ways`,
    `train_shots` and `train_queries`, where it has them, shape the tasks of split `train` alone: the label,
    the shape and all else is that of the tasks that trials are scored on. It reads or draws its data in the
    constructor and keeps it in numpy arrays, so that workers on one node share a single copy; it is
    picklable.

    Attributes:
        training_settings: names of the settings that concern the tasks of split `train` alone. A search may
            choose these, since trials remain scored on the same tasks.
        heavy: names of the settings that a batch's memory grows with; it need not have all of them.
    """

    name: ClassVar[str]
    training_settings: ClassVar[tuple[str, ...]] = ()
    heavy: ClassVar[tuple[str, ...]] = (
        "ways",
        "shots",
        "queries",
        "train_ways",
        "train_shots",
        "train_queries",
    )

    @property
    @abstractmethod
    def shape(self) -> TaskShape:
        """What a network must fit."""

    @abstractmethod
    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        """Draw `tasks` tasks from a split; equal generators draw equal tasks."""

    def bilevel(self) -> tuple[TaskSource, TaskSource]:
        """Return what a supernet's weights, and what its architecture, draw their training tasks from.

        On few-shot tasks both are this source: tasks drawn afresh are new ones. A source of ordinary data
        gives two halves of its training examples (Liu et al. 2019).
        """
        return self, self

    def halves(self) -> tuple[TaskSource, TaskSource]:
        """Return two sources whose training tasks have no class in common, of ordinary data no example.

        By default these are those of `bilevel`, which is right where tasks have no classes.

        Raises:
            ConfigError: half of the classes are too few for a task.
        """
        return self.bilevel()

    def members(self, split: Split) -> frozenset[str]:
        """Return what no other split may share: names of classes, of ordinary data those of examples.

        They are the same under other settings of the source. A source without any (regression), or that does
        not tell, returns none.
        """
        return frozenset()

    def examples(self, split: Split) -> Iterator[tuple[str, Tensor]]:
        """Yield the classes of a split, each with the inputs of all its examples, `[examples, *input]`.

        Raises:
            ConfigError: the source has no classes of examples.
        """
        raise ConfigError(
            f"tasks: '{self.name}' has no classes with so many examples each. Choose few-shot tasks of "
            "classes, such as 'omniglot'."
        )

    def episodes(self, split: Split, count: int) -> Iterator[Episode]:
        """Yield the fixed list of `count` one-task episodes on which every trial is scored.

        A shorter list is a prefix of a longer one.
        """
        rng = np.random.default_rng([EPISODE_LIST_SEED, SPLITS.index(split)])
        for _ in range(count):
            yield self.sample(split, 1, rng)


def class_hash(names: Iterable[str]) -> str:
    """Return 16 hexadecimal digits that identify a set of class names, whatever their order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]
