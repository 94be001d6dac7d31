"""Augmentation of training tasks: of their examples, or of the tasks themselves."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Annotated, ClassVar, final

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nas.errors import ConfigError, Unsupported
from nas.settings_space import Settings
from nas.space import TaskShape
from nas.supernet import Mixture, Relaxation
from nas.tasks.base import Episode


class Augmentation(nn.Module, ABC):
    """From training tasks to other training tasks. Validation and test tasks never pass through it.

    A concrete augmentation sets `name` and takes `(shape, *, settings...)`: its keyword-only arguments are
    its settings. Its parameters, where it has any, belong to φ: the result is differentiable in them.
    """

    name: ClassVar[str]

    @abstractmethod
    def __init__(self, shape: TaskShape) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, episode: Episode, generator: torch.Generator) -> Episode:
        """Return as many tasks of the same ways and queries; the episode given stays as it is.

        Shots are as many, or a multiple of them in every episode.

        Args:
            episode: training tasks.
            generator: the only source of chance, on the CPU; equal states give equal results.
        """

    def relax(self, space: Settings, setting: str) -> Relaxed:
        """Return what it is where all that can be chosen for it is mixed.

        Args:
            space: the settings that can be chosen of the learner.
            setting: which of them this augmentation fills.

        Raises:
            Unsupported: there is no such relaxation of what can be chosen.
        """
        raise Unsupported(
            f"learner.{setting}: no gradient leads to what can be chosen of '{self.name}'. Let a policy be "
            f'chosen as a whole, --slot \'learner.{setting}={{name="autoaugment", policy="any"}}\', or set a '
            "controller that trains each candidate, such as 'evolution'."
        )


class Relaxed(Augmentation, Relaxation):
    """An augmentation in which what can be chosen for it is mixed; it learns by the mixture alone.

    Attributes:
        mixture: of the moment. They are no parameters of this module.
    """

    mixture: Mixture = ()


@final
class Unchanged(Augmentation):
    """Tasks stay as they are drawn."""

    name = "none"

    def __init__(self, shape: TaskShape) -> None:
        super().__init__(shape)

    def forward(self, episode: Episode, generator: torch.Generator) -> Episode:
        """Return the episode."""
        return episode


@final
class ShiftRotate(Augmentation):
    """Shifts and turns every image a little, by amounts of its own.

    Both are uniform between plus and minus their bound; what comes in from outside is like the border. For
    strokes: Santoro et al. (2016) turn by up to 30°, and a character stays the same under some 15°.

    Raises:
        ConfigError: the inputs are no images.
    """

    name = "shift_rotate"

    def __init__(
        self,
        shape: TaskShape,
        *,
        shift: Annotated[float, Field(ge=0, description="pixels, at most, along each axis")] = 2.0,
        angle: Annotated[float, Field(ge=0, lt=45, description="degrees, at most, either way")] = 10.0,
    ) -> None:
        super().__init__(shape)
        _images(self.name, shape)
        self.shift, self.angle = shift, angle

    def forward(self, episode: Episode, generator: torch.Generator) -> Episode:
        """Move the images of supports and queries."""
        return replace(
            episode,
            support_x=self._moved(episode.support_x, generator),
            query_x=self._moved(episode.query_x, generator),
        )

    def _moved(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Move images `[T, B, C, H, W]`."""
        images = x.flatten(0, 1)
        height, width = x.shape[-2:]
        turn, right, down = 2 * torch.rand(3, len(images), generator=generator) - 1
        turn = math.radians(self.angle) * turn
        # From places in the result to places in the image, both from −1 to 1 along each axis.
        rows = (
            *(turn.cos(), -turn.sin() * height / width, 2 * self.shift / width * right),
            *(turn.sin() * width / height, turn.cos(), 2 * self.shift / height * down),
        )
        places = torch.stack(rows, 1).view(-1, 2, 3).to(x)
        grid = F.affine_grid(places, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False).view_as(x)


@final
class RotatedClasses(Augmentation):
    """Turns each class of a task by 0°, 90°, 180° or 270°, so that turned classes are new ones.

    The turn is drawn anew for each class of each task, as in Finn et al. (2017) on Omniglot; all images of a
    class turn alike. `classes` of the result number each turn of a class by itself: 4 · class + turn. So
    `pretrain` needs four times as many `learner.train_classes`.

    Raises:
        ConfigError: the inputs are no square images, or the tasks are no classification of few shots.
    """

    name = "rotated_classes"

    def __init__(self, shape: TaskShape) -> None:
        super().__init__(shape)
        _images(self.name, shape)
        if shape.input[1] != shape.input[2]:
            raise ConfigError(
                f"learner.augmentation: '{self.name}' needs square images, but these are of shape "
                f"{shape.input}. Leave it out."
            )

    def forward(self, episode: Episode, generator: torch.Generator) -> Episode:
        """Turn the images of supports and queries."""
        if episode.regression or not episode.shots:
            raise ConfigError(
                f"learner.augmentation: '{self.name}' makes new classes for few-shot classification, and "
                "these tasks are none. Leave it out."
            )
        turns = torch.randint(4, (len(episode), episode.ways), generator=generator)
        of_class = turns.to(episode.support_y.device)
        return replace(
            episode,
            support_x=_turned(episode.support_x, of_class.gather(1, episode.support_y)),
            query_x=_turned(episode.query_x, of_class.gather(1, episode.query_y)),
            classes=4 * episode.classes + turns.numpy(),
        )


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Turn images `[T, B, C, H, W]` by multiples of 90°, `[T, B]`."""
    every = torch.stack([x.rot90(turn, (-2, -1)) for turn in range(4)])
    tasks, rows = (torch.arange(size, device=x.device) for size in turns.shape)
    return every[turns, tasks[:, None], rows]


def _images(name: str, shape: TaskShape) -> None:
    if len(shape.input) != 3:
        raise ConfigError(
            f"learner.augmentation: '{name}' moves images, but these inputs are of shape {shape.input}. "
            "Leave it out."
        )


def chance(*seed: int) -> torch.Generator:
    """Return a generator of its own for these numbers, such as a training's seed and its count of tasks."""
    [drawn] = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(drawn))
