import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from controllers.curvature import lanczos, largest_eigenvalue
from controllers.relaxation import Alpha
from nas.space import Decision
from nas.strategy import MixtureLoss

DECISIONS = (Decision("a", ("x", "y", "z")), Decision("b", ("x", "y")), Decision("c", ("x", "y", "z")))


def alpha_at(seed: int) -> Alpha:
    alpha, rng = (
        Alpha(DECISIONS, np.random.default_rng(seed), 1e-3, 0.0).double(),
        np.random.default_rng(seed),
    )
    alpha.restore([torch.tensor(rng.normal(size=len(d.choices))) for d in DECISIONS])
    return alpha


def network_loss(seed: int, sign: float = 1.0) -> MixtureLoss:
    """A small network of the mixture: curved both up and down."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    return lambda mixture, weights=None: sign * layers(torch.cat(list(mixture))).square().sum()


def hessian(alpha: Alpha, loss: MixtureLoss) -> Tensor:
    """Return ∇²L(α) by torch's own double differentiation, all of it."""
    sizes = [len(x) for x in alpha.logits]

    def flat(logits: Tensor) -> Tensor:
        return loss([part.softmax(0) for part in logits.split(sizes)])

    found: Tensor = torch.autograd.functional.hessian(flat, torch.cat([x.detach() for x in alpha.logits]))
    return found


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dense", [0, 64])
def test_both_ways_find_the_largest_eigenvalue(seed: int, sign: float, dense: int) -> None:
    alpha, loss = alpha_at(seed), network_loss(seed, sign)
    eigenvalues = torch.linalg.eigvalsh(hessian(alpha, loss))
    rng = np.random.default_rng(seed)
    found = largest_eigenvalue(alpha, loss, rng, tolerance=1e-12, dense=dense)
    assert found == pytest.approx(float(eigenvalues[-1]), rel=1e-6)


def test_both_signs_of_the_dominant_eigenvalue_are_met_above() -> None:
    signs = set()
    for seed in range(5):
        for sign in (1.0, -1.0):
            eigenvalues = torch.linalg.eigvalsh(hessian(alpha_at(seed), network_loss(seed, sign)))
            signs.add(bool(eigenvalues[-1] > -eigenvalues[0]))
    assert signs == {True, False}


@pytest.mark.parametrize("seed", range(5))
def test_the_default_tolerance_is_enough_to_see_a_rise_by_a_third(seed: int) -> None:
    alpha, loss = alpha_at(seed), network_loss(seed)
    largest = float(torch.linalg.eigvalsh(hessian(alpha, loss))[-1])
    assert largest_eigenvalue(alpha, loss, np.random.default_rng(0), dense=0) == pytest.approx(
        largest, rel=0.02
    )


def test_a_flat_loss_has_no_curvature() -> None:
    rng = np.random.default_rng(0)
    assert largest_eigenvalue(alpha_at(0), lambda m, w=None: torch.ones(()), rng) == 0
    for dense in (0, 64):
        linear = largest_eigenvalue(alpha_at(0), lambda m, w=None: 0 * m[0].sum(), rng, dense=dense)
        assert linear == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, -30.0, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_lanczos_in_many_dimensions(seed: int, shift: float) -> None:
    """On spectra that are positive, negative and both; far fewer products than dimensions."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(224, 224, generator=generator, dtype=torch.float64)
    matrix = (square + square.T) / 2 + shift * torch.eye(224, dtype=torch.float64)
    start, products = torch.randn(224, generator=generator, dtype=torch.float64), []
    found = lanczos(lambda v: products.append(0) or matrix @ v, start, 1e-3, 100)  # type: ignore[func-returns-value]
    assert found == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=2e-3)
    assert len(products) < 100


def test_what_does_not_converge_or_is_not_finite_is_nan() -> None:
    matrix = torch.diag(torch.linspace(0, 1, 200, dtype=torch.float64))
    start = torch.ones(200, dtype=torch.float64)
    assert math.isnan(lanczos(lambda v: matrix @ v, start, 1e-6, 5))
    assert lanczos(lambda v: matrix @ v, start, 1e-6, 200) == pytest.approx(1, rel=1e-6)
    assert math.isnan(lanczos(lambda v: v * math.inf, start, 1e-6, 5))
    infinite: MixtureLoss = lambda mixture, weights=None: mixture[0].square().sum() * math.inf  # noqa: E731
    for dense in (0, 64):
        assert math.isnan(largest_eigenvalue(alpha_at(0), infinite, np.random.default_rng(0), dense=dense))
