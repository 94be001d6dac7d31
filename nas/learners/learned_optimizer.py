"""A learned optimizer: a recurrent network turns gradients into steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from nas.learners.coordinates import LstmCell, blocks, joined, log_and_sign, parted
from nas.learners.folded import Weights
from nas.learners.update import State, UpdateRule

Preprocessing = Literal["clamped", "log_and_sign", "none"]


@final
class LearnedOptimizer(UpdateRule):
    """w ← w + s m(∇, h), with m an LSTM over each coordinate's gradients (Andrychowicz et al. 2016).

    Its layers and the linear one on top are the same for every coordinate, each of which has a state of its
    own. s is the learner's `inner_lr`: 0.01 in the paper's code for networks; for its quadratics 1, without
    preprocessing. Without layers and preprocessing it is gradient descent at a learned rate.
    """

    name = "learned_optimizer"

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        lr: float,
        *,
        layers: Annotated[int, Field(ge=0, description="layers of the LSTM")] = 2,
        hidden: Annotated[int, Field(ge=1, description="width of a layer")] = 20,
        preprocessing: Annotated[
            Preprocessing,
            Field(description="of gradients: as in the paper's code, or its text"),
        ] = "clamped",
        p: Annotated[float, Field(gt=0, description="gradients below e⁻ᵖ count as small")] = 5,
        second_order: Annotated[
            bool, Field(description="whether the meta-gradient runs through the gradients, too")
        ] = False,
    ) -> None:
        super().__init__(weights, lr)
        self.constant = not second_order
        self.lr, self.preprocessing, self.p = lr, preprocessing, p
        inputs = 1 if preprocessing == "none" else 2
        cells = [LstmCell(hidden if i else inputs, hidden) for i in range(layers)]
        self.layers, self.held = nn.ModuleList(cells), sum(cell.held for cell in cells)
        self.linear = nn.Linear(hidden if layers else inputs, 1, bias=layers > 0)

    def init(self, weights: Weights) -> State:
        """Return a state of zeros for each block of coordinates, in it for each layer."""
        return [
            [layer.begin(rows[:, None]) for layer in self.layers]  # type: ignore[operator]
            for rows in blocks(joined(weights))
        ]

    def step(
        self, state: State, weights: Weights, gradients: Weights, losses: Tensor
    ) -> tuple[State, Weights]:
        """Move every coordinate by what the network makes of its gradient."""
        slopes = joined(gradients)
        slopes = slopes.detach() if self.constant else slopes
        with torch.autocast(slopes.device.type, enabled=False):
            steps, following = zip(*map(self._step, state, blocks(slopes)), strict=True)
            moved = joined(weights) + self.lr * torch.cat(steps, 1)
        return list(following), parted(moved, weights)

    def _step(self, state: Sequence[State], slopes: Tensor) -> tuple[Tensor, list[State]]:
        """Return where some coordinates go, `[T, N]`, and the next state of each layer."""
        found, following = self._prepared(slopes), list[State]()
        for layer, before in zip(self.layers, state, strict=True):
            after = layer(found, before)
            following.append(after)
            found = after[0]
        return self.linear(found.mT)[..., 0], following

    def _prepared(self, slopes: Tensor) -> Tensor:
        """Return what the first layer reads: `[T, N]` to `[T, 1 or 2, N]`."""
        match self.preprocessing:
            case "none":
                return slopes[:, None]
            case "log_and_sign":
                return log_and_sign(slopes, self.p)
            case "clamped":
                return clamped(slopes, self.p)


def clamped(x: Tensor, k: float) -> Tensor:
    """Return (log|x| / k, at least −1; eᵏ x between −1 and 1), `[…, N]` to `[…, 2, N]`.

    It is the preprocessing of the code of Andrychowicz et al. (2016).
    """
    logs = (x.abs() + torch.finfo(x.dtype).eps).log() / k
    return torch.stack([logs.clamp(min=-1.0), (x * math.exp(k)).clamp(-1.0, 1.0)], -2)
