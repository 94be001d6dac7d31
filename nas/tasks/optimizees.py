"""Trainings on handwritten digits, for optimizers that are learned."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from nas.errors import ConfigError
from nas.tasks.base import SPLITS, Split
from nas.tasks.images import (
    TRAINING_SETTINGS,
    Classes,
    ImageTasks,
    Queries,
    Shots,
    TrainQueries,
    TrainShots,
    TrainWays,
    Ways,
)
from nas.tasks.pooled import PooledSource


@final
class Optimizees(PooledSource):
    """Small trainings: the 8×8 digits that come with scikit-learn, as vectors, with labels drawn anew.

    A task is a training set, its support, and held-out images, its queries. The images of each digit are
    divided into three parts, one a split, so that every split has all ten digits, and no image in common.

    Raises:
        ConfigError: scikit-learn is not installed; or a task has more images of a digit than its split.
    """

    name: ClassVar[str] = "optimizees"
    training_settings: ClassVar[tuple[str, ...]] = TRAINING_SETTINGS

    def __init__(
        self,
        *,
        ways: Ways = 10,
        shots: Shots = 40,
        queries: Queries = 10,
        train_ways: TrainWays = None,
        train_shots: TrainShots = None,
        train_queries: TrainQueries = None,
    ) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise ConfigError(
                "tasks: the digits of 'optimizees' come with scikit-learn; run `pip install "
                "'nas-service[surrogate]'`."
            ) from None
        data = load_digits()
        order = np.argsort(data.target, kind="stable")
        images = (data.data[order] / 16).astype(np.float32)
        bounds = np.append(np.flatnonzero(np.diff(data.target[order], prepend=-1)), len(order))
        splits = dict[Split, Classes]()
        for number, split in enumerate(SPLITS):
            starts = bounds[:-1] + np.diff(bounds) * number // 3
            ends = bounds[:-1] + np.diff(bounds) * (number + 1) // 3
            names = tuple(f"{digit} of {split}" for digit in range(10))
            splits[split] = Classes(names, starts, ends - starts)
        sizes = (ways, shots, queries, train_ways, train_shots, train_queries)
        self._tasks = ImageTasks("optimizees", images, splits, *sizes)
