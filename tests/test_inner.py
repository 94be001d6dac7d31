"""The inner loop and its update rules, against plain arithmetic and torch's optimizers."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from nas.learners.folded import stacked
from nas.learners.inner import Adam, adapt, sgd


def quadratic(weights):
    """A loss with gradient 2a, that uses no other weight."""
    return (weights["a"] ** 2).sum()


def test_adapt_takes_gradient_steps():
    a, b = torch.tensor([1.0, -2.0], requires_grad=True), torch.ones(1, requires_grad=True)
    adapted = adapt(quadratic, {"a": a, "b": b}, sgd(0.1), 3, order=2)
    assert_close(adapted["a"], a * 0.8**3)
    assert_close(adapted["b"], b)
    assert_close(torch.autograd.grad(adapted["a"].sum(), a)[0], torch.full((2,), 0.8**3))


def test_adapt_at_first_order_takes_gradients_for_constants():
    a = torch.tensor([1.0, -2.0], requires_grad=True)
    adapted = adapt(quadratic, {"a": a}, sgd(0.1), 3, order=1)
    assert_close(adapted["a"], a * 0.8**3)
    assert_close(torch.autograd.grad(adapted["a"].sum(), a)[0], torch.ones(2))


def test_adapt_differentiates_a_learned_update_rule():
    """Meta-SGD (Li et al. 2017): a' = a − r·2a, a'' = a'(1 − 2r), so ∂a''/∂r = −4a(1 − 2r)."""
    a, rate = torch.tensor([1.0, -2.0], requires_grad=True), torch.tensor(0.1, requires_grad=True)
    rule = lambda weights, slopes: {name: w - rate * slopes[name] for name, w in weights.items()}  # noqa: E731
    adapted = adapt(quadratic, {"a": a}, rule, 2, order=2)
    assert_close(torch.autograd.grad(adapted["a"][0], rate)[0].item(), -4 * 1.0 * 0.8)


@pytest.mark.parametrize("autocasting", [False, True])
def test_adapt_holds_one_step_where_no_gradient_is_recorded(autocasting):
    linear, x, seen = nn.Linear(4, 4), torch.randn(3, 4), []

    def loss(weights):
        seen.append(weakref.ref(weights["weight"]))
        return functional_call(linear, weights, x).float().square().mean()

    with torch.autocast("cpu", torch.bfloat16, enabled=autocasting), torch.no_grad():
        adapted = adapt(loss, dict(linear.named_parameters()), sgd(0.1), 4, order=2)
        assert [reference() for reference in seen] == [None] * 4
    assert not any(w.requires_grad for w in adapted.values())
    assert all(p.grad is None for p in linear.parameters())


def test_adapt_does_not_touch_what_it_is_given():
    a = torch.tensor([1.0, -2.0], requires_grad=True)
    weights = {"a": a}
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            adapted = adapt(quadratic, weights, sgd(0.1), 2, order=2)
        assert adapted["a"].requires_grad is grad
    assert weights["a"] is a
    assert a.tolist() == [1.0, -2.0]
    assert a.grad is None


def test_stacked_weights_share_memory_and_add_up_their_gradients():
    weight = torch.tensor([[1.0, 2.0]], requires_grad=True)
    tasks = stacked({"w": weight}, 3)["w"]
    assert tasks.shape == (3, 1, 2)
    assert tasks.data_ptr() == weight.data_ptr()
    (tasks * torch.tensor([1.0, 2.0, 4.0])[:, None, None]).sum().backward()
    assert weight.grad.tolist() == [[7.0, 7.0]]


def test_sgd_with_one_rate_or_one_for_each_weight():
    weights = {"a": torch.ones(2, 3), "b": torch.ones(2, 1)}
    slopes = {"a": torch.full((2, 3), 2.0), "b": torch.full((2, 1), 4.0)}
    assert_close(sgd(0.5)(weights, slopes), {"a": torch.zeros(2, 3), "b": -torch.ones(2, 1)})
    rates = {"a": torch.tensor([0.0, 1.0, -1.0]), "b": torch.tensor([0.25])}
    expected = {"a": torch.tensor([[1.0, -1.0, 3.0]] * 2), "b": torch.zeros(2, 1)}
    assert_close(sgd(rates)(weights, slopes), expected)
    assert weights["a"].tolist() == [[1.0] * 3] * 2


def regression(tasks, seed=0):
    torch.manual_seed(seed)
    x, y = (torch.randn(tasks, 5, width, dtype=torch.float64) for width in (3, 2))
    weights = {"weight": torch.randn(tasks, 2, 3).double(), "bias": torch.randn(tasks, 2).double()}

    def loss(weights):
        predictions = x @ weights["weight"].mT + weights["bias"][:, None]
        return ((predictions - y) ** 2).mean((1, 2)).sum()

    return x, y, {name: weight.requires_grad_() for name, weight in weights.items()}, loss


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_a_loop_is_that_of_torch_on_each_task(rule):
    """Six steps of torch's optimizer, Adam's with β₁ = 0, on three tasks one after the other."""
    x, y, weights, loss = regression(tasks=3)
    zeros = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    update = sgd(0.1) if rule == "sgd" else Adam(0.1, zeros, 0)
    adapted = adapt(loss, weights, update, 6, order=1)
    for task in range(3):
        linear = nn.Linear(3, 2).double()
        linear.load_state_dict({name: weight[task] for name, weight in weights.items()})
        optimizer = (
            torch.optim.SGD(linear.parameters(), lr=0.1)
            if rule == "sgd"
            else torch.optim.Adam(linear.parameters(), lr=0.1, betas=(0.0, 0.999))
        )
        for _ in range(6):
            optimizer.zero_grad()
            F.mse_loss(linear(x[task]), y[task]).backward()
            optimizer.step()
        found = {name: weight[task] for name, weight in adapted.items()}
        assert_close(found, dict(linear.named_parameters()), rtol=1e-12, atol=1e-12)
        if rule == "adam":
            assert update.step == 6
            for name, weight in linear.named_parameters():
                assert_close(update.second[name][task], optimizer.state[weight]["exp_avg_sq"])


def test_adam_goes_on_from_moments_of_before():
    """Two loops of two steps are one loop of four."""
    _, _, weights, loss = regression(tasks=2)
    zeros = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    whole = Adam(0.1, zeros, 0)
    expected = adapt(loss, weights, whole, 4, order=1)
    first = Adam(0.1, zeros, 0)
    half = adapt(loss, weights, first, 2, order=1)
    second = Adam(0.1, first.second, first.step)
    assert_close(adapt(loss, half, second, 2, order=1), expected)
    assert_close(second.second, whole.second)
    assert not any(zero.any() for zero in zeros.values())


def test_adam_is_differentiated_through_its_moments():
    """At second order, against central differences; a weight without a gradient does no harm."""
    start = torch.tensor([1.0, -2.0, 0.5, 0.3], dtype=torch.float64, requires_grad=True)
    curvature = torch.tensor([0.5, 1.0, 3.0, 0.0], dtype=torch.float64)

    def after(a):
        rule = Adam(0.1, {"a": torch.zeros_like(a)}, 0)
        return adapt(lambda w: (curvature * w["a"] ** 4).sum(), {"a": a}, rule, 3, order=2)["a"]

    found = torch.autograd.functional.jacobian(after, start)
    step = 1e-6 * torch.eye(4, dtype=torch.float64)
    expected = torch.stack([(after(start + s) - after(start - s)) / 2e-6 for s in step], 1)
    assert_close(found, expected, rtol=1e-6, atol=1e-8)
