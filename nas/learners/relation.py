"""Relation networks: a learned module tells how much a query belongs to a class."""

from __future__ import annotations

from typing import Annotated, Any, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nas.learners.base import Learner, Reduction, reduced
from nas.learners.network import by_class, embed, features_of, normalized
from nas.space import TaskShape
from nas.tasks.base import Episode


@final
class Relation(Learner):
    """Relation networks (Sung et al. 2018): φ is the backbone and a module that scores a class and a query.

    A class is the sum of its examples' features. The module is a perceptron of two hidden layers over the
    class, the query and |class mean − query|. The score is a sigmoid, and the loss its mean squared error
    against 1 for the query's class and 0 for the others. Classifies only.

    Raises:
        Infeasible: the backbone has no features.
    """

    name = "relation"

    def __init__(
        self,
        backbone: nn.Module,
        shape: TaskShape,
        *,
        hidden: Annotated[int, Field(ge=1, description="width of the relation module's hidden layers")] = 128,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, shape, **settings)
        features = features_of(backbone)
        self.backbone = normalized(backbone, self.normalization)
        self.relation = nn.Sequential(
            *(nn.Linear(3 * features, hidden), nn.ReLU()),
            *(nn.Linear(hidden, hidden), nn.ReLU()),
            nn.Linear(hidden, 1),
        )

    def forward(self, episode: Episode) -> Tensor:
        """Return logits `[T, Q, ways]`: their sigmoids are the relation scores.

        Raises:
            ConfigError: the task is regression.
        """
        self.check(episode)
        support, queries = embed(self.backbone, episode, self.normalization, joint=True)
        sums, queries = by_class(support, episode).sum(2)[:, None], queries[:, :, None]
        difference = (sums / episode.shots - queries).abs()
        pairs = torch.cat([sums.expand_as(difference), queries.expand_as(difference), difference], -1)
        with torch.autocast(pairs.device.type, enabled=False):
            return self.relation(pairs).squeeze(-1)  # type: ignore[no-any-return]

    def criterion(self, predictions: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Return the squared error of the scores against the one-hot labels."""
        scores = predictions.sigmoid()
        belongs = F.one_hot(targets, scores.shape[-1]).to(scores.dtype)
        return reduced((scores - belongs) ** 2, reduction)
