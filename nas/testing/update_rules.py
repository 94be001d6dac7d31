"""What every update rule must do."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.testing import assert_close
from torch.utils._pytree import tree_map_only

from nas import plugins
from nas.learners.folded import Weights, stacked
from nas.learners.inner import adapt
from nas.learners.update import UpdateRule

Make = Callable[[Mapping[str, Tensor], float], UpdateRule]

TASKS, STEPS, RATE = 3, 3, 0.1


def start() -> Weights:
    """Return the weights of a small linear layer, float64."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (2, 3), "bias": (2,)}
    return {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}


class SmoothTasks:
    """Regression tasks whose loss is smooth, and is no quadratic: the losses `[T]` of weights `[T, …]`."""

    def __init__(self, seed: int, tasks: int = TASKS) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(tasks, 5, 3, generator=generator, dtype=torch.float64)
        self.y = torch.randn(tasks, 5, 2, generator=generator, dtype=torch.float64)

    def __call__(self, weights: Weights) -> Tensor:
        """Return the loss of each task."""
        predictions = (self.x @ weights["weight"].mT + weights["bias"][:, None]).tanh()
        return ((predictions - self.y) ** 2).mean((1, 2))

    def alone(self, task: int) -> SmoothTasks:
        """Return one of the tasks."""
        one = SmoothTasks(0, 1)
        one.x, one.y = self.x[task : task + 1], self.y[task : task + 1]
        return one


class Loop(nn.Module):
    """A loop of a rule as a module, so that the rule's parameters can be replaced: the loss after it.

    Attributes:
        frozen: gradients and losses of each step, to be given to the rule in place of those that there are.
    """

    def __init__(self, rule: UpdateRule) -> None:
        super().__init__()
        self.rule = rule
        self.inner, self.outer = SmoothTasks(1), SmoothTasks(2)
        self.frozen: list[tuple[Weights, Tensor]] | None = None

    def forward(self, weights: Weights) -> Tensor:
        """Take the steps with `torch.func`, and return the sum of other losses where they end."""
        weights = stacked(weights, TASKS)
        state = self.rule.init(weights)
        for step in range(STEPS):
            found = self.frozen[step] if self.frozen else self.slopes(weights)
            state, weights = self.rule.step(state, weights, *found)
        return self.outer(weights).sum()

    def slopes(self, weights: Weights) -> tuple[Weights, Tensor]:
        """Return gradients and losses at weights `[T, …]`."""
        return grad(lambda w: self.inner(w).sum())(weights), self.inner(weights)

    def freeze(self, weights: Weights) -> None:
        """Keep the gradients and losses that a loop from these weights meets."""
        found, weights = list[tuple[Weights, Tensor]](), stacked(weights, TASKS)
        state = self.rule.init(weights)
        with torch.no_grad():
            for _ in range(STEPS):
                found.append(self.slopes(weights))
                state, weights = self.rule.step(state, weights, *found[-1])
        self.frozen = found


