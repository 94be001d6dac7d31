"""A toy space with a supernet, and a problem whose best architecture is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from nas.backbone import BackboneSpace
from nas.space import Architecture, Decision, Role, TaskShape
from nas.strategy import Batches, MixtureLoss
from nas.supernet import Mixture, Supernet

CURVES = ("none", "skip_connect", "quadratic", "cubic")
ROLES = (Role.ABSENT, Role.IDENTITY, None, None)


@final
class ToyCurves(BackboneSpace):
    """A curve for each feature: zero, the feature itself, or a learned multiple of a Legendre polynomial.

    The multiple lies in (−1, 1). Choices do not interact, so that a mean square error is a sum over them.
    What is no vector of so many features goes through a linear layer and a tanh first.
    """

    name: ClassVar[str] = "curves"

    def __init__(
        self, *, features: Annotated[int, Field(ge=1, description="features, each a choice")] = 3
    ) -> None:
        self.decisions = tuple(Decision(f"curve{i}", CURVES, roles=ROLES) for i in range(features))

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the curves of one architecture; see `BackboneSpace.build`."""
        return self.supernet(shape).extract(architecture)

    def canonical(self, architecture: Architecture) -> str:
        """Return the text: no two are equal."""
        return self.encode(architecture)

    def supernet(self, shape: TaskShape) -> Supernet:
        """Build all curves."""
        return CurvesSupernet(self, shape)


@final
class CurvesSupernet(Supernet):
    """All curves of all features: `[batch, *input]` to `[batch, features]`."""

    def __init__(self, space: ToyCurves, shape: TaskShape) -> None:
        super().__init__()
        self._space = space
        self.decisions = space.decisions
        self.out_features = len(space.decisions)
        self.stem: nn.Module = nn.Identity()
        if shape.input != (self.out_features,):
            self.stem = nn.Sequential(nn.Linear(math.prod(shape.input), self.out_features), nn.Tanh())
        self.weight = nn.ParameterList(nn.Parameter(torch.rand(2)) for _ in space.decisions)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Return the mixed curves."""
        curves = self.curves(x)
        mixed = [self._mixed(curves[:, i], i, weights) for i, weights in enumerate(mixture)]
        return torch.stack(mixed, 1)

    def curves(self, x: Tensor) -> Tensor:
        """Return each feature's curves, `[batch, features, curves]`."""
        return polynomials(self.stem(x.flatten(1)))

    def _mixed(self, curves: Tensor, feature: int, weights: Tensor) -> Tensor:
        total = torch.zeros_like(curves[:, 0])
        for choice, weight in enumerate(weights.unbind()):
            if ROLES[choice] is not Role.ABSENT and weight.detach() != 0:
                total = total + weight * self.multiple(feature, choice) * curves[:, choice]
        return total

    def multiple(self, feature: int, choice: int) -> Tensor | float:
        """Return what a feature's curve is multiplied by."""
        return 1.0 if choice < 2 else self.weight[feature][choice - 2].tanh()

    def mixture_of(self, architecture: Architecture) -> list[Tensor]:
        """Return one-hots of the choices."""
        like = self.weight[0]
        return [torch.eye(len(CURVES)).to(like)[choice] for choice in self._space.check(architecture).choices]

    def derive(self, mixture: Mixture) -> Architecture:
        """Return the strongest choices."""
        return Architecture(self._space.name, tuple(int(weights.argmax()) for weights in mixture))

    def extract(self, architecture: Architecture) -> nn.Module:
        """Return one architecture, its weights shared."""
        return _Path(self, self._space.check(architecture).choices)


@final
class _Path(nn.Module):
    def __init__(self, supernet: CurvesSupernet, choices: Sequence[int]) -> None:
        super().__init__()
        self.supernet, self.choices, self.out_features = supernet, choices, supernet.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the curves of one architecture."""
        curves = self.supernet.curves(x)
        chosen = [
            curves[:, i, choice] * self.supernet.multiple(i, choice) for i, choice in enumerate(self.choices)
        ]
        return torch.stack(chosen, 1)


def polynomials(x: Tensor) -> Tensor:
    """Return each feature's curves, `[batch, features, curves]`.

    Of features that are uniform within ±√3 they have mean 0, variance 1 (but `none`) and no correlation.
    """
    u = x / 3**0.5
    square = u.square()
    quadratic, cubic = 5**0.5 * (3 * square - 1) / 2, 7**0.5 * (5 * square - 3) * u / 2
    return torch.stack([torch.zeros_like(x), x, quadratic, cubic], -1)


class ToyRegression:
    """The double of one curve of each feature, cubic, quadratic and linear in turn, is to be regressed.

    The curves are orthogonal, so that the best architecture has each feature's own curve. Its least mean
    square error is 1, since none is doubled; with a wrong curve a feature's error is at least 4.

    Args:
        space: whose supernet is trained.
        seed: of the weights and of the examples; a batch is a function of it and of how many came before.
        dtype: of all.
    """

    rows = 32

    def __init__(self, space: ToyCurves, seed: int, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(seed)
        self.supernet = space.supernet(TaskShape((len(space.decisions),), 1)).to(dtype)
        self.best = Architecture(space.name, tuple((3, 2, 1)[i % 3] for i in range(len(space.decisions))))
        self.space, self.drawn = space, 0
        self._seed, self._dtype = seed, dtype

    def batches(self) -> Batches:
        """Return the next pair of batches."""
        return Batches(self._loss(), self._loss(), dict(self.supernet.named_parameters()))

    def score(self, architecture: Architecture) -> float:
        """Return minus the loss, on examples that are always the same."""
        with torch.no_grad():
            return -float(self._at(0)(self.supernet.mixture_of(architecture)))

    def _loss(self) -> MixtureLoss:
        self.drawn += 1
        return self._at(self.drawn)

    def _at(self, number: int) -> MixtureLoss:
        rng = np.random.default_rng([self._seed, number])
        size = self.rows, len(self.space.decisions)
        x = torch.tensor(rng.uniform(-(3**0.5), 3**0.5, size), dtype=self._dtype)
        best = torch.tensor(self.best.choices).expand(size)
        y = 2 * polynomials(x).gather(2, best[..., None])[..., 0]

        def loss(mixture: Mixture, weights: Mapping[str, Tensor] | None = None) -> Tensor:
            out: Tensor = functional_call(self.supernet, dict(weights or {}), (x, mixture))
            return (out - y).square().mean()

        return loss
