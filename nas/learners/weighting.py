"""Weights of examples: how much each one's loss counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, TypeAlias, final

import torch
from torch import Tensor, nn

from nas.tasks.base import Episode

MEAN_OVER = 100
"""Steps that the mean of weights is over: an exponential average of such a length."""

Judge: TypeAlias = Callable[[Tensor], Tensor]
"""From weights of a minibatch's examples `[T, B]` to the gradient, in these, of the loss of clean examples
after the step of the network that the weights make. It is negative for what should weigh more."""


class Weighting(nn.Module, ABC):
    """From the losses of examples to their weights; the loss is the mean of the products.

    A concrete weighting sets `name`, and its keyword-only arguments are its settings. Its parameters, where
    it has any, belong to φ: they learn through the inner loop, in whose loss the weights count.
    """

    name: ClassVar[str]

    @abstractmethod
    def forward(self, losses: Tensor, targets: Tensor) -> Tensor:
        """Return weights `[T, B]`, none negative, each task's by its own examples alone.

        1 is the weight of an example among equals, however many they are.

        Args:
            losses: of the examples `[T, B]`, without a graph.
            targets: their labels `[T, B]`, or values `[T, B, outputs]`.
        """

    def check(self, training: Episode) -> None:
        """Refuse training tasks whose examples it cannot weigh.

        Raises:
            ConfigError: they lack what it weighs by; says which setting to change.
        """

    def measurements(self) -> Mapping[str, float]:
        """Return what is to be told of it in the course of a training, by the name of a metric."""
        return {}


class Judged(Weighting):
    """A weighting that clean examples of ordinary data judge, at every step of the training.

    Attributes:
        optimizer: of its parameters, where these have one of their own; its state goes into checkpoints.
        mean: of the weights of about the last hundred steps; NaN before the first.
    """

    optimizer: torch.optim.Optimizer | None = None
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(float("nan")))

    @abstractmethod
    def weigh(self, losses: Tensor, targets: Tensor, judge: Judge) -> Tensor:
        """Return weights as `forward` does, without a graph; learn from what the judge says of some.

        Args:
            losses: as of `forward`.
            targets: likewise.
            judge: of these examples; it may be asked any number of times.
        """

    def note(self, weights: Tensor) -> None:
        """Take note of the weights of a step, for the mean."""
        now = weights.mean().to(self.mean)
        self.mean.copy_(torch.where(self.mean.isnan(), now, self.mean.lerp(now, 1 / MEAN_OVER)))

    def measurements(self) -> Mapping[str, float]:
        """Return the mean of weights, `weight_mean`, once there were any."""
        return {} if self.mean.isnan() else {"weight_mean": float(self.mean)}


@final
class Uniform(Weighting):
    """Every example counts alike."""

    name = "uniform"

    def forward(self, losses: Tensor, targets: Tensor) -> Tensor:
        """Return ones."""
        return torch.ones_like(losses)
