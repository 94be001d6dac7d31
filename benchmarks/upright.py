"""Glyphs that are upright in training and turned in validation: data that wants one augmentation."""

from __future__ import annotations

import copy
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from nas.learners.augmentation import chance
from nas.learners.operations import Operations, draw
from nas.space import TaskShape
from nas.tasks.base import SPLITS, Episode, Split, TaskSource, class_hash
from nas.tasks.glyphs import DRAWINGS, draw_alphabets

COPIES = 20
"""Of each character in validation, and in test."""


class Upright(TaskSource):
    """Characters as they were drawn once, to be told apart when they are turned, each copy by its own angle.

    Ordinary data: a task is a minibatch. In training there is the one drawing of each character.
    """

    name: ClassVar[str] = "upright"

    def __init__(
        self,
        *,
        characters: Annotated[int, Field(ge=2, le=320, description="classes")] = 40,
        batch: Annotated[int, Field(ge=1, description="examples of a minibatch")] = 40,
    ) -> None:
        self._batch = batch
        drawings = draw_alphabets(0)[::DRAWINGS][:characters]
        self._upright = torch.from_numpy(drawings.copy()).float()[:, None] / 255
        self._images: dict[Split, Tensor] = {split: self._turned(SPLITS.index(split)) for split in SPLITS[1:]}
        self._images["train"] = self._upright

    def _turned(self, seed: int) -> Tensor:
        """Return copies of all characters, each turned by its own angle."""
        generator = chance(seed)
        copies = self._upright.repeat(COPIES, 1, 1, 1)
        share = torch.rand(len(copies), 1, generator=generator)
        which = torch.zeros(share.shape, dtype=torch.int64)
        return Operations("strokes", ("rotate",))(copies, draw(which, share, generator))

    def halves(self) -> tuple[TaskSource, TaskSource]:
        """Return this source, and one with turned copies in training, which no other split has."""
        judge = copy.copy(self)
        judge._images = {**self._images, "train": self._turned(len(SPLITS))}
        return self, judge

    @property
    def shape(self) -> TaskShape:
        """One channel of 28×28 to all characters."""
        return TaskShape((1, *self._upright.shape[2:]), len(self._upright), len(self._upright))

    @property
    def label(self) -> str:
        """Such as `upright 40 classes`."""
        return f"{self.name} {len(self._upright)} classes"

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        """Draw minibatches of distinct examples, or of as many as there are."""
        images = self._images[split]
        size = min(self._batch, len(images))
        rows = torch.from_numpy(np.stack([rng.permutation(len(images))[:size] for _ in range(tasks)]))
        classes = len(self._upright)
        return Episode(
            support_x=images.new_empty(tasks, 0, *images.shape[1:]),
            support_y=torch.empty(tasks, 0, dtype=torch.int64),
            query_x=images[rows],
            query_y=rows % classes,
            ways=classes,
            shots=0,
            classes=np.tile(np.arange(classes), (tasks, 1)),
        )

    def fingerprint(self, split: Split) -> tuple[str, str]:
        """Return the split's full name and a hash of its classes."""
        return f"{self.name}/{split}", class_hash(map(str, range(len(self._upright))))
