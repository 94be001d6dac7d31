"""The inner loop, against plain arithmetic."""

import weakref

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from nas.learners.folded import stacked
from nas.learners.inner import adapt
from nas.learners.update import Sgd, UpdateRule


def quadratic(weights):
    """A loss with gradient 2a, that uses no other weight."""
    return (weights["a"] ** 2).sum()


def test_adapt_takes_gradient_steps():
    a, b = torch.tensor([1.0, -2.0], requires_grad=True), torch.ones(1, requires_grad=True)
    adapted = adapt(quadratic, {"a": a, "b": b}, Sgd({}, 0.1), 3, order=2).weights
    assert_close(adapted["a"], a * 0.8**3)
    assert_close(adapted["b"], b)
    assert_close(torch.autograd.grad(adapted["a"].sum(), a)[0], torch.full((2,), 0.8**3))


def test_adapt_at_first_order_takes_gradients_for_constants():
    a = torch.tensor([1.0, -2.0], requires_grad=True)
    adapted = adapt(quadratic, {"a": a}, Sgd({}, 0.1), 3, order=1).weights
    assert_close(adapted["a"], a * 0.8**3)
    assert_close(torch.autograd.grad(adapted["a"].sum(), a)[0], torch.ones(2))


def test_adapt_differentiates_a_learned_update_rule():
    """Meta-SGD (Li et al. 2017): a' = a − r·2a, a'' = a'(1 − 2r), so ∂a''/∂r = −4a(1 − 2r)."""
    a, rate = torch.tensor([1.0, -2.0], requires_grad=True), torch.tensor(0.1, requires_grad=True)

    class Rule(UpdateRule):
        def __init__(self):
            super().__init__({}, 0.1)

        def step(self, state, weights, gradients, losses):
            return state, {name: w - rate * gradients[name] for name, w in weights.items()}

    adapted = adapt(quadratic, {"a": a}, Rule(), 2, order=2).weights
    assert_close(torch.autograd.grad(adapted["a"][0], rate)[0].item(), -4 * 1.0 * 0.8)


@pytest.mark.parametrize("autocasting", [False, True])
def test_adapt_holds_one_step_where_no_gradient_is_recorded(autocasting):
    linear, x, seen = nn.Linear(4, 4), torch.randn(3, 4), []

    def loss(weights):
        seen.append(weakref.ref(weights["weight"]))
        return functional_call(linear, weights, x).float().square().mean()

    with torch.autocast("cpu", torch.bfloat16, enabled=autocasting), torch.no_grad():
        adapted = adapt(loss, dict(linear.named_parameters()), Sgd({}, 0.1), 4, order=2).weights
        assert [reference() for reference in seen] == [None] * 4
    assert not any(w.requires_grad for w in adapted.values())
    assert all(p.grad is None for p in linear.parameters())


def test_adapt_does_not_touch_what_it_is_given():
    a = torch.tensor([1.0, -2.0], requires_grad=True)
    weights = {"a": a}
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            adapted = adapt(quadratic, weights, Sgd({}, 0.1), 2, order=2).weights
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


def test_a_rule_sees_the_loss_of_each_task():
    seen = []

    class Watching(Sgd):
        def step(self, state, weights, gradients, losses):
            seen.append(losses)
            return super().step(state, weights, gradients, losses)

    weights = {"a": torch.tensor([[1.0], [2.0]], requires_grad=True)}
    for order in (1, 2):
        adapt(lambda w: (w["a"] ** 2).sum(1), weights, Watching({}, 0.25), 2, order=order)
    assert [losses.flatten().tolist() for losses in seen] == [[1.0, 4.0], [0.25, 1.0]] * 2
    assert [losses.requires_grad for losses in seen] == [False, False, True, True]
