"""Learned rate and momentum: what is best on quadratics has a closed form."""

import math

import pytest
import torch
from small_networks import draw_network, draw_tasks
from torch.testing import assert_close

from nas.learners.inner import adapt
from nas.learners.learned_rates import RateAndMomentum
from nas.learners.maml import Maml
from nas.learners.update import Sgd

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT = {"rtol": 1e-12, "atol": 1e-12}
HALF = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
"""Eigenvalues of a quadratic."""


def errors(rule, eigenvalues, steps):
    """Return the error along each eigenvector after so many steps from an error of 1."""
    start = {"a": torch.ones(1, len(eigenvalues), dtype=torch.float64, requires_grad=True)}
    return adapt(lambda w: (eigenvalues * w["a"] ** 2).sum(1) / 2, start, rule, steps, order=2).weights["a"][
        0
    ]


def of(eigenvalues, lr, **settings):
    return RateAndMomentum({"a": torch.zeros_like(eigenvalues)}, lr, **settings).double()


def learn(rule, loss, steps=60):
    optimizer = torch.optim.LBFGS(rule.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


def set_rates(rule, rates):
    with torch.no_grad():
        [log_rates] = rule.log_rates
        log_rates.copy_(torch.as_tensor(rates, dtype=torch.float64).log())


def test_one_step_learns_the_rate_that_the_traces_give():
    """From errors e ~ N(0, I) the best rate is tr H² / tr H³."""
    rule = of(HALF, 0.1, per="all", momentum=0.0)
    learn(rule, lambda: (HALF * errors(rule, HALF, 1) ** 2).sum())
    assert rule.rate("a").item() == pytest.approx((HALF**2).sum().item() / (HALF**3).sum().item(), rel=1e-5)


def test_a_rate_for_each_step_reaches_the_optimum():
    """As many steps as there are eigenvalues, at the inverses of these, in whatever order."""
    rule = of(HALF, 0.1, per="all", steps=4, momentum=0.0)
    set_rates(rule, (1 / HALF).flip(0))
    assert_close(errors(rule, HALF, 4), torch.zeros(4, dtype=torch.float64), **EXACT)
    two = HALF[:2]
    rule = of(two, 0.4, per="all", steps=2, momentum=0.0)
    set_rates(rule, [0.8, 1.2])
    learn(rule, lambda: (errors(rule, two, 2) ** 2).sum())
    assert rule.log_rates[0].exp().tolist() == pytest.approx([1.0, 2.0], rel=1e-3)


def test_chebyshev_rates_have_the_least_worst_error():
    """1/α_t = (L+μ)/2 + (L−μ)/2 cos((2t−1)π/2T) leaves 1/T_T((L+μ)/(L−μ)) at worst."""
    low, high, steps = 1.0, 9.0, 5
    grid = torch.linspace(low, high, 401, dtype=torch.float64)
    nodes = torch.cos((2 * torch.arange(1, steps + 1, dtype=torch.float64) - 1) * math.pi / (2 * steps))
    rule = of(grid, 0.1, per="all", steps=steps, momentum=0.0)
    set_rates(rule, 1 / ((high + low) / 2 + (high - low) / 2 * nodes))
    worst = 1 / math.cosh(steps * math.acosh((high + low) / (high - low)))
    assert errors(rule, grid, steps).abs().max().item() == pytest.approx(worst, rel=1e-9)


def test_rate_and_momentum_are_learned_near_those_of_heavy_ball():
    """α = 4/(√L+√μ)², β = ((√L−√μ)/(√L+√μ))² are best as steps go to infinity; no rate alone comes near."""
    grid, steps = torch.linspace(1.0, 16.0, 8, dtype=torch.float64), 60
    rate, share = 4 / (4 + 1) ** 2, ((4 - 1) / (4 + 1)) ** 2
    rule = of(grid, 0.05, per="all", momentum=0.5)
    learn(rule, lambda: (errors(rule, grid, steps) ** 2).sum().log())
    left = errors(rule, grid, steps).norm()
    assert rule.rate("a").item() == pytest.approx(rate, rel=0.3)
    assert rule.momentum("a").item() == pytest.approx(share, rel=0.3)
    swept = [errors(Sgd({}, lr), grid, steps).norm() for lr in torch.linspace(0.02, 0.12, 21).tolist()]
    assert left < 1e-3 * min(swept)


def test_a_rate_for_each_weight_is_that_of_newton():
    rule = of(HALF, 0.2, per="weight", momentum=0.0)
    learn(rule, lambda: (HALF * errors(rule, HALF, 1) ** 2).sum())
    assert_close(rule.rate("a"), 1 / HALF, rtol=1e-3, atol=0)


@pytest.mark.parametrize("per", ["all", "layer", "weight"])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_it_begins_as_gradient_descent(per, momentum):
    def learner(update):
        backbone, shape = draw_network(0)
        torch.manual_seed(0)
        return Maml(backbone, shape, inner_lr=0.2, inner_steps=3, update=update).double(), draw_tasks(
            shape, 2
        )

    own, episode = learner(lambda w, lr: RateAndMomentum(w, lr, per=per, momentum=momentum, steps=2))
    plain, _ = learner(lambda w, lr: Sgd(w, lr, momentum=momentum))
    assert_close(own(episode), plain(episode), rtol=1e-9, atol=1e-12)


def test_what_shares_a_rate():
    weights = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2), "b.weight": torch.zeros(4)}
    sizes = {"all": [(3,)], "layer": [(3,)] * 2, "weight": [(3, 2, 3), (3, 2), (3, 4)]}
    for per, expected in sizes.items():
        rule = RateAndMomentum(weights, 0.1, per=per, steps=3)
        assert [tuple(p.shape) for p in rule.log_rates] == expected == [tuple(p.shape) for p in rule.logits]
