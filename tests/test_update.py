"""Update rules, against torch's optimizers and plain arithmetic; the conformance suite."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from nas.learners.inner import adapt
from nas.learners.learned_optimizer import LearnedOptimizer
from nas.learners.learned_rates import RateAndMomentum
from nas.learners.meta_lstm import MetaLstm
from nas.learners.update import Adam, LearnedRates, Sgd, UpdateRule
from nas.testing.update_rules import UpdateRuleSuite

pytestmark = pytest.mark.usefixtures("one_thread")

RULES = {
    "sgd": Sgd,
    "momentum": partial(Sgd, momentum=0.8),
    "meta_sgd": LearnedRates,
    "meta_sgd with momentum": partial(LearnedRates, momentum=0.8),
    "adam": Adam,
    "adam without a first moment": partial(Adam, beta1=0.0, eps=1e-3),
    "learned_rates": RateAndMomentum,
    "learned_rates, one for all": partial(RateAndMomentum, per="all", momentum=0.0),
    "learned_rates of steps and weights": partial(RateAndMomentum, per="weight", steps=2),
    "meta_lstm": MetaLstm,
    "meta_lstm that accumulates": partial(MetaLstm, hidden=5, accumulates=True),
    "learned_optimizer": LearnedOptimizer,
    "learned_optimizer of the paper's text": partial(
        LearnedOptimizer, layers=1, preprocessing="log_and_sign", p=10.0
    ),
    "learned_optimizer, second order": partial(LearnedOptimizer, preprocessing="none", second_order=True),
}


class TestEveryRule(UpdateRuleSuite):
    @pytest.fixture(params=RULES)
    def make(self, request):
        return RULES[request.param]


def test_sgd_with_one_rate_or_one_for_each_weight():
    weights = {"a": torch.ones(2, 3), "b": torch.ones(2, 1)}
    slopes = {"a": torch.full((2, 3), 2.0), "b": torch.full((2, 1), 4.0)}
    _, after = Sgd(weights, 0.5).step({}, weights, slopes, torch.zeros(2))
    assert_close(after, {"a": torch.zeros(2, 3), "b": -torch.ones(2, 1)})
    rule = LearnedRates({"a": torch.ones(3), "b": torch.ones(1)}, 0.5)
    with torch.no_grad():
        for rate, value in zip(rule.parameters(), ([0.0, 1.0, -1.0], [0.25]), strict=True):
            rate.copy_(torch.tensor(value))
    _, after = rule.step({}, weights, slopes, torch.zeros(2))
    assert_close(after, {"a": torch.tensor([[1.0, -1.0, 3.0]] * 2), "b": torch.zeros(2, 1)})
    assert weights["a"].tolist() == [[1.0] * 3] * 2


def regression(tasks, seed=0):
    torch.manual_seed(seed)
    x, y = (torch.randn(tasks, 5, width, dtype=torch.float64) for width in (3, 2))
    weights = {"weight": torch.randn(tasks, 2, 3).double(), "bias": torch.randn(tasks, 2).double()}

    def losses(weights):
        predictions = x @ weights["weight"].mT + weights["bias"][:, None]
        return ((predictions - y) ** 2).mean((1, 2))

    return x, y, {name: weight.requires_grad_() for name, weight in weights.items()}, losses


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.8),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "adam without a first moment": lambda parameters: torch.optim.Adam(
        parameters, lr=0.1, betas=(0.0, 0.999), eps=1e-3
    ),
}


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_a_loop_is_that_of_torch_on_each_task(rule):
    """Six steps of torch's optimizer, on three tasks one after the other."""
    x, y, weights, losses = regression(tasks=3)
    adapted, state = adapt(losses, weights, RULES[rule](weights, 0.1), 6, order=1)
    for task in range(3):
        linear = nn.Linear(3, 2).double()
        linear.load_state_dict({name: weight[task] for name, weight in weights.items()})
        optimizer = OPTIMIZERS[rule](linear.parameters())
        for _ in range(6):
            optimizer.zero_grad()
            F.mse_loss(linear(x[task]), y[task]).backward()
            optimizer.step()
        found = {name: weight[task] for name, weight in adapted.items()}
        assert_close(found, dict(linear.named_parameters()), rtol=1e-12, atol=1e-12)
        for name, weight in linear.named_parameters():
            if rule == "momentum":
                assert_close(state[name][task], optimizer.state[weight]["momentum_buffer"])
            if rule.startswith("adam"):
                assert state["step"] == 6
                assert_close(state["second"][name][task], optimizer.state[weight]["exp_avg_sq"])


@pytest.mark.parametrize("rule", RULES)
def test_a_loop_goes_on_from_a_state_of_before(rule):
    """Two loops of two steps are one loop of four."""
    _, _, weights, losses = regression(tasks=2)
    update = RULES[rule]({name: weight[0] for name, weight in weights.items()}, 0.1).double()
    expected = adapt(losses, weights, update, 4, order=1)
    half = adapt(losses, weights, update, 2, order=1)
    assert_close(adapt(losses, half.weights, update, 2, order=1, state=half.state), expected)


def test_adam_is_differentiated_through_its_moments():
    """At second order, against central differences; a weight without a gradient does no harm."""
    start = torch.tensor([1.0, -2.0, 0.5, 0.3], dtype=torch.float64, requires_grad=True)
    curvature = torch.tensor([0.5, 1.0, 3.0, 0.0], dtype=torch.float64)

    def after(a):
        rule = Adam({"a": a}, 0.1, beta1=0.0)
        return adapt(lambda w: (curvature * w["a"] ** 4).sum(), {"a": a}, rule, 3, order=2).weights["a"]

    found = torch.autograd.functional.jacobian(after, start)
    step = 1e-6 * torch.eye(4, dtype=torch.float64)
    expected = torch.stack([(after(start + s) - after(start - s)) / 2e-6 for s in step], 1)
    assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_learned_rates_and_momentum_find_the_optimum():
    """On a quadratic with eigenvalues μ and L heavy ball is best at (2/(√L+√μ))², ((√L−√μ)/(√L+√μ))².

    After many steps from every direction its error is (β^½)^T; a rate of descent alone leaves more.
    """
    low, high, steps = 1.0, 25.0, 60
    rate, share = 4 / (high**0.5 + low**0.5) ** 2, ((high**0.5 - low**0.5) / (high**0.5 + low**0.5)) ** 2
    eigenvalues = torch.tensor([low, high], dtype=torch.float64)
    start = {"a": torch.ones(1, 2, dtype=torch.float64, requires_grad=True)}

    def error(lr, momentum):
        rule = Sgd(start, lr, momentum=momentum)
        adapted = adapt(lambda w: (eigenvalues * w["a"] ** 2).sum(1) / 2, start, rule, steps, order=1)
        return adapted.weights["a"].abs().max().item()

    assert error(rate, share) < 5 * steps * share ** (steps / 2)
    assert error(rate, share) < 1e-3 * error(2 / (low + high), 0.0)


def test_no_rule_of_a_loop_is_abstract():
    with pytest.raises(TypeError):
        UpdateRule({}, 0.1)
