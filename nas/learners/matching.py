"""Matching networks: a query takes the labels of the support examples that it attends to."""

from __future__ import annotations

from typing import Annotated, Any, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nas.learners.base import Learner
from nas.learners.network import by_class, embed, features_of, normalized
from nas.space import TaskShape
from nas.tasks.base import Episode

Distance = Literal["cosine", "l2"]


@final
class Matching(Learner):
    """Matching networks (Vinyals et al. 2016): P(class) is the attention on that class's support examples.

    Attention is the softmax of similarities in feature space, the cosine or −‖query − example‖², over a
    temperature. φ is the backbone, and in full context two LSTMs, which make the support's order matter.
    Classifies only.

    Raises:
        Infeasible: the backbone has no features.
    """

    name = "matching"

    def __init__(
        self,
        backbone: nn.Module,
        shape: TaskShape,
        *,
        distance: Annotated[
            Distance, Field(description="cosine, or l2 for the squared Euclidean")
        ] = "cosine",
        temperature: Annotated[
            float, Field(gt=0, description="divides similarities before the softmax")
        ] = 0.1,
        full_context: Annotated[
            bool, Field(description="embed every example in the context of the whole support")
        ] = False,
        reads: Annotated[int, Field(ge=1, description="times a query reads the support in full context")] = 5,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, shape, **settings)
        features = features_of(backbone)
        self.backbone = normalized(backbone, self.normalization)
        self.context = FullContext(features, reads) if full_context else None
        self.distance = distance
        self.temperature = temperature

    def forward(self, episode: Episode) -> Tensor:
        """Return log-probabilities `[T, Q, ways]`, which are logits too.

        Raises:
            ConfigError: the task is regression.
        """
        self.check(episode)
        support, queries = embed(self.backbone, episode, self.normalization, joint=True)
        with torch.autocast(support.device.type, enabled=False):
            if self.context is not None:
                support, queries = self.context(support, queries)
            attention = (self._similarity(support, queries) / self.temperature).log_softmax(-1)
        return by_class(attention.mT, episode).logsumexp(2).mT

    def _similarity(self, support: Tensor, queries: Tensor) -> Tensor:
        """Compare `[T, S, D]` with `[T, Q, D]`: `[T, Q, S]`."""
        if self.distance == "cosine":
            return F.normalize(queries, dim=-1, eps=1e-6) @ F.normalize(support, dim=-1, eps=1e-6).mT
        return -((queries[:, :, None] - support[:, None]) ** 2).sum(-1)


class FullContext(nn.Module):
    """Embeddings conditioned on the whole support (Vinyals et al. 2016, section 2.1.2, appendix A).

    A bidirectional LSTM reads the support in its order; its states of both directions are added to the
    features. Each query goes through an LSTM of `reads` steps that sees, at every step, the query's features
    and what its last state attends to in the support; the features are added to its state. States begin at
    zero.
    """

    def __init__(self, features: int, reads: int) -> None:
        super().__init__()
        self.support = nn.LSTM(features, features, batch_first=True, bidirectional=True)
        self.query = nn.LSTMCell(2 * features, features)
        self.reads = reads

    def forward(self, support: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Map features `[T, S, D]` and `[T, Q, D]` to embeddings of the same shapes."""
        states, _ = self.support(support)
        support = support + states.unflatten(-1, (2, -1)).sum(-2)
        features = queries.flatten(0, 1)
        state = cell = torch.zeros_like(features)
        for _ in range(self.reads):
            attention = (state.view_as(queries) @ support.mT).softmax(-1)
            read = (attention @ support).flatten(0, 1)
            state, cell = self.query(torch.cat([features, read], -1), (state, cell))
            state = state + features
        return support, state.view_as(queries)
