"""What learned update rules share: one small network for every coordinate of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nas.learners.folded import Weights

BLOCK = 8192
"""Coordinates that a CPU goes through at once: what is computed of them fits into its cache."""


def blocks(coordinates: Tensor) -> tuple[Tensor, ...]:
    """Return coordinates `[…, N]` of `T` tasks in blocks that suit the device."""
    if coordinates.device.type != "cpu":
        return (coordinates,)
    return coordinates.split(max(1, BLOCK // len(coordinates)), -1)  # type: ignore[no-untyped-call, no-any-return]


def joined(weights: Weights) -> Tensor:
    """Return weights `[T, …]` as their coordinates, one after the other: `[T, N]`."""
    return torch.cat([weight.flatten(1) for weight in weights.values()], 1)


def parted(coordinates: Tensor, like: Weights) -> Weights:
    """Return coordinates `[T, N]` as weights, by the names and shapes of others."""
    sizes = [weight[0].numel() for weight in like.values()]
    parts = coordinates.split(sizes, 1)  # type: ignore[no-untyped-call]
    return {name: part.view(weight.shape) for (name, weight), part in zip(like.items(), parts, strict=True)}


def log_and_sign(x: Tensor, p: float) -> Tensor:
    """Return two numbers of similar size for numbers of any size, `[…, N]` to `[…, 2, N]`.

    (log|x| / p, sign x) where |x| ≥ e⁻ᵖ, else (−1, eᵖ x) (Andrychowicz et al. 2016, appendix A).
    """
    size, small = x.abs(), math.exp(-p)
    large = size >= small
    logs = torch.where(large, size.clamp(min=small).log() / p, -1.0)
    return torch.stack([logs, torch.where(large, x.sign(), x / small)], -2)


class LstmCell(nn.Module):
    """A layer of an LSTM (Hochreiter & Schmidhuber 1997) with one bias, each of whose rows has its own state.

    Of plain operations, which differentiate twice and under `torch.func`. Rows are last, so that the parts of
    the gates lie together in memory: there may be far more rows than numbers in each.

    Attributes:
        held: numbers for each row, about, that the graph of a step holds.
    """

    def __init__(self, inputs: int, hidden: int, spread: float | None = None) -> None:
        super().__init__()
        spread = hidden**-0.5 if spread is None else spread
        self.hidden = hidden
        self.held = 10 * hidden
        self.inputs = nn.Parameter(torch.empty(4 * hidden, inputs).uniform_(-spread, spread))
        self.recurrent = nn.Parameter(torch.empty(4 * hidden, hidden).uniform_(-spread, spread))
        self.bias = nn.Parameter(torch.empty(4 * hidden).uniform_(-spread, spread))

    def begin(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return state and cell of zeros, `[T, hidden, N]` each, for inputs `[T, anything, N]`."""
        zeros = rows.new_zeros(len(rows), self.hidden, rows.shape[-1])
        return zeros, zeros

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Map inputs `[T, inputs, N]` and the last state and cell to the next ones."""
        before, cell = state
        weight = torch.cat([self.inputs, self.recurrent], 1).expand(len(x), -1, -1)
        gates = torch.baddbmm(self.bias[:, None], weight, torch.cat([x, before], 1))
        enter, forget, leave, value = gates.chunk(4, 1)
        cell = torch.addcmul(forget.sigmoid() * cell, enter.sigmoid(), tanh(value))
        return leave.sigmoid() * tanh(cell), cell


def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent by the logistic function, of which torch takes a fifth of the time."""
    return (2 * x).sigmoid() * 2 - 1
