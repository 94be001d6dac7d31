"""A memory-augmented network: it reads a task as a stream, and learns a label one step after its example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nas.errors import ConfigError
from nas.learners.base import Learner
from nas.learners.coordinates import LstmCell
from nas.learners.network import embed, features_of, normalized
from nas.learners.weighting import MEAN_OVER
from nas.space import TaskShape
from nas.tasks.base import Episode, Second

SHOWN = 10
"""Presentations of a class of which the accuracy is told."""


@final
class Mann(Learner):
    """The memory-augmented neural network (Santoro et al. 2016): φ is the backbone, a controller and heads.

    Item t of a stream is the features of an example and the label of the one before it; what the network says
    of it comes before its label. The controller, an LSTM, reads and writes a memory, whose least used rows
    are written anew. In training support and queries are one stream, in a random order, and all of its items
    count in the loss. A task is learned from the stream of its support; each query follows on that by
    itself.

    While it trains on classes, the mean accuracy where a class is presented for the k-th time is recorded as
    `accuracy_at_k`. At the first time it can be right by chance alone: with five classes 0.457 at most.

    Raises:
        Infeasible: the backbone has no features.
    """

    name = "mann"
    regression = True
    fixed_ways = True
    recent: Tensor
    """The accuracy at each presentation, an average over recent meta-steps; −1 where there was none."""

    def __init__(
        self,
        backbone: nn.Module,
        shape: TaskShape,
        *,
        hidden: Annotated[int, Field(ge=1, description="width of the controller")] = 200,
        rows: Annotated[int, Field(ge=1, description="of the memory")] = 128,
        width: Annotated[int, Field(ge=1, description="of a row")] = 40,
        reads: Annotated[int, Field(ge=1, description="heads, each of which reads and writes")] = 4,
        decay: Annotated[float, Field(ge=0, lt=1, description="of what tells how much a row is used")] = 0.95,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, shape, **settings)
        if reads > rows:
            raise ConfigError(
                f"learner.reads: {reads} heads write a row each, of {rows}. Lower it to {rows}."
            )
        features = features_of(backbone)
        self.backbone = normalized(backbone, self.normalization)
        self.memory = Memory(rows, width, reads, decay)
        self.controller = LstmCell(features + shape.outputs + reads * width, hidden)
        self.heads = nn.Linear(hidden, reads * (2 * width + 1))
        self.last = nn.Linear(hidden + reads * width, shape.outputs)
        self.outputs = shape.outputs
        self.register_buffer("recent", torch.full((SHOWN,), -1.0))

    def forward(self, episode: Episode) -> Tensor:
        """Read each support, then answer every query as if it were the next: `[T, Q, outputs]`."""
        self._check_length(episode)
        support, queries = self._features(episode)
        with torch.autocast(support.device.type, enabled=False):
            order = self._order(support)
            support, labels = _sorted(support, order), _sorted(episode.support_y, order)
            labels, state = self._encoded(labels).to(support.dtype), self._begin(support)
            for t in range(support.shape[1]):
                _, state = self._step(support[:, t], labels[:, t], state)
            count = queries.shape[1]
            state = _map(state, lambda x: x.repeat_interleave(count, 0))
            found, _ = self._step(queries.flatten(0, 1), None, state)
        return found.view(*queries.shape[:2], -1)

    def meta_loss(self, episode: Episode) -> Tensor:
        """Return the mean loss over a stream of support and queries."""
        self._check_length(episode)
        predictions, targets, order = self.stream(episode)
        if self.training and not episode.regression:
            self._note(by_presentation(predictions.detach(), targets))
        second = episode.second
        if second is not None:
            labels = torch.cat([episode.support_y, second.labels], 1)
            share = torch.cat([second.share.new_ones(episode.support_y.shape), second.share], 1)
            second = Second(_sorted(labels, order), _sorted(share, order))
        return self.mean_loss(predictions, targets, second)

    def stream(self, episode: Episode) -> tuple[Tensor, Tensor, Tensor]:
        """Present support and queries as one stream.

        Returns:
            What it says of each item before its label, `[T, S + Q, outputs]`; the labels; and the order of
            each task's items `[T, S + Q]`, which is always the same in evaluation.
        """
        x = torch.cat(self._features(episode), 1)
        targets = torch.cat([episode.support_y, episode.query_y], 1)
        order = self._order(x)
        x, targets = _sorted(x, order), _sorted(targets, order)
        with torch.autocast(x.device.type, enabled=False):
            labels, state, found = self._encoded(targets).to(x.dtype), self._begin(x), []
            for t in range(x.shape[1]):
                said, state = self._step(x[:, t], labels[:, t], state)
                found.append(said)
        return torch.stack(found, 1), targets, order

    def measurements(self) -> Mapping[str, float]:
        """Return the accuracy at each presentation, `accuracy_at_1` and so on, in recent training."""
        told = {f"accuracy_at_{k}": float(value) for k, value in enumerate(self.recent, 1) if value >= 0}
        return {**super().measurements(), **told}

    def _note(self, found: Tensor) -> None:
        found = found.to(self.recent)
        moved = torch.where(self.recent < 0, found, self.recent.lerp(found, 1 / MEAN_OVER))
        self.recent.copy_(torch.where(found.isnan(), self.recent, moved))

    def _check_length(self, episode: Episode) -> None:
        count = episode.support_x.shape[1]
        if count > self.memory.rows:
            raise ConfigError(
                f"learner.rows: a task has {count} support examples, more than a memory of "
                f"{self.memory.rows} rows holds. Set learner.rows to {count} or more."
            )

    def _features(self, episode: Episode) -> tuple[Tensor, Tensor]:
        support, queries = embed(self.backbone, episode, self.normalization, joint=True)
        dtype = self.last.weight.dtype
        return support.to(dtype), queries.to(dtype)

    def _encoded(self, y: Tensor) -> Tensor:
        """Return labels as the network reads them: one-hot, or values."""
        return y if y.is_floating_point() else F.one_hot(y, self.outputs)

    def _order(self, items: Tensor) -> Tensor:
        return order_of(items, None if self.training else torch.Generator().manual_seed(0))

    def _begin(self, x: Tensor) -> _State:
        """Return the state before a stream of features `[T, L, D]`."""
        controller = self.controller.begin(x[:, 0, :, None])
        return _State(controller, self.memory.begin(x), x.new_zeros(len(x), self.outputs))

    def _step(self, x: Tensor, label: Tensor | None, state: _State) -> tuple[Tensor, _State]:
        """Answer the next items `[T, D]`, and learn their labels for the step after; None: there is none."""
        read = state.memory.read.flatten(1)
        controller = self.controller(torch.cat([x, state.label, read], -1)[..., None], state.controller)
        hidden = controller[0][..., 0]
        heads = self.heads(hidden).unflatten(-1, (self.memory.reads, -1))
        keys, values, gate = heads.split([self.memory.width, self.memory.width, 1], -1)
        memory = self.memory(keys.tanh(), values.tanh(), gate.sigmoid(), state.memory)
        found = self.last(torch.cat([hidden, memory.read.flatten(1)], -1))
        return found, _State(controller, memory, state.label if label is None else label)


class Stored(NamedTuple):
    """What a memory holds, a task a row.

    Attributes:
        content: `[T, rows, width]`.
        weights: of the last reading, `[T, reads, rows]`.
        usage: `[T, rows]`.
        read: `[T, reads, width]`.
    """

    content: Tensor
    weights: Tensor
    usage: Tensor
    read: Tensor


class _State(NamedTuple):
    controller: tuple[Tensor, Tensor]
    memory: Stored
    label: Tensor


def order_of(items: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return a random order of the items `[T, L, …]` of each task, `[T, L]`; one for all by a generator."""
    tasks, count = items.shape[:2]
    if generator is not None:
        return torch.randperm(count, generator=generator).to(items.device).expand(tasks, -1)
    return torch.rand(tasks, count).argsort(1).to(items.device)


