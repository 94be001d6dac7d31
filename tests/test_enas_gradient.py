import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from controllers.enas import SharedChildren, policy_loss
from controllers.policy import Policy
from nas.space import Decision
from nas.supernet import Mixture
from nas.testing.toy_supernet import ToyCurves, ToyRegression

DECISIONS = (
    Decision("a", ("x", "y", "z")),
    Decision("b", ("x", "y")),
    Decision("c", ("0", "0+1"), anchors=((0,), (0, 1))),
)
EVERY = torch.tensor(list(itertools.product(range(3), range(2), range(2))))
REWARDS = torch.tensor(np.random.default_rng(0).normal(size=len(EVERY)))


def policy_of(seed: int = 0) -> Policy:
    rng = np.random.default_rng(seed)
    policy = Policy(DECISIONS, rng, hidden=5)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(torch.tensor(rng.normal(0, 0.5, weight.shape)))
    return policy


def gradient(policy: Policy, loss: Tensor) -> Tensor:
    found = torch.autograd.grad(loss, list(policy.parameters()), materialize_grads=True)
    return torch.cat([part.flatten() for part in found])


def objective(policy: Policy, entropy: float) -> Tensor:
    """Return −(E[R] + entropy · H) by adding up over all architectures."""
    logs, _ = policy.log_prob(EVERY)
    return -(logs.exp() * (REWARDS - entropy * logs)).sum()


@pytest.mark.parametrize("entropy", [0.0, 0.7])
@pytest.mark.parametrize("children", [2, 3])
def test_the_estimates_expectation_is_the_gradient(children: int, entropy: float) -> None:
    """Exact: every tuple of draws, weighted by its probability."""
    policy = policy_of()
    shares = policy.log_prob(EVERY)[0].detach().exp()
    assert float(shares.sum()) == pytest.approx(1)
    mean = torch.zeros_like(gradient(policy, objective(policy, entropy)))
    for drawn in itertools.combinations_with_replacement(range(len(EVERY)), children):
        counts = [drawn.count(i) for i in set(drawn)]
        orders = math.factorial(children) / math.prod(math.factorial(count) for count in counts)
        weight = orders * float(shares[list(drawn)].prod())
        loss = policy_loss(policy, EVERY[list(drawn)], REWARDS[list(drawn)], entropy)
        mean += weight * gradient(policy, loss)
    torch.testing.assert_close(mean, gradient(policy, objective(policy, entropy)), rtol=1e-9, atol=1e-12)


