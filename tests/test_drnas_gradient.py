"""DrNAS's draws and their gradients against the moments of a Dirichlet distribution."""

import math

import pytest
import torch
from torch import Tensor

from controllers.drnas import DrawnMixture, concentration, dirichlet
from nas.testing.toy_supernet import ToyCurves, ToyRegression

ALPHA = torch.tensor([0.7, -1.5, 0.0, -0.2], dtype=torch.float64)
ROWS = 100_000


def moments(beta: Tensor) -> tuple[Tensor, Tensor]:
    """Return E[w] and E[w wᵀ]: β_i / s, and β_i (β_j + δ_ij) / (s (s + 1)) with s = Σβ."""
    total = beta.sum()
    return beta / total, (torch.outer(beta, beta) + beta.diag()) / (total * (total + 1))


def test_draws_have_the_moments_of_their_distribution() -> None:
    drawn = dirichlet(ALPHA.expand(ROWS, -1), 0)
    assert torch.equal(drawn, dirichlet(ALPHA.expand(ROWS, -1), 0))
    torch.testing.assert_close(drawn.sum(-1), torch.ones(ROWS, dtype=torch.float64))
    beta = torch.tensor([1.7, math.exp(-1.5), 1.0, math.exp(-0.2)], dtype=torch.float64)
    torch.testing.assert_close(concentration(ALPHA), beta)
    mean, second = moments(beta)
    for power, wanted in ((drawn, mean), (drawn.square(), second.diagonal())):
        error = (power.mean(0) - wanted).abs() / (power.std(0) / math.sqrt(ROWS))
        assert float(error.max()) < 4  # standard errors


def test_the_mean_of_the_gradients_is_that_of_the_expectation() -> None:
    """Of a loss that is quadratic in the weights, whose expectation is a function of two moments."""
    generator = torch.Generator().manual_seed(1)
    linear, square = (torch.randn(*size, generator=generator).double() for size in ((4,), (4, 4)))
    leaves = ALPHA.expand(ROWS, -1).clone().requires_grad_()
    drawn = dirichlet(leaves, 2)
    (drawn @ linear + torch.einsum("ri,ij,rj->r", drawn, square, drawn)).sum().backward()
    alpha = ALPHA.clone().requires_grad_()
    mean, second = moments(concentration(alpha))
    (wanted,) = torch.autograd.grad(mean @ linear + (square * second).sum(), alpha)
    error = (leaves.grad.mean(0) - wanted).abs() / (leaves.grad.std(0) / math.sqrt(ROWS))
    assert float(error.max()) < 4
    assert float((wanted / (leaves.grad.std(0) / math.sqrt(ROWS))).abs().max()) > 20  # no test of zero


def test_small_concentrations_draw_finite_weights_and_gradients() -> None:
    logits = torch.tensor([-12.0, -9.0, -15.0], requires_grad=True)
    for seed in range(50):
        drawn = dirichlet(logits, seed)
        (slope,) = torch.autograd.grad(drawn[0], logits)
        assert bool(drawn.isfinite().all() and slope.isfinite().all())
        assert float(drawn.detach().sum()) == pytest.approx(1)


def test_a_step_has_a_draw_for_alpha_and_another_for_the_weights() -> None:
    space = ToyCurves(features=2)
    problem = ToyRegression(space, 0)
    strategy = DrawnMixture(space, problem.supernet, 0, alpha_rate=0.1)
    optimizer = torch.optim.SGD(problem.supernet.parameters(), 0.1)
    batches, seen = problem.batches(), list[tuple[str, list[Tensor]]]()
    recording = batches._replace(
        inner=lambda mixture, weights=None: seen.append(("inner", mixture)) or batches.inner(mixture),
        outer=lambda mixture, weights=None: seen.append(("outer", mixture)) or batches.outer(mixture),
    )
    strategy.step(recording, optimizer, 0.0)
    assert [name for name, _ in seen] == ["outer", "inner"]
    (_, outer), (_, inner) = seen
    assert all(weights.requires_grad for weights in outer)
    assert not any(weights.requires_grad for weights in inner)
    assert all(not torch.equal(a.detach(), b) for a, b in zip(outer, inner, strict=True))
    assert not torch.equal(outer[0].detach(), outer[1].detach())
    torch.testing.assert_close(inner[0].sum(), torch.ones(()))
