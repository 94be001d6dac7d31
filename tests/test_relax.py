"""RELAX: without bias, and with a variance that its control variate lowers."""

import numpy as np
import pytest
import torch
from torch import nn

from controllers.relax import ControlVariate, draw, relax

pytestmark = pytest.mark.usefixtures("one_thread")

DRAWS = 20_000
PAIR = torch.tensor([0.3, -0.5], dtype=torch.float64)
HAPPENS = torch.tensor([[[0.2, -0.4], [-0.7, 0.1]], [[1.2, -0.4], [-0.3, 0.6]]], dtype=torch.float64)
"""Logits of two sub-policies, and of whether either of their two operations happens."""


def enumerated(losses):
    """Return the gradient of the mean loss in all logits, every outcome by its probability."""
    pair, happens = PAIR.clone().requires_grad_(), HAPPENS.clone().requires_grad_()
    chance = happens.softmax(-1)
    mean = torch.einsum("k,ka,kb,kab->", pair.softmax(0), chance[:, 0], chance[:, 1], losses)
    return torch.autograd.grad(mean, [pair, happens])


def estimated(losses, control, draws, seed=0):
    """Return an estimate of each draw, of the sub-policies `[D, 2]` and of the operations `[D, 2, 2, 2]`."""
    rng = np.random.default_rng(seed)
    pair = draw(PAIR, draws, rng)
    of_pair, of_happens = torch.zeros(draws, 2).double(), torch.zeros(draws, 2, 2, 2).double()
    for k in range(2):
        rows = (pair.choices == k).nonzero()[:, 0]
        first, second = (draw(HAPPENS[k, slot], len(rows), rng) for slot in range(2))
        drawn = [(0, pair.at(rows)), (1 + 2 * k, first), (2 + 2 * k, second)]
        found = relax(losses[k, first.choices, second.choices], drawn, control)
        of_pair[rows] = found[0].detach()
        of_happens[rows, k] = torch.stack(found[1:], 1).detach()
    return of_pair, of_happens


def guess(seed=1, size=1.0):
    """Return a control variate of five decisions that guesses something."""
    control = ControlVariate([2] * 5, np.random.default_rng(seed)).double()
    with torch.no_grad():
        control.out.weight.copy_(size * torch.linspace(-1, 1, 100))
    return control


@pytest.mark.parametrize(
    ("draws", "size"), [(DRAWS, 0.3), pytest.param(200_000, 0.0, marks=pytest.mark.slow)]
)
def test_its_mean_is_the_gradient_by_enumeration(draws, size):
    """Of two sub-policies of two operations, whatever the control variate guesses."""
    losses = torch.tensor(np.random.default_rng(2).normal(size=(2, 2, 2)))
    for found, expected in zip(estimated(losses, guess(size=size), draws), enumerated(losses), strict=True):
        error = found.std(0) / draws**0.5
        assert ((found.mean(0) - expected) / error).abs().max() < 4
        assert expected.abs().max() > 5 * error.max()


def test_a_constant_loss_has_no_gradient():
    """On average; and in each draw, where the control variate guesses the constant."""
    losses = torch.full((2, 2, 2), 3.0, dtype=torch.float64)
    for found in estimated(losses, guess(), DRAWS):
        assert (found.mean(0) / (found.std(0) / DRAWS**0.5).clamp(min=1e-12)).abs().max() < 4
    known = guess(size=0.0)
    nn.init.constant_(known.out.bias, 3.0)
    for found in estimated(losses, known, 100):
        assert torch.equal(found, torch.zeros_like(found))


def test_a_guess_that_is_the_loss_of_the_draw_leaves_no_score():
    """The score's factor, f(b) − c(z̃), is 0 in each draw: z̃ leads to the same choice."""

    class Hard(ControlVariate):
        def forward(self, rows):
            return 0 * rows.sum(1) + torch.where(rows[:, 1] > rows[:, 0], 5.0, -2.0)

    drawn = draw(PAIR, 1000, np.random.default_rng(0))
    losses = torch.where(drawn.choices == 1, 5.0, -2.0).double()
    [found] = relax(losses, [(0, drawn)], Hard([2], np.random.default_rng(0)).double())
    assert torch.equal(found, torch.zeros_like(found))
    free, bound = drawn.relaxed()
    assert torch.equal(free.argmax(1), drawn.choices)
    assert torch.equal(bound.argmax(1), drawn.choices)


def test_the_control_variate_learns_to_spread_less():
    losses = torch.tensor(np.random.default_rng(3).normal(size=(2, 2, 2))) + 4
    control, spreads = guess(size=0.0), []
    adam = torch.optim.Adam(control.parameters(), 1e-2)
    for step in range(150):
        rng = np.random.default_rng([9, step])
        pair = draw(PAIR, 64, rng)
        rows = (pair.choices == 0).nonzero()[:, 0]
        ops = [draw(HAPPENS[0, slot], len(rows), rng) for slot in range(2)]
        drawn = [(0, pair.at(rows)), (1, ops[0]), (2, ops[1])]
        found = torch.cat(relax(losses[0, ops[0].choices, ops[1].choices], drawn, control)).square().mean()
        adam.zero_grad()
        found.backward()
        adam.step()
        spreads.append(float(found.detach()))
    assert np.mean(spreads[-20:]) < 0.3 * np.mean(spreads[:5])
