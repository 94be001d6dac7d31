"""What supernets share: weights of zero, mixtures of a space's decisions, and batch norm by the batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import replace_all_batch_norm_modules_

from nas.backbone import BackboneSpace
from nas.space import Architecture, Decision
from nas.supernet import Mixture, Supernet


def nonzero(mixture: Mixture, decisions: Sequence[Decision]) -> list[list[int]]:
    """Return the choices of each decision whose weight is not zero.

    Raises:
        ValueError: the mixture is not one weight for each choice of each decision.
    """
    shapes = [tuple(weights.shape) for weights in mixture]
    if shapes != [(len(decision.choices),) for decision in decisions]:
        raise ValueError(
            f"A mixture has one weight for each choice of each of the {len(decisions)} decisions; "
            f"these have shapes {shapes}."
        )
    flat = iter(torch.cat([weights.detach() for weights in mixture]).tolist())
    return [[i for i, weight in zip(range(size), flat, strict=False) if weight] for (size,) in shapes]


def one_hot(choices: Iterable[int], decisions: Sequence[Decision], like: Tensor) -> list[Tensor]:
    """Return one weight of 1 per decision, in the precision and on the device of another tensor."""
    pairs = zip(choices, decisions, strict=True)
    return [torch.eye(len(d.choices), dtype=like.dtype, device=like.device)[i] for i, d in pairs]


class DirectSupernet(Supernet):
    """A supernet that mixes the decisions of its space as they are.

    Args:
        space: whose decisions these are.
    """

    space: BackboneSpace

    def __init__(self, space: BackboneSpace) -> None:
        super().__init__()
        self.space = space
        self.decisions = space.decisions

    def mixture_of(self, architecture: Architecture) -> list[Tensor]:
        """Return a weight of 1 for what is chosen."""
        choices = self.space.check(architecture).choices
        return one_hot(choices, self.decisions, next(self.parameters()))

    def derive(self, mixture: Mixture) -> Architecture:
        """Return the strongest choice of each decision (Dong & Yang 2020, §4), `none` among them."""
        return Architecture(self.space.name, tuple(int(weights.argmax()) for weights in mixture))


def of_the_batch(module: nn.Module, *, affine: bool = True) -> nn.Module:
    """Make the batch norms of a module normalize by their batch, in evaluation too, in place.

    Args:
        module: with fresh weights.
        affine: whether they keep their scales and shifts. Those of a mixed operation have none (Liu et al.
            2019, §3.1.1): a scale would undo the weight that the operation is mixed by, and a shift would
            reach the output from edges that carry nothing.
    """
    replace_all_batch_norm_modules_(module)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and not affine:
            part.affine, part.weight, part.bias = False, None, None  # type: ignore[assignment]
    return module
