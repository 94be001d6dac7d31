"""GDAS's estimator against its own expectation, which is no true gradient: straight-through is biased.

With s = softmax((α + G) / τ) and k the largest of α + G, one draw's gradient in α_j is
(∂L/∂h_k at the one-hot of k) · s_k (δ_kj − s_j) / τ. Its expectation over the Gumbel noise G needs
A_kj = E[1{k is largest} s_k (δ_kj − s_j) / τ]. They are taken here by quadrature over the differences
d = α + G − (α_k + G_k) ≤ 0, whose density is (n − 1)! Π θ_i e^{−d_i} / (Σ θ_i e^{−d_i})^n with θ = e^α.
"""

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from controllers.gdas import HardGumbel, straight_through
from nas.bilevel import gradient
from nas.strategy import MixtureLoss
from nas.supernet import Mixture
from nas.testing.toy_supernet import ToyCurves, ToyRegression

ALPHA = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)


def integrals(alpha: Tensor, temperature: float, points: int = 400) -> Tensor:
    """Return A, `[choices, choices]`, of two or three choices."""
    n = len(alpha)
    nodes, weights = np.polynomial.legendre.leggauss(points)
    # d = −u / (1 − u): the half line to the unit interval
    u, w = torch.tensor((nodes + 1) / 2), torch.tensor(weights / 2)
    axis, measure = -u / (1 - u), w / (1 - u).square()
    found = torch.zeros(n, n, dtype=torch.float64)
    for k in range(n):
        grids = torch.meshgrid(*[axis] * (n - 1), indexing="ij")
        volume = torch.ones_like(grids[0])
        for scale in torch.meshgrid(*[measure] * (n - 1), indexing="ij"):
            volume = volume * scale
        others = [i for i in range(n) if i != k]
        d = torch.zeros(*grids[0].shape, n, dtype=torch.float64)
        for i, grid in zip(others, grids, strict=True):
            d[..., i] = grid
        logs = alpha - d
        density = math.factorial(n - 1) * torch.exp(logs.sum(-1) - n * logs.logsumexp(-1))
        soft = (d / temperature).softmax(-1)
        for j in range(n):
            slope = soft[..., k] * (float(j == k) - soft[..., j]) / temperature
            found[k, j] = (density * slope * volume).sum()
    return found


def choose(alpha: Tensor, noise: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return draws, `[rows, choices]`, and leaves to see each row's own gradient, of the same shape."""
    leaves = alpha.expand(len(noise), -1).clone().requires_grad_()
    return straight_through(leaves, noise, temperature), leaves


def gumbel(rows: int, choices: int, seed: int = 0) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).gumbel(size=(rows, choices)))


@pytest.mark.parametrize("temperature", [10.0, 0.1])
def test_draws_are_one_hot_and_as_frequent_as_the_softmax(temperature: float) -> None:
    rows = 40_000
    hard, _ = choose(ALPHA, gumbel(rows, 3), temperature)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert bool((hard.sum(-1) == 1).all())
    expected = rows * ALPHA.softmax(0)
    chi2 = float(((hard.detach().sum(0) - expected) ** 2 / expected).sum())
    assert chi2 < 13.8  # 99.9 % quantile at 2 degrees of freedom


