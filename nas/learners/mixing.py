"""Mixing of images: of queries with other examples of their task, and of classes with each other."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Annotated, Any, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from nas.errors import ConfigError
from nas.learners.augmentation import Augmentation
from nas.space import TaskShape
from nas.tasks.base import Episode, Second

Alpha = Annotated[
    float, Field(gt=0, description="of the distribution Beta(alpha, alpha) that shares are drawn from")
]

NO_CLASS = -1
"""The number of a class that is a mixture of two."""


class Mixing(Augmentation):
    """Adds up inputs with shares that sum to 1.

    Raises:
        ConfigError: the tasks are regression; see the concrete ones.
    """

    @abstractmethod
    def __init__(self, shape: TaskShape, *, alpha: Alpha) -> None:
        super().__init__(shape)
        self.alpha = alpha

    def shares(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw shares from Beta(alpha, alpha), float32 on the CPU."""
        seed = int(torch.randint(2**62, (), generator=generator))
        drawn = np.random.default_rng(seed).beta(self.alpha, self.alpha, shape)
        return torch.from_numpy(drawn).float()

    def queries(self, episode: Episode, x: Tensor, y: Tensor, generator: torch.Generator) -> Episode:
        """Mix each query with another example, `[T, Q, …]`, of label y."""
        share = self.shares((*episode.query_y.shape,), generator)
        return replace(
            episode,
            query_x=_mixed(episode.query_x, x, share),
            second=Second(y, share.to(episode.query_x)),
        )

    def refuse(self, episode: Episode, *, few_shot: bool) -> None:
        """Refuse tasks that have nothing to mix.

        Raises:
            ConfigError: they are regression, or ordinary data where few-shot tasks are needed.
        """
        if episode.regression:
            raise ConfigError(
                f"learner.augmentation: '{self.name}' mixes examples of classes, and these tasks are "
                "regression. Leave it out."
            )
        if few_shot and not episode.shots:
            raise ConfigError(
                f"learner.augmentation: '{self.name}' mixes within the support of a task, and ordinary data "
                "has none. Set mixup."
            )


def _mixed(x: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """Return `share` of each input `[T, B, …]`, and the rest of another one."""
    own = share.to(x).view(*share.shape, *(1 for _ in x.shape[2:]))
    return own * x + (1 - own) * others


def _taken(x: Tensor, rows: Tensor) -> Tensor:
    """Return rows `[T, B]` of `[T, N, …]`."""
    return x[torch.arange(len(x), device=x.device)[:, None], rows.to(x.device)]


@final
class MixUp(Mixing):
    """Mixes each query with another query of its task, or of its minibatch (Zhang et al. 2018).

    Its loss is the share of the loss against its label, and the rest of that against the other's label.
    """

    name = "mixup"

    def __init__(self, shape: TaskShape, *, alpha: Alpha = 0.2) -> None:
        super().__init__(shape, alpha=alpha)

    def forward(self, episode: Episode, generator: torch.Generator) -> Episode:
        """Mix the queries."""
        self.refuse(episode, few_shot=False)
        tasks, queries = episode.query_y.shape
        rows = torch.rand(tasks, queries, generator=generator).argsort(1)
        x, y = _taken(episode.query_x, rows), _taken(episode.query_y, rows)
        return self.queries(episode, x, y, generator)


@final
class MetaMix(Mixing):
    """Mixes each query with an example of its task's support (Yao et al. 2021).

    The support stays as it is, and what is adapted to it too; then a query's loss is the share of the loss
    against its label, and the rest of that against the label of the support's example. The paper mixes in a
    random layer of the network, here it is the input.
    """

    name = "metamix"

    def __init__(self, shape: TaskShape, *, alpha: Alpha = 2.0) -> None:
        super().__init__(shape, alpha=alpha)

    def forward(self, episode: Episode, generator: torch.Generator) -> Episode:
        """Mix the queries with the supports."""
        self.refuse(episode, few_shot=True)
        tasks, queries = episode.query_y.shape
        rows = torch.randint(episode.support_y.shape[1], (tasks, queries), generator=generator)
        return self.queries(
            episode, _taken(episode.support_x, rows), _taken(episode.support_y, rows), generator
        )


@final
class MixedClasses(Mixing):
    """Mixes each class of a task with another one of it, so that mixtures are new classes (Ni et al. 2021).

    The share is drawn once for each class, and at least one half is its own: all its images, in support and
    queries, are mixed by it with images of the other class. Labels stay. A mixture has no number: `classes`
    of the result are −1.
    """

    name = "mixed_classes"

    def __init__(self, shape: TaskShape, *, alpha: Alpha = 1.0) -> None:
        super().__init__(shape, alpha=alpha)

    def forward(self, episode: Episode, generator: torch.Generator) -> Episode:
        """Mix the images of supports and queries, class by class."""
        self.refuse(episode, few_shot=True)
        tasks, ways = len(episode), episode.ways
        steps = torch.randint(1, ways, (tasks, 1), generator=generator)
        other = (torch.arange(ways) + steps) % ways
        share = self.shares((tasks, ways), generator)
        share = torch.maximum(share, 1 - share)
        parts: dict[str, Any] = {
            f"{part}_x": self._of_classes(
                getattr(episode, f"{part}_x"), getattr(episode, f"{part}_y").cpu(), other, share
            )
            for part in ("support", "query")
        }
        return replace(episode, **parts, classes=np.full_like(episode.classes, NO_CLASS))

    @staticmethod
    def _of_classes(x: Tensor, y: Tensor, other: Tensor, share: Tensor) -> Tensor:
        """Mix inputs `[T, B, …]` of labels y with those of the other class, the first with the first."""
        order = y.argsort(stable=True, dim=1).view(len(y), other.shape[1], -1)
        partners = _taken(order, other)
        rows = torch.empty_like(y).scatter_(1, order.flatten(1), partners.flatten(1))
        return _mixed(x, _taken(x, rows), share.gather(1, y))
