"""Every choice of a search space at once, in one network whose weights the architectures share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from nas.space import Architecture, Decision

Mixture: TypeAlias = Sequence[Tensor]
"""A weight for each choice of each of a supernet's decisions: entry i has shape `[choices of decision i]`."""


def tasks_of(x: Tensor) -> int | None:
    """Return how many tasks a batch holds, one after another, each with batch statistics of its own.

    Whoever folds tasks into one batch answers, by a `TorchFunctionMode` that overrides this function; 1 where
    nobody does. None: statistics are taken in some other way, which only `F.batch_norm` knows. Code that
    computes statistics itself asks here first.
    """
    if has_torch_function((x,)):
        tasks: int | None = handle_torch_function(tasks_of, (x,), x)
        return tasks
    return 1


class Relaxation(ABC):
    """What of a space is mixed, and the way between mixtures and architectures: all that a strategy sees.

    Attributes:
        decisions: what is mixed. They need not be the space's: where an architecture chooses both a node's
            inputs and their operations, what is relaxed is the operation of every possible edge.
    """

    decisions: tuple[Decision, ...]

    @abstractmethod
    def mixture_of(self, architecture: Architecture) -> list[Tensor]:
        """Return the weights, zeros and ones, under which what is mixed is one architecture."""

    @abstractmethod
    def derive(self, mixture: Mixture) -> Architecture:
        """Return the architecture of the strongest choices, by the rule of the space's paper."""


class Supernet(nn.Module, Relaxation):
    """A backbone that mixes competing operations by weights: `[batch, *input]` to `[batch, out_features]`.

    One contract serves every one-shot method: DARTS passes a softmax, GDAS a hard Gumbel sample, ENAS and
    single-path sampling a one-hot. Batch norm uses the batch's own statistics, in evaluation too: running
    averages belong to no architecture.

    Attributes:
        out_features: width of the output.
    """

    out_features: int

    @abstractmethod
    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Return the features of a batch.

        A choice whose weight is zero is not computed: neither its operation nor its weight gets a gradient.
        """

    @abstractmethod
    def extract(self, architecture: Architecture) -> nn.Module:
        """Return one architecture as a network of its own that shares this one's weights.

        Its outputs equal `forward` under `mixture_of(architecture)`; it is what `BackboneSpace.build` makes,
        but with batch norm as here.
        """
