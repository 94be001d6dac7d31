"""A learner of one's own: cosine similarity to the mean of each class, at a learned scale."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nas.learners.base import Learner
from nas.learners.network import by_class, embed, features_of, normalized
from nas.space import TaskShape
from nas.tasks.base import Episode

Scale = Annotated[float, Field(gt=0, description="of the similarities, at the start")]


class Cosine(Learner):
    """φ is the backbone and the scale; nothing adapts to a task but the class means."""

    name = "cosine"

    def __init__(
        self, backbone: nn.Module, shape: TaskShape, *, scale: Scale = 10.0, **settings: Any
    ) -> None:
        super().__init__(backbone, shape, **settings)
        features_of(backbone)  # an architecture without features is infeasible
        self.backbone = normalized(backbone, self.normalization)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, episode: Episode) -> Tensor:
        """Return logits `[T, Q, ways]`."""
        self.check(episode)
        support, queries = embed(self.backbone, episode, self.normalization, joint=True)
        means = by_class(support, episode).mean(2)
        return self.scale * F.cosine_similarity(queries[:, :, None], means[:, None], dim=-1)