def test_the_objective_is_what_finite_differences_say() -> None:
    policy = policy_of()
    found, step = gradient(policy, objective(policy, 0.7)), 1e-6
    weight = policy.bias
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 1] += sign * step
            ends.append(float(objective(policy, 0.7)))
            weight[0, 1] -= sign * step
    names = [name for name, _ in policy.named_parameters()]
    sizes = [p.numel() for p in policy.parameters()]
    at = sum(sizes[: names.index("bias")]) + 1
    assert float(found[at]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


def test_rewards_shifted_by_a_constant_teach_the_same() -> None:
    policy, drawn = policy_of(), [0, 5, 7, 7]
    one = gradient(policy, policy_loss(policy, EVERY[drawn], REWARDS[drawn], 0.1))
    other = gradient(policy, policy_loss(policy, EVERY[drawn], REWARDS[drawn] + 100, 0.1))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


class Recorder:
    """The losses of the toy problem, and which batch was asked with which mixture."""

    def __init__(self, problem: ToyRegression) -> None:
        self.problem, self.asked = problem, list[tuple[str, tuple[int, ...]]]()
        self.values: list[float] = []

    def step(self, strategy: SharedChildren, optimizer: torch.optim.Optimizer, broken: int = 0) -> float:
        """Take a step; the first `broken` losses of the outer batch are not numbers."""
        batches = self.problem.batches()
        left = broken

        def record(kind: str, mixture: Mixture, weights: Mapping[str, Tensor] | None) -> Tensor:
            nonlocal left
            loss = (batches.inner if kind == "inner" else batches.outer)(mixture, weights)
            if kind == "outer" and left:
                left, loss = left - 1, loss * math.nan
            self.asked.append((kind, tuple(int(m.argmax()) for m in mixture)))
            self.values.append(float(loss.detach()))
            return loss

        return strategy.step(
            batches._replace(
                inner=lambda m, w=None: record("inner", m, w), outer=lambda m, w=None: record("outer", m, w)
            ),
            optimizer,
            0.0,
        )


def begin(**settings: int) -> tuple[SharedChildren, Recorder, torch.optim.Optimizer]:
    problem = ToyRegression(ToyCurves(), 0)
    strategy = SharedChildren(problem.space, problem.supernet, 0, **settings)
    return strategy, Recorder(problem), torch.optim.SGD(problem.supernet.parameters(), 0.1)


def test_weights_and_policy_learn_in_turn() -> None:
    strategy, recorder, optimizer = begin(weight_steps=3, policy_steps=2, children=4)
    weights = list(recorder.problem.supernet.parameters())
    turns = []
    for _ in range(10):
        before = [w.detach().clone() for w in weights], strategy.learned.policy.bias.detach().clone()
        recorder.step(strategy, optimizer)
        moved = any(not torch.equal(a, b) for a, b in zip(before[0], weights, strict=True))
        taught = not torch.equal(before[1], strategy.learned.policy.bias)
        assert not (moved and taught)
        turns.append("policy" if taught else "weights")
    kinds = "".join(kind[0] for kind, _ in recorder.asked)
    assert kinds == ("iii" + "oooo" * 2) * 2
    assert [turn for i, turn in enumerate(turns) if i % 5 >= 3] == ["policy"] * 4
    assert "policy" not in [turn for i, turn in enumerate(turns) if i % 5 < 3]


def test_the_reward_is_minus_the_loss_of_the_child_that_was_drawn() -> None:
    strategy, recorder, optimizer = begin(weight_steps=1, policy_steps=1, children=6)
    recorder.step(strategy, optimizer)
    del recorder.asked[:], recorder.values[:]
    policy = Policy(recorder.problem.space.decisions, np.random.default_rng(0))
    policy.load_state_dict(strategy.learned.policy.state_dict())
    adam = torch.optim.Adam(policy.parameters(), 0.01)
    loss = recorder.step(strategy, optimizer)
    assert loss == pytest.approx(np.mean(recorder.values))
    choices = torch.tensor([choices for _, choices in recorder.asked])
    policy_loss(policy, choices, -torch.tensor(recorder.values).double(), 0.001).backward()
    adam.step()
    for wanted, found in zip(policy.parameters(), strategy.learned.policy.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_children_without_a_finite_loss_are_left_out() -> None:
    strategy, recorder, optimizer = begin(weight_steps=1, policy_steps=5, children=4)
    recorder.step(strategy, optimizer)
    assert math.isfinite(recorder.step(strategy, optimizer, broken=2))
    before = strategy.learned.policy.bias.detach().clone()
    assert math.isnan(
        recorder.step(strategy, optimizer, broken=3)
    )  # one alone has nothing to be compared with
    assert torch.equal(before, strategy.learned.policy.bias)


def test_more_alike_than_are_wanted_its_neighbours_are_derived() -> None:
    strategy, recorder, _ = begin(samples=20)
    with torch.no_grad():
        strategy.learned.policy.bias[:, 2] += 60  # nothing else is ever drawn
    derived = strategy.derive(4, recorder.problem.score)
    mode = (2, 2, 2)
    differences = [sum(a != b for a, b in zip(d.architecture.choices, mode, strict=True)) for d in derived]
    assert sorted(differences) == [0, 1, 1, 1]


def test_the_policy_stays_on_the_cpu_in_float64() -> None:
    strategy, _, _ = begin()
    strategy.to(torch.device("meta")).float()
    assert strategy.learned.policy.bias.dtype == torch.float64
    assert strategy.learned.policy.bias.device.type == "cpu"
