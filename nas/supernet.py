"""Every choice of a search space at once, and the way between mixtures of choices and architectures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import TypeAlias, final

from torch import Tensor, nn
from torch.func import replace_all_batch_norm_modules_
from torch.overrides import handle_torch_function, has_torch_function

from nas.backbone import BackboneSpace, width_of
from nas.errors import Unsupported
from nas.product import Product
from nas.space import Architecture, Decision, TaskShape

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
        drawn: the decisions, by their index, of which one choice happens at a time, its weight being its
            probability: no loss has a gradient in these weights. Of the others choices are added up.
        graded: the decisions whose weights are themselves derived: a probability, or how far it is from the
            first choice to the last.
        conditions: of the decisions that matter only where another, drawn one takes a choice, which one and
            which choice. It comes before them.
    """

    decisions: tuple[Decision, ...]
    drawn: frozenset[int] = frozenset()
    graded: frozenset[int] = frozenset()
    conditions: Mapping[int, tuple[int, int]] = MappingProxyType({})

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


@final
class Sole(Supernet):
    """The one network of a space that has no supernet: its default, in which nothing is mixed."""

    def __init__(self, space: BackboneSpace, shape: TaskShape) -> None:
        super().__init__()
        self._architecture = space.default
        self._text = space.text(space.default)
        self._network = space.build(space.default, shape)
        replace_all_batch_norm_modules_(self._network)
        self.decisions = ()
        self.out_features = width_of(self._network)

    def mixture_of(self, architecture: Architecture) -> list[Tensor]:
        """Return nothing.

        Raises:
            Unsupported: it is another network.
        """
        self._check(architecture)
        return []

    def derive(self, mixture: Mixture) -> Architecture:
        """Return the space's default."""
        return self._architecture

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Return the features of a batch."""
        features: Tensor = self._network(x)
        return features

    def extract(self, architecture: Architecture) -> nn.Module:
        """Return the network.

        Raises:
            Unsupported: another one is asked for.
        """
        self._check(architecture)
        return self._network

    def _check(self, architecture: Architecture) -> None:
        if architecture != self._architecture:
            raise Unsupported(f"These weights are of the network {self._text} alone.")


@final
class Joint(Relaxation):
    """The relaxations of several slots of a product side by side; the other slots are at their default.

    Args:
        product: the space of what is derived.
        parts: a relaxation for each of some slots, in the product's order.
    """

    def __init__(self, product: Product, parts: Mapping[str, Relaxation]) -> None:
        self._product, self._parts = product, dict(parts)
        starts = [*accumulate((len(part.decisions) for part in parts.values()), initial=0)]
        self._ranges = dict(zip(parts, pairwise(starts), strict=True))
        self.decisions = tuple(
            replace(decision, name=f"{slot}.{decision.name}", anchors=())
            for slot, part in parts.items()
            for decision in part.decisions
        )
        offsets = [(start, part) for start, part in zip(starts, parts.values(), strict=False)]
        self.drawn = frozenset(start + i for start, part in offsets for i in part.drawn)
        self.graded = frozenset(start + i for start, part in offsets for i in part.graded)
        self.conditions = {
            start + i: (start + other, choice)
            for start, part in offsets
            for i, (other, choice) in part.conditions.items()
        }

    def split(self, mixture: Mixture) -> dict[str, Mixture]:
        """Return the mixture of each slot."""
        return {slot: mixture[start:end] for slot, (start, end) in self._ranges.items()}

    def mixture_of(self, architecture: Architecture) -> list[Tensor]:
        """Return the mixtures of the slots, one after the other."""
        chosen = self._product.parts(architecture)
        return [weights for slot, part in self._parts.items() for weights in part.mixture_of(chosen[slot])]

    def derive(self, mixture: Mixture) -> Architecture:
        """Return what each slot derives."""
        own = self.split(mixture)
        return self._product.join({slot: part.derive(own[slot]) for slot, part in self._parts.items()})
