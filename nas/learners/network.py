"""The network that a learner trains or adapts: a backbone, and a linear head over its features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import replace_all_batch_norm_modules_

from nas.backbone import width_of
from nas.errors import Infeasible
from nas.learners.base import Normalization
from nas.learners.folded import Weights, run, stacked
from nas.learners.inner import Order, adapt
from nas.learners.update import UpdateRule
from nas.tasks.base import Episode


class Network(nn.Module):
    """A backbone and a linear head: `[batch, *input]` to `[batch, outputs]`.

    The head computes in the precision of its weights, under autocast too: rounded logits would tie.

    Raises:
        Infeasible: the backbone has no features.
    """

    def __init__(self, backbone: nn.Module, outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(features_of(backbone), outputs)

    @property
    def trainable(self) -> Weights:
        """The weights that are not frozen, by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, or values."""
        features = self.backbone(x)
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.to(self.head.weight.dtype))  # type: ignore[no-any-return]


def features_of(backbone: nn.Module) -> int:
    """Return how many features a backbone has.

    Raises:
        Infeasible: none.
        PluginError: it does not say.
    """
    features = width_of(backbone)
    if features < 1:
        raise Infeasible(
            f"The backbone has {features} features (`out_features`), so nothing is left to learn from. "
            "Change the architecture, or the settings of its `space`."
        )
    return features


def normalized(backbone: nn.Module, normalization: Normalization) -> nn.Module:
    """Make the batch norm of a backbone take its statistics as asked, in place.

    With `running` it keeps moving averages in training, and predicts with them; otherwise it has none, and
    every batch that `run` passes through it is normalized by its own task.
    """
    return backbone if normalization == "running" else replace_all_batch_norm_modules_(backbone)


def embed(
    module: nn.Module,
    episode: Episode,
    normalization: Normalization,
    weights: Weights | None = None,
    *,
    joint: bool,
) -> tuple[Tensor, Tensor]:
    """Apply a module to the supports and the queries: `[T, S, *out]`, `[T, Q, *out]`.

    Args:
        module: the backbone or network, prepared by `normalized`.
        episode: the tasks.
        normalization: with `support`, queries are normalized by the statistics of their task's support.
        weights: those that differ between tasks, `[T, …]`.
        joint: whether, with `transductive`, support and queries are normalized as one batch, or each alone.
    """
    support, queries = episode.support_x, episode.query_x
    if normalization != "support" and not joint:
        return run(module, support, weights), run(module, queries, weights)
    sizes = [support.shape[1], queries.shape[1]]
    reference = sizes[0] if normalization == "support" else None
    both = run(module, torch.cat([support, queries], 1), weights, reference=reference).to(support.dtype)
    return both.split(sizes, 1)  # type: ignore[no-any-return,no-untyped-call]


def by_class(support: Tensor, episode: Episode) -> Tensor:
    """Return support features `[T, S, …]` grouped by label: `[T, ways, shots, …]`."""
    order = episode.support_y.argsort(dim=1, stable=True)
    rows = torch.arange(len(support), device=support.device)[:, None]
    return support[rows, order].unflatten(1, (episode.ways, episode.shots))  # type: ignore[no-untyped-call,no-any-return]


def predict(module: nn.Module, episode: Episode, normalization: Normalization, weights: Weights) -> Tensor:
    """Predict the queries with each task's own weights: `[T, Q, outputs]`."""
    if normalization == "support":
        return embed(module, episode, normalization, weights, joint=True)[1]
    return run(module, episode.query_x, weights)


def fit(
    network: Network,
    episode: Episode,
    losses: Callable[[Tensor, Tensor], Tensor],
    update: UpdateRule,
    steps: int,
    *,
    order: Order,
) -> Weights:
    """Adapt every weight of a network that is not frozen to each task's support.

    Args:
        network: prepared by `normalized`.
        episode: the tasks.
        losses: from predictions and labels of the supports to the losses of the tasks, `[T]`.
        update: takes each step.
        steps: how many.
        order: as of `adapt`.
    """

    def loss(weights: Weights) -> Tensor:
        return losses(run(network, episode.support_x, weights), episode.support_y)

    return adapt(loss, stacked(network.trainable, len(episode)), update, steps, order=order).weights