def test_the_integrals_are_those_of_a_known_case() -> None:
    """Of two choices α₁ − α₂ + G₁ − G₂ is logistic, and A_11 an integral over its positive side."""
    alpha = torch.tensor([0.4, -0.2], dtype=torch.float64)
    found = integrals(alpha, 0.7)
    x, step = torch.linspace(0, 60, 200_001, dtype=torch.float64), 60 / 200_000
    at = x - (alpha[0] - alpha[1])
    logistic = torch.sigmoid(at) * torch.sigmoid(-at)
    slope = torch.sigmoid(x / 0.7) * torch.sigmoid(-x / 0.7) / 0.7
    wanted = torch.trapezoid(logistic * slope, dx=step)
    assert float(found[0, 0]) == pytest.approx(float(wanted), rel=1e-8)
    torch.testing.assert_close(found.sum(1), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("temperature", [10.0, 1.0, 0.3])
def test_one_draws_gradient_is_its_definition(temperature: float) -> None:
    noise = gumbel(50, 3)
    hard, leaves = choose(ALPHA, noise, temperature)
    outputs = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    chosen = hard.detach().bool()
    loss = (
        (hard[chosen] * outputs.expand(50, -1)[chosen] - 0.3) ** 2
    ).sum()  # only what is drawn is computed
    (found,) = torch.autograd.grad(loss, leaves)
    soft = ((ALPHA + noise) / temperature).softmax(-1)
    k = (ALPHA + noise).argmax(-1)
    slope = 2 * (outputs[k] - 0.3) * outputs[k]
    wanted = soft.gather(1, k[:, None]) * (torch.eye(3, dtype=torch.float64)[k] - soft) / temperature
    torch.testing.assert_close(found, slope[:, None] * wanted)


@pytest.mark.parametrize("temperature", [5.0, 1.0, 0.3])
def test_the_mean_of_the_estimates_is_their_expectation(temperature: float) -> None:
    rows = 200_000
    hard, leaves = choose(ALPHA, gumbel(rows, 3, 1), temperature)
    outputs = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    chosen = hard.detach().bool()
    loss = ((hard[chosen] * outputs.expand(rows, -1)[chosen] - 0.3) ** 2).sum()
    (estimates,) = torch.autograd.grad(loss, leaves)
    slopes = 2 * (outputs - 0.3) * outputs
    wanted = slopes @ integrals(ALPHA, temperature)
    error = (estimates.mean(0) - wanted).abs() / (estimates.std(0) / math.sqrt(rows))
    assert float(error.max()) < 4  # standard errors


@pytest.mark.slow
def test_the_strategys_draws_have_the_expectation_over_two_decisions() -> None:
    """The whole path: a supernet, a loss that couples two decisions, and the strategy's own noise."""
    torch.manual_seed(0)
    space, rows, temperature = ToyCurves(features=2), 3000, 1.5
    problem = ToyRegression(space, 0, torch.float64)
    strategy = HardGumbel(space, problem.supernet, 0).double()
    with torch.no_grad():
        for logits in strategy.alpha.logits:
            logits.copy_(torch.tensor([-40.0, 0.4, 0.1, -0.6]))  # never `none`: three choices
    logits = list(strategy.alpha.logits)
    x = torch.tensor(np.random.default_rng(3).normal(size=(8, 2)))

    def loss(mixture: list[Tensor]) -> Tensor:
        out: Tensor = problem.supernet(x, mixture)
        return (out.sum(1) - x[:, 0] ** 2).square().mean()

    estimates = torch.stack([gradient(loss(strategy.draw(temperature)), logits)[0] for _ in range(rows)])
    alpha = logits[0].detach()[1:]
    shares, kernel = alpha.softmax(0), integrals(alpha, temperature)
    wanted, one_hot = torch.zeros(3, dtype=torch.float64), partial(torch.eye, 4, dtype=torch.float64)
    for k in range(3):
        for other in range(3):
            mixture = [one_hot()[k + 1].requires_grad_(), one_hot()[other + 1]]
            slope = gradient(loss(mixture), mixture[:1])[0][k + 1]
            wanted += shares[other] * slope * kernel[k]
    error = (estimates[:, 1:].mean(0) - wanted).abs() / (estimates[:, 1:].std(0) / math.sqrt(rows))
    assert float(error.max()) < 4
    assert float(estimates[:, 0].abs().max()) < 1e-6


def test_what_is_not_drawn_is_not_computed() -> None:
    space = ToyCurves(features=1)
    problem = ToyRegression(space, 0)
    strategy, optimizer = (
        HardGumbel(space, problem.supernet, 0),
        torch.optim.SGD(problem.supernet.parameters()),
    )
    mixtures: list[Tensor] = []

    def recorded(loss: MixtureLoss) -> MixtureLoss:
        def record(mixture: Mixture, weights: Mapping[str, Tensor] | None = None) -> Tensor:
            mixtures.append(mixture[0].detach())
            return loss(mixture, weights)

        return record

    for _ in range(30):
        batches = problem.batches()
        recording = batches._replace(inner=recorded(batches.inner), outer=recorded(batches.outer))
        strategy.step(recording, optimizer, 0.5)
    assert len(mixtures) == 60  # the weights' draw and α's, each by itself
    assert all(sorted(mixture.tolist()) == [0, 0, 0, 1] for mixture in mixtures)
    assert {int(mixture.argmax()) for mixture in mixtures} == {0, 1, 2, 3}
    assert any(not torch.equal(*mixtures[i : i + 2]) for i in range(0, 60, 2))
