import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from facts import refusal
from torch import Tensor, nn
from torch.func import functional_call

from controllers.darts import Softmax
from controllers.relaxation import BETAS, Alpha
from controllers.unrolled import exact, second_order
from nas.bilevel import stepped
from nas.controller import TrainSupernet
from nas.errors import Unsupported
from nas.evaluator import Budget, Context
from nas.plugins import load
from nas.settings.sections import maker
from nas.space import Decision
from nas.strategy import Batches, MixtureLoss
from nas.supernet import Mixture
from nas.testing.toy_supernet import ToyCurves, ToyRegression
from nas.training.oneshot.assembly import assemble

DECISIONS = (Decision("first", ("tanh", "linear", "skip_connect")), Decision("second", ("tanh", "linear")))


class Mixed(nn.Module):
    """Two mixed layers in a row and a linear classifier: every weight's gradient depends on every α."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(4))
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        first, second = mixture
        x = first[0] * self.layers[0](x).tanh() + first[1] * self.layers[1](x) + first[2] * x
        x = second[0] * self.layers[2](x).tanh() + second[1] * self.layers[3](x)
        logits: Tensor = self.head(x)
        return logits


def loss_of(network: nn.Module, seed: int) -> MixtureLoss:
    rng = np.random.default_rng(seed)
    x, y = torch.tensor(rng.normal(size=(8, 3))), torch.tensor(rng.integers(4, size=8))

    def loss(mixture: Mixture, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        return F.cross_entropy(functional_call(network, dict(weights or {}), (x, mixture)), y)

    return loss


def problem() -> tuple[Mixed, Alpha, Batches]:
    torch.manual_seed(0)
    network = Mixed().double()
    alpha = Alpha(DECISIONS, np.random.default_rng(0), 3e-4, 1e-3).double()
    with torch.no_grad():
        for logits in alpha.logits:
            logits.add_(torch.randn_like(logits))
    return network, alpha, Batches(loss_of(network, 1), loss_of(network, 2), dict(network.named_parameters()))


def warm(optimizer: torch.optim.Optimizer, network: nn.Module, alpha: Alpha, steps: int = 3) -> None:
    """Fill the momentum buffers and the moments."""
    for i in range(steps):
        optimizer.zero_grad()
        loss_of(network, 10 + i)([m.detach() for m in alpha.mixture()]).backward()
        optimizer.step()
    optimizer.zero_grad()


def sgd(network: Mixed) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), 0.3, momentum=0.9, weight_decay=0.02)


def two_rates(network: Mixed) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [
        {"params": network.layers.parameters(), "lr": 0.4, "weight_decay": 0.01},
        {"params": network.head.parameters(), "lr": 0.1, "momentum": 0.0},
    ]
    return torch.optim.SGD(groups, momentum=0.5)


def plain(network: Mixed) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), 0.3)


def adam(network: Mixed) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), 0.03, fused=True)


def decayed_adam(network: Mixed) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), 0.03, weight_decay=0.1, amsgrad=True)


OPTIMIZERS = pytest.mark.parametrize("make", [sgd, two_rates, plain, adam, decayed_adam])


def moved_loss(network: Mixed, alpha: Alpha, batches: Batches, make: Any, state: dict[str, Any]) -> float:
    """Return L_val(w′(α), α), w′ made by torch's own step of a copy of the optimizer."""
    before = {name: w.detach().clone() for name, w in network.named_parameters()}
    optimizer = make(network)
    optimizer.load_state_dict(copy.deepcopy(state))
    mixture = [m.detach() for m in alpha.mixture()]
    optimizer.zero_grad()
    batches.inner(mixture).backward()
    optimizer.step()
    value = float(batches.outer(mixture).detach())
    with torch.no_grad():
        for name, w in network.named_parameters():
            w.copy_(before[name])
            w.grad = None
    return value


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


@OPTIMIZERS
def test_exact_is_the_derivative_through_the_optimizers_step(make: Any) -> None:
    network, alpha, batches = problem()
    optimizer = make(network)
    warm(optimizer, network, alpha)
    found, state, step, wanted = flat(exact(alpha, batches, optimizer)), optimizer.state_dict(), 1e-5, []
    for logits in alpha.logits:
        for i in range(len(logits)):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    logits[i] += sign * step
                ends.append(moved_loss(network, alpha, batches, make, state))
                with torch.no_grad():
                    logits[i] -= sign * step
            wanted.append((ends[0] - ends[1]) / (2 * step))
    error = (found - torch.tensor(wanted)).norm() / found.norm()
    assert error < 1e-6
    first = flat(alpha.gradient(batches.outer))
    assert (first - found).norm() > 0.01 * found.norm()  # the unrolled step matters here