class UpdateRuleSuite(ABC):
    """Inherit it, and give the fixture `make`: from weights and a rate to the rule.

    class TestMine(UpdateRuleSuite):
        @pytest.fixture
        def make(self):
            return Mine
    """

    @abstractmethod
    def make(self) -> Make:
        """Return the rule's class or a partial of it; a pytest fixture."""

    def rule(self, make: Make) -> UpdateRule:
        """Make the rule with seeded parameters, float64."""
        torch.manual_seed(0)
        return make(start(), RATE).double()

    def meta_gradient(self, rule: UpdateRule) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a loss after a loop of `adapt`, and its gradient in the first weights and in φ."""
        weights = {name: weight.requires_grad_() for name, weight in start().items()}
        adapted = adapt(SmoothTasks(1), stacked(weights, TASKS), rule, STEPS, order=2).weights
        loss = SmoothTasks(2)(adapted).sum()
        named = weights | {f"rule.{name}": p for name, p in rule.named_parameters()}
        found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
        return loss.detach(), dict(zip(named, found, strict=True))

    def test_it_describes_itself(self, make: Make) -> None:
        """It has a name, and every setting says what it means."""
        rule = type(self.rule(make))
        assert rule.name
        assert [name for name, field in plugins.settings(rule).items() if not field.description] == []

    def test_weights_keep_their_names_shapes_and_precision(self, make: Make) -> None:
        """What a step returns is like what it is given, in float32 as in float64."""
        for dtype in (torch.float32, torch.float64):
            weights = {n: w.to(dtype) for n, w in stacked(start(), TASKS).items()}
            rule, losses = self.rule(make).to(dtype), torch.ones(TASKS, dtype=dtype)
            _, after = rule.step(rule.init(weights), weights, {n: w * 2 for n, w in weights.items()}, losses)
            assert list(after) == list(weights)
            assert all(after[name].shape == weight.shape for name, weight in weights.items())
            assert all(weight.dtype == dtype and weight.isfinite().all() for weight in after.values())

    def test_a_step_changes_nothing_that_it_is_given(self, make: Make) -> None:
        """Weights, gradients, losses, state and the rule stay; and the same step twice is the same."""
        rule, weights = self.rule(make), stacked(start(), TASKS)
        gradients, losses = {n: w.cos() for n, w in weights.items()}, torch.ones(TASKS, dtype=torch.float64)
        state, weights = rule.step(rule.init(weights), weights, gradients, losses)
        given = (state, weights, gradients, losses)
        before = tree_map_only(Tensor, lambda tensor: tensor.clone(), (given, dict(rule.state_dict())))
        once = rule.step(*given)
        assert_close((given, dict(rule.state_dict())), before, rtol=0, atol=0)
        assert_close(rule.step(*given), once, rtol=0, atol=0)

    def test_tasks_are_independent(self, make: Make) -> None:
        """A task ends where it ends alone."""
        rule, curve, weights = self.rule(make), SmoothTasks(1), start()
        with torch.no_grad():
            together = adapt(curve, stacked(weights, TASKS), rule, STEPS, order=1).weights
            for task in range(TASKS):
                alone = adapt(curve.alone(task), stacked(weights, 1), rule, STEPS, order=1).weights
                assert_close({name: weight[task : task + 1] for name, weight in together.items()}, alone)

    @pytest.mark.parametrize("order", [1, 2])
    def test_values_are_those_of_a_loop_without_gradients(self, make: Make, order: Any) -> None:
        """Recording gradients, at either order, changes no number."""
        rule = self.rule(make)
        with torch.no_grad():
            plain = adapt(SmoothTasks(1), stacked(start(), TASKS), rule, STEPS, order=order).weights
        weights = stacked({name: weight.requires_grad_() for name, weight in start().items()}, TASKS)
        recorded = adapt(SmoothTasks(1), weights, rule, STEPS, order=order).weights
        assert not any(weight.requires_grad for weight in plain.values())
        assert all(weight.requires_grad for weight in recorded.values())
        assert_close(recorded, plain, rtol=1e-12, atol=1e-12)

    def test_the_meta_gradient_is_that_of_finite_differences(self, make: Make) -> None:
        """Through every step, along a direction in the first weights and in φ, in float64.

        Where the rule takes gradients and losses for constants, the differences do, too.
        """
        rule = self.rule(make)
        _, gradient = self.meta_gradient(rule)
        generator = torch.Generator().manual_seed(3)
        directions = {n: torch.randn(g.shape, generator=generator).double() for n, g in gradient.items()}
        loop, weights, h = Loop(rule), start(), 1e-5
        if rule.constant:
            loop.freeze(weights)

        def loss(step: float) -> float:
            moved = {name: weight + step * directions[name] for name, weight in weights.items()}
            parameters = {
                f"rule.{name}": p.detach() + step * directions[f"rule.{name}"]
                for name, p in rule.named_parameters()
            }
            return float(functional_call(loop, parameters, (moved,)))

        slope = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
        along = sum(float((gradient[name] * directions[name]).sum()) for name in gradient)
        assert along == pytest.approx(slope, rel=1e-6, abs=1e-8)

    def test_it_works_under_torch_func(self, make: Make) -> None:
        """`torch.func.grad` gives the meta-gradient of `adapt`, and `vmap` maps a loop over starts."""
        rule = self.rule(make)
        loss, expected = self.meta_gradient(rule)
        loop, weights = Loop(rule), start()
        parameters = {f"rule.{name}": p.detach() for name, p in rule.named_parameters()}

        def after(parameters: dict[str, Tensor], weights: Weights) -> Tensor:
            out: Tensor = functional_call(loop, parameters, (weights,))
            return out

        assert_close(after(parameters, weights), loss)
        of_parameters, of_weights = grad(after, argnums=(0, 1))(parameters, weights)
        assert_close(of_weights | of_parameters, expected)
        starts = {name: torch.stack([weight, 2 * weight]) for name, weight in weights.items()}
        mapped = vmap(after, in_dims=(None, 0))(parameters, starts)
        alone = [after(parameters, {name: weight[i] for name, weight in starts.items()}) for i in range(2)]
        assert_close(mapped, torch.stack(alone))

    def test_it_saves_and_loads(self, make: Make) -> None:
        """Pickle and `state_dict` keep what it learned."""
        rule = self.rule(make)
        with torch.no_grad():
            for parameter in rule.parameters():
                parameter.mul_(0.5)
            expected = adapt(SmoothTasks(1), stacked(start(), TASKS), rule, STEPS, order=1).weights
            fresh = make(start(), RATE).double()
            fresh.load_state_dict(rule.state_dict())
            for again in (pickle.loads(pickle.dumps(rule)), fresh):
                found = adapt(SmoothTasks(1), stacked(start(), TASKS), again, STEPS, order=1).weights
                assert_close(found, expected, rtol=0, atol=0)
