"""Prototypical networks: a class is the mean of its examples."""

from __future__ import annotations

from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn

from nas.learners.base import Learner, adam
from nas.learners.network import batch_statistics
from nas.space import TaskShape
from nas.tasks.base import Episode


@final
class Prototypical(Learner):
    """Prototypical networks (Snell et al. 2017): logits are −‖query − class mean‖² in feature space.

    Classifies only. φ is the backbone; support and queries of a task pass through it as one batch.
    """

    name = "prototypical"
    normalization = "transductive"

    def __init__(
        self,
        backbone: nn.Module,
        shape: TaskShape,
        *,
        lr: Annotated[float, Field(gt=0, description="learning rate of Adam")] = 2e-3,
        meta_batch: Annotated[int, Field(ge=1, description="tasks per meta-step")] = 1,
    ) -> None:
        super().__init__(backbone, shape)
        self.backbone = batch_statistics(backbone)
        self.lr = lr
        self.meta_batch = meta_batch

    def forward(self, episode: Episode) -> Tensor:
        """Return logits `[T, Q, ways]`.

        Raises:
            ConfigError: the task is regression.
        """
        self.check(episode)
        return torch.stack([self._logits(task) for task in episode])

    def _logits(self, task: Episode) -> Tensor:
        support_x, query_x = task.support_x[0], task.query_x[0]
        features = self.backbone(torch.cat([support_x, query_x])).to(support_x.dtype)
        support, queries = features.split([len(support_x), len(query_x)])
        by_class = support[task.support_y[0].argsort()].unflatten(0, (task.ways, task.shots))
        prototypes = by_class.mean(1)
        return -((queries[:, None] - prototypes) ** 2).sum(-1)  # type: ignore[no-any-return]

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return adam(self, self.lr)