@OPTIMIZERS
def test_second_order_is_exact_to_the_order_of_the_finite_difference(make: Any) -> None:
    network, alpha, batches = problem()
    optimizer = make(network)
    warm(optimizer, network, alpha)
    wanted = flat(exact(alpha, batches, optimizer))
    errors = [
        float((flat(second_order(alpha, batches, optimizer, radius)) - wanted).norm() / wanted.norm())
        for radius in (1.0, 0.1, 0.01)
    ]
    assert 50 < errors[0] / errors[1] < 200  # a central difference: ten times closer, a hundred times better
    assert 50 < errors[1] / errors[2] < 200
    assert errors[2] < 1e-5
    assert errors[2] == float((flat(second_order(alpha, batches, optimizer)) - wanted).norm() / wanted.norm())


def test_weights_that_do_not_learn_are_not_unrolled() -> None:
    network, alpha, batches = problem()
    network.head.requires_grad_(False)
    optimizer = torch.optim.SGD(list(network.layers[:2].parameters()), 0.3)  # 2 and 3 are in no group
    wanted = flat(exact(alpha, batches, optimizer))
    assert (flat(second_order(alpha, batches, optimizer)) - wanted).norm() < 1e-5 * wanted.norm()
    everything = torch.optim.SGD(network.layers.parameters(), 0.3)
    assert not torch.allclose(flat(exact(alpha, batches, everything)), wanted, rtol=1e-3)


def test_unrolling_changes_neither_weights_nor_optimizer() -> None:
    network, alpha, batches = problem()
    optimizer = adam(network)
    warm(optimizer, network, alpha)
    before = copy.deepcopy([network.state_dict(), optimizer.state_dict()])
    exact(alpha, batches, optimizer)
    second_order(alpha, batches, optimizer)
    torch.testing.assert_close([network.state_dict(), optimizer.state_dict()], before, rtol=0, atol=0)
    assert all(weight.grad is None for weight in network.parameters())


def test_a_weight_without_a_gradient_stays_where_the_optimizer_leaves_it() -> None:
    """Momentum and weight decay move what has a gradient, be it zero, and nothing else."""
    network, alpha, batches = problem()
    optimizer = sgd(network)
    warm(optimizer, network, alpha)
    name = "layers.0.weight"
    slopes = {name: torch.zeros_like(batches.weights[name])}
    after = stepped(optimizer, batches.weights, slopes)
    weight, buffer = batches.weights[name], optimizer.state[batches.weights[name]]["momentum_buffer"]
    assert list(after) == [name]
    torch.testing.assert_close(after[name], (weight - 0.3 * (0.9 * buffer + 0.02 * weight)).detach())


def test_adam_s_first_step_does_not_hang_on_the_size_of_a_gradient() -> None:
    """It is the rate times the sign; between the two signs the derivative would be 1/ε."""
    network, _, batches = problem()
    name, optimizer = "head.weight", adam(network)
    slope = torch.zeros_like(batches.weights[name])
    slope[0] = torch.tensor([0.5, 1e-3, -1e-9])
    slope.requires_grad_()
    after = stepped(optimizer, batches.weights, {name: slope})[name]
    [found] = torch.autograd.grad(after.sum(), slope)
    assert (found == 0).all()
    moved = after - batches.weights[name]
    torch.testing.assert_close(
        moved[0, :2].detach(), torch.tensor([-0.03, -0.03]).double(), rtol=1e-4, atol=0
    )
    batches.weights[name].grad = slope.detach()  # from now on the moments of the first row hold something
    optimizer.step()
    after = stepped(optimizer, batches.weights, {name: slope})[name]
    [found] = torch.autograd.grad(after.sum(), slope)
    assert (found[0] != 0).all()
    assert (found[1:] == 0).all()


def test_a_step_that_cannot_be_differentiated_is_refused() -> None:
    network, alpha, batches = problem()
    for method in (exact, second_order):
        with refusal(Unsupported, "LBFGS"):
            method(alpha, batches, torch.optim.LBFGS(network.parameters()))


def test_no_rate_is_first_order() -> None:
    network, alpha, batches = problem()
    first = flat(alpha.gradient(batches.outer))
    for method in (exact, second_order):
        still = torch.optim.SGD(network.parameters(), 0.0)
        torch.testing.assert_close(flat(method(alpha, batches, still)), first)
    step = 1e-6
    with torch.no_grad():
        mixtures = []
        for sign in (1, -1):
            alpha.logits[0][1] += sign * step
            mixtures.append(alpha.mixture())
            alpha.logits[0][1] -= sign * step
    difference = (batches.outer(mixtures[0]) - batches.outer(mixtures[1])) / (2 * step)
    assert float(first[1]) == pytest.approx(float(difference.detach()), rel=1e-6)


