"""SNAIL: a task is a sequence, read by temporal convolutions and causal attention."""

from __future__ import annotations

import math
from typing import Annotated, Any, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nas.errors import ConfigError
from nas.learners.base import Learner
from nas.learners.network import embed, features_of, normalized
from nas.space import TaskShape
from nas.tasks.base import Episode


@final
class Snail(Learner):
    """The simple neural attentive learner (Mishra et al. 2018): φ is the backbone and a net over sequences.

    The support is a sequence of features with their labels, in a random order; a query, with a label of
    zeros, is its last item, and what the net returns there are the logits. Nothing sees what comes after it,
    so that the support is read once, and all queries of a task in one pass, none of them by another.
    Classifies only.

    Raises:
        Infeasible: the backbone has no features.
    """

    name = "snail"
    fixed_ways = True

    def __init__(
        self,
        backbone: nn.Module,
        shape: TaskShape,
        *,
        length: Annotated[
            int, Field(ge=2, description="items of a task's sequence at most: its support and a query")
        ] = 32,
        filters: Annotated[
            int,
            Field(ge=0, description="of a temporal convolution; 0: none, so that order makes no difference"),
        ] = 128,
        keys: Annotated[
            int,
            Field(ge=2, description="width of the first attention's keys; later ones have 4 and 8 times it"),
        ] = 64,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, shape, **settings)
        features = features_of(backbone)
        self.backbone = normalized(backbone, self.normalization)
        self.net = Attentive(features + shape.outputs, shape.outputs, length, filters, keys)
        self.ways, self.length = shape.outputs, length

    def forward(self, episode: Episode) -> Tensor:
        """Return logits `[T, Q, ways]`.

        Raises:
            ConfigError: the task is regression, or its sequence is longer than `length`.
        """
        self.check(episode)
        count = episode.support_x.shape[1]
        if count >= self.length:
            raise ConfigError(
                f"learner.length: a task has {count} support examples and a query, {count + 1} items, and "
                f"'{self.name}' is made for {self.length}. Set learner.length to {count + 1} or more."
            )
        support, queries = embed(self.backbone, episode, self.normalization, joint=True)
        with torch.autocast(support.device.type, enabled=False):
            labels = F.one_hot(episode.support_y, self.ways).to(support.dtype)
            support = self._shuffled(torch.cat([support, labels], -1))
            queries = F.pad(queries, (0, self.ways))
            _, logits = self.net(support, queries)
        return logits  # type: ignore[no-any-return]

    def _shuffled(self, items: Tensor) -> Tensor:
        """Return each task's items `[T, S, C]` in an order of its own, in evaluation always the same."""
        tasks, count = items.shape[:2]
        if not self.training:
            return items[:, torch.randperm(count, generator=torch.Generator().manual_seed(0))]
        order = torch.rand(tasks, count).argsort(1)
        return items[torch.arange(tasks)[:, None], order]


class Attentive(nn.Module):
    """Three attentions with temporal convolutions between them, then a linear layer (Mishra et al. 2018).

    Every block takes a sequence `[T, S, C]`, and queries `[T, Q, C]` that each follow on it, and returns both
    with channels added to them. What it returns for an item depends on none that comes later.

    Args:
        inputs: channels of an item.
        outputs: of the linear layer.
        length: items that the temporal convolutions look back over.
        filters: of a temporal convolution; 0: there are none.
        keys: width of the first attention's keys; values have one half of it.
    """

    def __init__(self, inputs: int, outputs: int, length: int, filters: int, keys: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        channels = inputs
        for factor in (1, 4, 8):
            self.blocks.append(Attention(channels, factor * keys, factor * keys // 2))
            channels += factor * keys // 2
            if factor < 8 and filters:
                for power in range(math.ceil(math.log2(length))):
                    self.blocks.append(Dense(channels, filters, 2**power))
                    channels += filters
        self.last = nn.Linear(channels, outputs)

    def forward(self, sequence: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs of the sequence's items, `[T, S, outputs]`, and of the queries."""
        for block in self.blocks:
            sequence, queries = block(sequence, queries)
        return self.last(sequence), self.last(queries)


class Attention(nn.Module):
    """Every item reads itself and all before it, by the softmax of QKᵀ/√K over keys; the read is added on."""

    def __init__(self, channels: int, keys: int, values: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(channels, keys), nn.Linear(channels, keys)
        self.value = nn.Linear(channels, values)
        self.scale = keys**-0.5

    def forward(self, sequence: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return both with the channels that were read."""
        keys, values = self.key(sequence), self.value(sequence)
        later = torch.ones(sequence.shape[1], sequence.shape[1], device=sequence.device).triu(1).bool()
        scores = (self.query(sequence) @ keys.mT * self.scale).masked_fill(later, -torch.inf)
        read = scores.softmax(-1) @ values
        asked = self.query(queries)
        own = (asked * self.key(queries)).sum(-1, keepdim=True)
        weights = (torch.cat([asked @ keys.mT, own], -1) * self.scale).softmax(-1)
        found = weights[..., :-1] @ values + weights[..., -1:] * self.value(queries)
        return torch.cat([sequence, read], -1), torch.cat([queries, found], -1)


class Dense(nn.Module):
    """tanh(f) σ(g) of an item and of the one `lag` before it, zeros where there is none; it is added on."""

    def __init__(self, channels: int, filters: int, lag: int) -> None:
        super().__init__()
        self.both = nn.Linear(2 * channels, 2 * filters)
        self.lag = lag

    def forward(self, sequence: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return both with `filters` channels more."""
        padded = F.pad(sequence, (0, 0, self.lag, 0))
        before = padded[:, -self.lag, None].expand(-1, queries.shape[1], -1)
        return self._added(sequence, padded[:, : sequence.shape[1]]), self._added(queries, before)

    def _added(self, x: Tensor, before: Tensor) -> Tensor:
        value, gate = self.both(torch.cat([before, x], -1)).chunk(2, -1)
        return torch.cat([x, value.tanh() * gate.sigmoid()], -1)
