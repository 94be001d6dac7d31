"""A task source of one's own: points scattered around the centre of their class."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from nas.space import TaskShape
from nas.tasks.base import SPLITS, Episode, Split, TaskSource, class_hash

DIMENSIONS = 8

Ways = Annotated[int, Field(ge=2, le=10, description="classes of a task")]
Shots = Annotated[int, Field(ge=1, description="support points of a class")]
Queries = Annotated[int, Field(ge=1, description="query points of a class")]
Noise = Annotated[float, Field(ge=0, description="standard deviation around the centre")]


class Blobs(TaskSource):
    """Sixty classes, each a Gaussian in eight dimensions: 40 to train on, 10 to validate, 10 to test."""

    name = "blobs"

    def __init__(self, *, ways: Ways = 5, shots: Shots = 1, queries: Queries = 5, noise: Noise = 0.5) -> None:
        self.ways, self.shots, self.queries, self.noise = ways, shots, queries, noise
        centres = np.random.default_rng(0).normal(size=(60, DIMENSIONS))
        self.centres = dict(zip(SPLITS, np.split(centres, [40, 50]), strict=True))

    @property
    def shape(self) -> TaskShape:
        """A point, and a class for each way."""
        return TaskShape((DIMENSIONS,), self.ways)

    @property
    def label(self) -> str:
        """Such as `blobs 5-way 1-shot`."""
        return f"blobs {self.ways}-way {self.shots}-shot"

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        """Draw tasks of distinct classes from a split."""
        known = self.centres[split]
        classes = np.stack([rng.choice(len(known), self.ways, replace=False) for _ in range(tasks)])
        support, query = (self._points(known[classes], count, rng) for count in (self.shots, self.queries))
        return Episode(*support, *query, self.ways, self.shots, classes)

    def _points(self, centres: np.ndarray, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return `count` points of each class, `[T, ways · count, 8]`, class by class, and their labels."""
        points = centres.repeat(count, axis=1)
        points = points + self.noise * rng.normal(size=points.shape)
        labels = torch.arange(self.ways).repeat_interleave(count)
        return torch.from_numpy(points.astype(np.float32)), labels.repeat(len(centres), 1)

    def fingerprint(self, split: Split) -> tuple[str, str]:
        """Return the split's name and a hash of its classes."""
        return f"blobs/{split}", class_hash(self.members(split))

    def members(self, split: Split) -> frozenset[str]:
        """Return the names of a split's classes, which no other split has."""
        return frozenset(f"{split} {number}" for number in range(len(self.centres[split])))