@pytest.mark.parametrize("order", [1, 2, "exact"])
def test_a_step_moves_alpha_by_adam_and_then_the_weights(order: Any) -> None:
    problem = ToyRegression(ToyCurves(), 0, torch.float64)
    strategy = Softmax(
        problem.space, problem.supernet, 0, order=order, alpha_rate=0.01, alpha_decay=0.1
    ).double()
    optimizer = torch.optim.SGD(problem.supernet.parameters(), 0.1)
    batches, alpha = problem.batches(), strategy.alpha
    before = [x.detach().clone() for x in alpha.logits]
    weights = {name: w.detach().clone() for name, w in batches.weights.items()}
    gradients = {
        1: lambda: alpha.gradient(batches.outer),
        2: lambda: second_order(alpha, batches, optimizer),
        "exact": lambda: exact(alpha, batches, optimizer),
    }[order]()
    loss = strategy.step(batches, optimizer, 0.0)
    for old, gradient, new in zip(before, gradients, alpha.logits, strict=True):
        g = gradient + 0.1 * old
        mean, square = (1 - BETAS[0]) * g / (1 - BETAS[0]), (1 - BETAS[1]) * g**2 / (1 - BETAS[1])
        torch.testing.assert_close(new.detach(), old - 0.01 * mean / (square.sqrt() + 1e-8))
    leaves = {name: w.requires_grad_() for name, w in weights.items()}
    inner = batches.inner(strategy.mixture(), leaves)
    inner.backward()
    assert loss == pytest.approx(float(inner.detach()))
    for name, new in batches.weights.items():
        gradient = leaves[name].grad
        assert gradient is not None
        torch.testing.assert_close(new.detach(), leaves[name].detach() - 0.1 * gradient)


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["prototypical", "maml"])
def test_exact_through_real_kernels_and_an_inner_loop(learner: str) -> None:
    """A whole learner on few-shot tasks: with an inner loop this is a third derivative."""
    space, tasks = load("space", "nasbench201")(channels=2), load("tasks", "glyphs")(ways=3, queries=2)
    context = Context(space, tasks, maker("learner", {"name": learner}), Budget())
    assembly = assemble(context, TrainSupernet("darts"), 0)
    network, alpha = assembly.learner.double(), assembly.strategy.double().alpha
    assert isinstance(alpha, Alpha)
    rng = np.random.default_rng(0)

    def task() -> MixtureLoss:
        def noisy(x: Tensor) -> Tensor:  # no two pixels alike, so that no two rectifiers turn at once
            return x.double() + torch.tensor(rng.normal(0, 0.05, x.shape))

        drawn = assembly.arithmetic.place(tasks.sample("train", 1, rng))
        episode = replace(drawn, support_x=noisy(drawn.support_x), query_x=noisy(drawn.query_x))

        def loss(mixture: Mixture, weights: Mapping[str, Tensor] | None = None) -> Tensor:
            assembly.backbone.mixture = mixture
            module = Objective(network)
            named = {f"learner.{name}": weight for name, weight in (weights or {}).items()}
            return functional_call(module, named, (episode,))

        return loss

    batches = Batches(task(), task(), dict(network.named_parameters()))
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    found, step, wanted = flat(exact(alpha, batches, optimizer)), 1e-6, []
    logits = alpha.logits[0]
    for i in range(len(logits)):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                logits[i] += sign * step
            mixture = [m.detach() for m in alpha.mixture()]
            gradients = torch.autograd.grad(
                batches.inner(mixture), list(batches.weights.values()), materialize_grads=True
            )
            moved = {
                name: (w.detach() - 0.05 * g).requires_grad_()
                for (name, w), g in zip(batches.weights.items(), gradients, strict=True)
            }
            ends.append(float(batches.outer(mixture, moved).detach()))
            with torch.no_grad():
                logits[i] -= sign * step
        wanted.append((ends[0] - ends[1]) / (2 * step))
    own = found[: len(logits)]
    assert (own - torch.tensor(wanted)).norm() < 1e-6 * own.norm()


class Objective(nn.Module):
    def __init__(self, learner: nn.Module) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, episode: Any) -> Tensor:
        loss: Tensor = self.learner.meta_loss(episode)  # type: ignore[operator]
        return loss
