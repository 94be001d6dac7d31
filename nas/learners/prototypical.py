"""Prototypical networks: a class is the mean of its examples."""

from __future__ import annotations

from typing import Annotated, Any, final

from pydantic import Field
from torch import Tensor, nn

from nas.learners.base import Learner
from nas.learners.network import by_class, embed, features_of, normalized
from nas.space import TaskShape
from nas.tasks.base import Episode


@final
class Prototypical(Learner):
    """Prototypical networks (Snell et al. 2017): logits are −‖query − class mean‖² in feature space.

    Classifies only. φ is the backbone; support and queries of a task pass through it as one batch.

    Raises:
        Infeasible: the backbone has no features.
    """

    name = "prototypical"

    def __init__(
        self,
        backbone: nn.Module,
        shape: TaskShape,
        *,
        lr: Annotated[float, Field(gt=0, description="learning rate of Adam")] = 2e-3,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, shape, lr=lr, **settings)
        features_of(backbone)
        self.backbone = normalized(backbone, self.normalization)

    def forward(self, episode: Episode) -> Tensor:
        """Return logits `[T, Q, ways]`.

        Raises:
            ConfigError: the task is regression.
        """
        self.check(episode)
        support, queries = embed(self.backbone, episode, self.normalization, joint=True)
        prototypes = by_class(support, episode).mean(2)
        return -((queries[:, :, None] - prototypes[:, None]) ** 2).sum(-1)
