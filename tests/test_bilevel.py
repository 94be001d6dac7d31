"""The gradient through a step, against its closed form on a quadratic and against finite differences."""

import pytest
import torch
from torch.testing import assert_close

from nas.bilevel import Problem, gradient, owned, stepped
from nas.learners.update import Sgd

N, P, RATE = 4, 3, 0.3


def matrix(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Quadratic:
    """L_inner = ½ wᵀA w − wᵀB φ, L_outer = ½‖w − c‖² + ½‖φ‖²; φ is read as it is."""

    def __init__(self):
        root = matrix(0, N, N)
        self.a, self.b, self.c = root @ root.T / N, matrix(1, N, P), matrix(2, N)
        self.w, self.phi = matrix(3, N).requires_grad_(), matrix(4, P).requires_grad_()

    def inner(self, view, weights=None):
        w = (weights or {"w": self.w})["w"]
        return w @ self.a @ w / 2 - w @ self.b @ view[0]

    def outer(self, view, weights=None):
        w = (weights or {"w": self.w})["w"]
        return ((w - self.c) ** 2).sum() / 2 + (view[0] ** 2).sum() / 2

    def step(self, slopes):
        return {name: self.w.detach() - RATE * slope for name, slope in slopes.items()}

    def problem(self, **changed):
        parts = {
            "parameters": [self.phi],
            "read": lambda: [self.phi * 1],
            "inner": self.inner,
            "outer": self.outer,
            "weights": {"w": self.w},
            "step": self.step,
        }
        return Problem(**(parts | changed))


@pytest.mark.parametrize("order", ["exact", "forward", 2])
@pytest.mark.parametrize("by", ["hand", "optimizer", "rule"])
def test_a_quadratic_has_a_closed_form(order, by):
    """∇_φ = φ + ξ Bᵀ(w′ − c): a difference is exact, too, since the inner gradient is linear in φ."""
    q = Quadratic()
    optimizer, rule = torch.optim.SGD([q.w], RATE), Sgd({}, RATE)
    weights = {"w": q.w}
    step = {
        "hand": q.step,
        "optimizer": lambda slopes: stepped(optimizer, owned(optimizer, weights), slopes),
        "rule": lambda slopes: rule.step({}, weights, slopes, torch.zeros(1))[1],
    }[by]
    with torch.no_grad():
        after = q.w - RATE * (q.a @ q.w - q.b @ q.phi)
        expected = q.phi + RATE * q.b.T @ (after - q.c)
    [found] = q.problem(step=step).gradient(order)
    assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_order_1_stays_at_the_present_weights():
    q = Quadratic()
    [found] = q.problem().gradient(1)
    assert_close(found, q.phi.detach())


class Curved(Quadratic):
    """Neither loss a quadratic, φ read through a softmax: a step's change with φ is no longer linear."""

    def inner(self, view, weights=None):
        w = (weights or {"w": self.w})["w"]
        return (w.tanh() * (self.b @ view[0])).sum() + (self.a @ w).cos().sum()

    def outer(self, view, weights=None):
        w = (weights or {"w": self.w})["w"]
        return ((w - self.c) ** 2).sin().sum() * (view[0] ** 2).sum()

    def problem(self, **changed):
        return super().problem(**({"read": lambda: [self.phi.softmax(0)]} | changed))


def differences(q):
    """∇_φ L_outer(w′(φ), φ) by central differences of the value, without the machine."""

    def value(phi):
        view = [phi.softmax(0)]
        slope = torch.autograd.grad(q.inner(view), q.w)[0]
        return q.outer(view, q.step({"w": slope})).item()

    steps = 1e-6 * torch.eye(P, dtype=torch.float64)
    phi = q.phi.detach()
    return torch.tensor([(value(phi + s) - value(phi - s)) / 2e-6 for s in steps], dtype=torch.float64)


@pytest.mark.parametrize("order", ["exact", "forward"])
def test_exact_is_the_derivative_of_the_value(order):
    q = Curved()
    [found] = q.problem().gradient(order)
    assert_close(found, differences(q), rtol=1e-7, atol=1e-8)


def test_order_2_errs_by_the_square_of_its_radius():
    q = Curved()
    [wanted] = q.problem().gradient("exact")
    errors = [(q.problem().gradient(2, radius)[0] - wanted).norm().item() for radius in (1e-1, 1e-2, 1e-3)]
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("order", ["forward", 2])
def test_slopes_that_are_known_are_not_computed_again(order):
    q = Curved()
    [slope] = torch.autograd.grad(q.inner([q.phi.softmax(0)]), q.w)
    seen = []

    def inner(view, weights=None):
        seen.append(weights is None)
        return q.inner(view, weights)

    found = q.problem(inner=inner, slopes={"w": slope}).gradient(order)
    assert_close(found, q.problem().gradient(order))
    assert not any(seen)


@pytest.mark.parametrize("order", [1, 2, "exact", "forward"])
def test_nothing_moves(order):
    q = Curved()
    before = q.w.clone(), q.phi.clone()
    q.problem().gradient(order)
    assert torch.equal(q.w, before[0])
    assert torch.equal(q.phi, before[1])
    assert q.w.grad is None
    assert q.phi.grad is None


@pytest.mark.parametrize("order", [2, "exact", "forward"])
def test_an_inner_loss_without_weights_leaves_the_direct_gradient(order):
    q = Curved()
    problem = q.problem(inner=lambda view, weights=None: view[0].sum())
    assert_close(problem.gradient(order), q.problem().gradient(1))


def test_a_gradient_is_zero_where_a_loss_does_not_reach():
    x, y = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    assert [g.tolist() for g in gradient(x.sum(), [x, y])] == [[1, 1], [0, 0, 0]]
    assert gradient(torch.ones(()), [x])[0].tolist() == [0, 0]
