"""Weights of examples: how much each one's loss counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor, nn


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


@final
class Uniform(Weighting):
    """Every example counts alike."""

    name = "uniform"

    def forward(self, losses: Tensor, targets: Tensor) -> Tensor:
        """Return ones."""
        return torch.ones_like(losses)
