"""The learned optimizer: its linear case has a closed form."""

import math

import pytest
import torch
from torch.testing import assert_close

from nas.learners.coordinates import log_and_sign
from nas.learners.folded import stacked
from nas.learners.inner import adapt
from nas.learners.learned_optimizer import LearnedOptimizer, clamped
from nas.learners.update import Sgd
from nas.testing.update_rules import SmoothTasks, start

pytestmark = pytest.mark.usefixtures("one_thread")


def linear(weights, lr, slope):
    rule = LearnedOptimizer(weights, lr, layers=0, preprocessing="none", second_order=True).double()
    torch.nn.init.constant_(rule.linear.weight, slope)
    return rule


def test_without_layers_it_is_gradient_descent():
    rule = linear(start(), 0.5, -0.3)
    assert rule.linear.bias is None
    for order in (1, 2):
        weights = {name: weight.requires_grad_() for name, weight in start().items()}
        own, plain = (
            adapt(SmoothTasks(1), stacked(weights, 3), update, 4, order=order).weights
            for update in (rule, Sgd(weights, 0.15))
        )
        assert_close(own, plain, rtol=1e-12, atol=1e-12)
        for one in (own, plain):
            one["slopes"] = torch.autograd.grad(SmoothTasks(2)(one).sum(), list(weights.values()))
        assert_close(own["slopes"], plain["slopes"], rtol=1e-9, atol=1e-12)


def test_the_linear_case_has_its_optimum_where_it_is_known():
    """On x², x ← (1 + 2w) x: the sum of losses along the way is least at w = −1/2, where it is x₀² = 1."""
    begin = {"a": torch.ones(1, 1, dtype=torch.float64, requires_grad=True)}

    def along(slope, steps=5):
        rule, weights, state = linear(begin, 1.0, slope), begin, None
        total = (begin["a"] ** 2).sum()
        for _ in range(steps):
            weights, state = adapt(lambda w: (w["a"] ** 2).sum(1), weights, rule, 1, order=2, state=state)
            total = total + (weights["a"] ** 2).sum()
        return total, torch.autograd.grad(total, rule.linear.weight)[0].item()

    for slope in (-0.3, -0.8):
        ratio = (1 + 2 * slope) ** 2
        assert along(slope)[0].item() == pytest.approx(sum(ratio**t for t in range(6)), rel=1e-12)
    total, gradient = along(-0.5)
    assert total.item() == 1
    assert gradient == 0
    assert along(-0.49)[1] > 0 > along(-0.51)[1]


def test_preprocessing_tells_size_and_sign():
    x = torch.tensor([0.0, math.exp(-12), -math.exp(-12), math.exp(-3), -1.0, 20.0], dtype=torch.float64)
    logs = [-1, -1, -1, -0.3, 0, math.log(20) / 10]
    signs = [0, math.exp(-2), -math.exp(-2), 1, -1, 1]
    assert_close(log_and_sign(x, 10), torch.tensor([logs, signs], dtype=torch.float64))
    logs = [-1, -1, -1, -0.6, 0, math.log(20) / 5]
    signs = [0, math.exp(-7), -math.exp(-7), 1, -1, 1]
    assert_close(clamped(x, 5), torch.tensor([logs, signs], dtype=torch.float64))


def test_coordinates_may_be_permuted():
    torch.manual_seed(0)
    order, rule = torch.randperm(6), LearnedOptimizer({"a": torch.zeros(6)}, 0.1).double()
    curve, values = torch.linspace(0.5, 3, 6).double(), torch.randn(2, 6, dtype=torch.float64)

    def after(curve, values):
        with torch.no_grad():
            return adapt(lambda w: (curve * w["a"] ** 4).sum(1), {"a": values}, rule, 4, order=1).weights["a"]

    assert_close(after(curve[order], values[:, order]), after(curve, values)[:, order])