def _sorted(x: Tensor, order: Tensor) -> Tensor:
    """Return the items `[T, L, …]` of each task in its order."""
    rows = torch.arange(len(x), device=x.device)[:, None]
    return x[rows, order]


def _map(state: _State, function: Any) -> _State:
    controller = (function(state.controller[0]), function(state.controller[1]))
    return _State(controller, Stored(*map(function, state.memory)), function(state.label))


class Memory(nn.Module):
    """A memory written by least recently used access (Santoro et al. 2016, section 3.2); it has no weights.

    Args:
        rows, width: of its content.
        reads: heads.
        decay: of the usage, from step to step.
    """

    def __init__(self, rows: int, width: int, reads: int, decay: float) -> None:
        super().__init__()
        self.rows, self.width, self.reads, self.decay = rows, width, reads, decay

    def begin(self, like: Tensor) -> Stored:
        """Return a memory for each of T tasks, of the precision of a tensor `[T, …]`."""
        tasks = len(like)
        first = F.one_hot(like.new_zeros(tasks, dtype=torch.int64), self.rows).to(like)
        return Stored(
            content=like.new_full((tasks, self.rows, self.width), 1e-6),
            weights=first[:, None].expand(-1, self.reads, -1),
            usage=first,
            read=like.new_zeros(tasks, self.reads, self.width),
        )

    def forward(self, keys: Tensor, values: Tensor, gate: Tensor, stored: Stored) -> Stored:
        """Write, then read.

        The least used rows, one for each head, are emptied. Head j writes its value to where it read last, as
        far as its gate says, and else to the j-th of these. It reads by the softmax of cosines.

        Args:
            keys: to read by, `[T, reads, width]`.
            values: to write, `[T, reads, width]`.
            gate: in [0, 1], `[T, reads, 1]`.
            stored: before.
        """
        idle = stored.usage.detach().argsort(dim=-1, stable=True)[:, : self.reads]
        least = F.one_hot(idle, self.rows).to(stored.content)
        where = gate * stored.weights + (1 - gate) * least
        content = stored.content * (1 - least.sum(1))[..., None] + where.mT @ values
        cosines = F.normalize(keys, dim=-1, eps=1e-6) @ F.normalize(content, dim=-1, eps=1e-6).mT
        weights = cosines.softmax(-1)
        usage = self.decay * stored.usage + (weights + where).sum(1)
        return Stored(content, weights, usage, weights @ content)


def by_presentation(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the accuracy `[SHOWN]` where a class is presented for the k-th time; NaN where none is.

    Args:
        predictions: logits of the items of streams, `[T, L, ways]`.
        targets: their labels, `[T, L]`.
    """
    same = targets[:, :, None] == targets[:, None]
    before = same.tril(-1).sum(-1)
    right = (predictions.argmax(-1) == targets).float()
    return torch.stack([right[before == k].mean() for k in range(SHOWN)])
