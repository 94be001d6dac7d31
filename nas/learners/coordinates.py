"""What learned update rules share: one small network for every coordinate of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nas.learners.folded import Weights


def joined(weights: Weights) -> Tensor:
    """Return weights `[T, …]` as their coordinates, one after the other: `[T, N]`."""
    return torch.cat([weight.flatten(1) for weight in weights.values()], 1)


def parted(coordinates: Tensor, like: Weights) -> Weights:
    """Return coordinates `[T, N]` as weights, by the names and shapes of others."""
    sizes = [weight[0].numel() for weight in like.values()]
    parts = coordinates.split(sizes, 1)  # type: ignore[no-untyped-call]
    return {name: part.view(weight.shape) for (name, weight), part in zip(like.items(), parts, strict=True)}


def log_and_sign(x: Tensor, p: float) -> Tensor:
    """Return two numbers of similar size for numbers of any size, `[…]` to `[…, 2]`.

    (log|x| / p, sign x) where |x| ≥ e⁻ᵖ, else (−1, eᵖ x) (Andrychowicz et al. 2016, appendix A).
    """
    size, small = x.abs(), math.exp(-p)
    large = size >= small
    logs = torch.where(large, size.clamp(min=small).log() / p, -1.0)
    return torch.stack([logs, torch.where(large, x.sign(), x / small)], -1)


class LstmCell(nn.Module):
    """A layer of an LSTM (Hochreiter & Schmidhuber 1997) with one bias, whose rows are the coordinates.

    Of plain operations, which differentiate twice and under `torch.func`.
    """

    def __init__(self, inputs: int, hidden: int, spread: float | None = None) -> None:
        super().__init__()
        spread = hidden**-0.5 if spread is None else spread
        self.hidden = hidden
        self.inputs = nn.Parameter(torch.empty(inputs, 4 * hidden).uniform_(-spread, spread))
        self.recurrent = nn.Parameter(torch.empty(hidden, 4 * hidden).uniform_(-spread, spread))
        self.bias = nn.Parameter(torch.empty(4 * hidden).uniform_(-spread, spread))

    def begin(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return state and cell of zeros for inputs `[…, anything]`: `[…, hidden]` each."""
        zeros = rows.new_zeros(*rows.shape[:-1], self.hidden)
        return zeros, zeros

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Map inputs `[…, inputs]` and the last state and cell to the next ones."""
        before, cell = state
        gates = torch.matmul(x, self.inputs) + torch.matmul(before, self.recurrent) + self.bias
        sigmoids = gates[..., : 3 * self.hidden].sigmoid()
        enter, forget, leave = sigmoids.chunk(3, -1)
        cell = forget * cell + enter * gates[..., 3 * self.hidden :].tanh()
        return leave * cell.tanh(), cell
