"""RELAX: a gradient through what is drawn, without bias and with little variance (Grathwohl et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 0.1
"""Of what the control variate sees in place of a draw (Li et al. 2020, §4.1)."""

HIDDEN = 100
"""Units of the control variate (Grathwohl et al. 2018, and the code of DADA)."""

LEAST = 1e-6
"""Distance of a uniform number from 0 and 1."""


class Draws(NamedTuple):
    """Draws of one decision by the Gumbel trick.

    Attributes:
        logits: `[D, choices]`, a leaf for each draw.
        choices: `[D]`, drawn from the softmax of the logits.
        noise: uniform numbers `[2, D, choices]`, of z and of z̃.
    """

    logits: Tensor
    choices: Tensor
    noise: Tensor

    def at(self, rows: Tensor) -> Draws:
        """Return some of the draws."""
        return Draws(self.logits.detach()[rows].requires_grad_(), self.choices[rows], self.noise[:, rows])

    @property
    def one_hot(self) -> Tensor:
        """The choices as ones and zeros, `[D, choices]`."""
        return F.one_hot(self.choices, self.logits.shape[1]).to(self.logits)

    def relaxed(self) -> tuple[Tensor, Tensor]:
        """Return z, largest at the choice, and z̃, drawn anew among those largest there; `[D, choices]`.

        Both have a graph to the logits.
        """
        logs, (u, v) = self.logits.log_softmax(1), self.noise
        top = -v.gather(1, self.choices[:, None]).log()
        others = -(-v.log() / logs.exp() + top).log()
        bound = torch.where(self.one_hot.bool(), -top.log(), others)
        return logs - (-u.log()).log(), bound


def draw(logits: Tensor, count: int, rng: np.random.Generator) -> Draws:
    """Draw `count` times from the softmax of logits `[choices]`."""
    leaf = logits.detach().expand(count, -1).clone().requires_grad_()
    noise = torch.as_tensor(rng.uniform(LEAST, 1 - LEAST, (2, *leaf.shape))).to(leaf)
    choices = (leaf.detach().log_softmax(1) - (-noise[0].log()).log()).argmax(1)
    return Draws(leaf, choices, noise)


@final
class ControlVariate(nn.Module):
    """c, a perceptron of one hidden layer that guesses the loss from a relaxed draw; zero at the beginning.

    Args:
        sizes: the number of choices of each decision that is drawn.
        rng: draws the beginning.
    """

    def __init__(self, sizes: Sequence[int], rng: np.random.Generator) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        total = sum(sizes)
        self.hidden = nn.Linear(total, HIDDEN, device="meta").to_empty(device="cpu")
        self.out = nn.Linear(HIDDEN, 1, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            for parameter in self.hidden.parameters():
                drawn = rng.uniform(-1, 1, tuple(parameter.shape)) * total**-0.5
                parameter.copy_(torch.as_tensor(drawn))
            self.out.weight.zero_()
            self.out.bias.zero_()

    def forward(self, rows: Tensor) -> Tensor:
        """Return the guess of each row `[rows, Σ sizes]`, `[rows]`."""
        guess: Tensor = self.out(self.hidden(2 * rows - 1).tanh())
        return guess[:, 0]

    def row(self, place: int, values: Tensor) -> Tensor:
        """Return rows `[D, Σ sizes]` that hold the values `[D, choices]` of one decision, and zeros else."""
        before = sum(self.sizes[:place])
        return F.pad(values, (before, sum(self.sizes) - before - self.sizes[place]))


def relax(losses: Tensor, draws: Sequence[tuple[int, Draws]], control: ControlVariate) -> list[Tensor]:
    """Return the estimate of the gradient of the mean loss in the logits of each decision drawn.

    That is (f − c(z̃)) ∇log p(b) + ∇c(z) − ∇c(z̃), where the other decisions enter c as they were drawn: those
    before in the order given, on which what is drawn may depend; those after it do not.

    Args:
        losses: f of each draw, `[D]`.
        draws: of each decision its place among `control.sizes`, and what was drawn.
        control: c.

    Returns:
        For each decision `[D, choices]`, differentiable in c.
    """
    rows, context = list[Tensor](), torch.zeros(len(losses), sum(control.sizes)).to(losses)
    for place, drawn in draws:
        for z in drawn.relaxed():
            rows.append(context + control.row(place, (z / TEMPERATURE).softmax(1)))
        context = context + control.row(place, drawn.one_hot)
    guesses = control(torch.cat(rows)).view(len(draws), 2, len(losses))
    logits = [drawn.logits for _, drawn in draws]
    paths = torch.autograd.grad(
        (guesses[:, 0] - guesses[:, 1]).sum(), logits, create_graph=True, materialize_grads=True
    )
    scores = [drawn.one_hot - drawn.logits.detach().softmax(1) for _, drawn in draws]
    return [
        (losses - guess)[:, None] * score + path
        for guess, score, path in zip(guesses[:, 1], scores, paths, strict=True)
    ]
