"""Sources whose tasks are drawn from one pool of images, or of what stands for them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Self

import numpy as np
from torch import Tensor

from nas.space import TaskShape
from nas.tasks.base import Episode, Split, TaskSource
from nas.tasks.images import ImageTasks


class PooledSource(TaskSource):
    """Few-shot tasks that an `ImageTasks` draws: a subclass makes it, and says what it draws from.

    Attributes:
        _tasks: draws the tasks.
    """

    _tasks: ImageTasks

    @property
    def shape(self) -> TaskShape:
        """One example, and as many outputs as a task has classes."""
        return self._tasks.shape

    @property
    def label(self) -> str:
        """Such as `omniglot 20-way 1-shot`."""
        return f"{self.name} {self._tasks.setting}"

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        """Draw `tasks` tasks: distinct classes, of each distinct examples."""
        return self._tasks.sample(split, tasks, rng)

    def fingerprint(self, split: Split) -> tuple[str, str]:
        """Return the split's full name, such as `omniglot/vinyals/validation`, and a hash of its classes."""
        return self._tasks.fingerprint(split)

    def halves(self) -> tuple[Self, Self]:
        """Return two sources with one half of the training classes each."""
        one, other = copy.copy(self), copy.copy(self)
        one._tasks, other._tasks = self._tasks.halves()
        return one, other

    def examples(self, split: Split) -> Iterator[tuple[str, Tensor]]:
        """Yield the classes of a split, each with all its examples."""
        return self._tasks.examples(split)

    def members(self, split: Split) -> frozenset[str]:
        """Return the names of the split's classes."""
        return self._tasks.members(split)
