from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from facts import refusal
from torch import nn

from controllers.rnn import Rnn
from nas.backbone import BackboneSpace
from nas.controller import Outcome, Score
from nas.errors import ConfigError
from nas.plugins import installed, load, resolve
from nas.space import Architecture, Decision, TaskShape
from nas.states import TrialState
from nas.testing.controllers import ControllerSuite, Make, completed, generator, mixed, simulate
from nas.testing.toys import Toy

SETTINGS: dict[str, dict[str, Any]] = {
    "reinforce in batches": {"hidden": 8, "batch": 3},
    "ppo": {"hidden": 8, "algorithm": "ppo", "batch": 2},
}


class Bandit(BackboneSpace):
    """Three decisions, 24 arms."""

    name: ClassVar[str] = "bandit"
    decisions = (Decision("a", (0, 1, 2, 3)), Decision("b", (0, 1, 2)), Decision("c", (0, 1), ((), (0,))))
    best: ClassVar[tuple[int, ...]] = (2, 0, 1)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        raise AssertionError("no arm is a network")

    def canonical(self, architecture: Architecture) -> str:
        return self.encode(architecture)

    def score(self, architecture: Architecture) -> float:
        """The share of the best arm's choices."""
        return sum(a == b for a, b in zip(architecture.choices, self.best, strict=True)) / 3


def scored(architecture: Architecture, value: float, state: TrialState = TrialState.COMPLETED) -> Outcome:
    return Outcome(state, architecture, Score(value, 0.0, 1))


def weights(controller: Rnn) -> list[torch.Tensor]:
    return [p.detach().clone() for p in controller._policy.parameters()]


@torch.no_grad()
def probability(controller: Rnn, choices: tuple[int, ...]) -> float:
    return float(controller._policy.log_prob(torch.tensor([choices]))[0].exp())


@pytest.mark.slow
class TestRnn(ControllerSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return Toy(layers=3)

    @pytest.fixture(params=SETTINGS)
    def make(self, request: pytest.FixtureRequest, space: BackboneSpace) -> Make:
        return lambda seed: Rnn(space, seed, **SETTINGS[request.param])


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="reinforce"),
        pytest.param({"algorithm": "ppo", "batch": 5}, id="ppo", marks=pytest.mark.slow),
    ],
)
def test_it_finds_the_best_arm(settings: dict[str, Any]) -> None:
    space = Bandit()
    controller = Rnn(space, 0, **settings)
    assert probability(controller, space.best) < 0.1
    simulate(controller, completed(space.score), trials=400)
    assert probability(controller, space.best) > 0.9


UNITS: dict[str, Callable[[float], float]] = {
    "percent": lambda score: 90 + score,
    "minus squared error": lambda score: -(1e6 ** (1 - score)),
}


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_scores_in_any_unit_teach_the_same(unit: Callable[[float], float]) -> None:
    space = Bandit()
    one, other = Rnn(space, 0), Rnn(space, 0)
    simulate(one, completed(space.score), trials=30)
    simulate(other, completed(lambda architecture: unit(space.score(architecture))), trials=30)
    for a, b in zip(weights(one), weights(other), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_it_finds_the_best_arm_in_noise_among_failures_and_with_workers() -> None:
    space = Bandit()

    def evaluate(number: int, architecture: Architecture) -> Outcome:
        rng = generator(7, number)
        if rng.random() < 0.1:
            return Outcome(TrialState.FAILED, architecture, error="by chance")
        return scored(architecture, space.score(architecture) + rng.normal(0, 0.1))

    controller = Rnn(space, 0)
    simulate(controller, evaluate, trials=600, workers=4)
    assert probability(controller, space.best) > 0.9


def test_it_leaves_what_is_infeasible() -> None:
    """Half of the space has no network, and all that has one scores the same."""

    def evaluate(_: int, architecture: Architecture) -> Outcome:
        if architecture.choices[2] == 0:
            return Outcome(TrialState.INFEASIBLE, architecture, error="no network")
        return scored(architecture, 0.5)

    controller = Rnn(Bandit(), 0)
    simulate(controller, evaluate, trials=200)
    drawn = [controller.propose(0, (), generator(1, n)).architecture.choices[2] for n in range(200)]
    assert sum(drawn) > 180


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_replay_gives_equal_weights_to_the_bit(settings: dict[str, Any]) -> None:
    space = Toy(layers=3)
    first = Rnn(space, 5, **settings)
    start = weights(first)
    run = simulate(first, mixed(5), trials=50, seed=5, workers=3)
    again = Rnn(space, 5, **settings)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for number, outcome in run.history:
            again.observe(number, outcome)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(weights(first), weights(again), strict=True):
        assert torch.equal(a, b)
    assert not any(torch.equal(a, b) for a, b in zip(start, weights(first), strict=True))


def test_rewards_are_ranks_and_the_advantage_what_they_exceed_the_moving_average_by() -> None:
    space, rng = Bandit(), np.random.default_rng(0)
    controller = Rnn(space, 0, batch=7, decay=0.5)
    outcomes = [
        scored(space.sample(rng), 0.3),
        scored(space.sample(rng), 0.9),
        Outcome(TrialState.FAILED, space.sample(rng), error="memory"),
        scored(space.sample(rng), 0.3, TrialState.REUSED),
        scored(space.sample(rng), float("nan")),
        Outcome(TrialState.STOPPED, space.sample(rng)),
        scored(space.sample(rng), -1e30, TrialState.STOPPED),
    ]
    rewards = [1 / 2, 3 / 4, 0, 1 / 3, 1 / 8]
    for number, outcome in enumerate(outcomes):
        controller.observe(number, outcome)
    baseline, expected = 0.5, []
    for reward in rewards:
        expected.append(reward - baseline)
        baseline = 0.5 * baseline + 0.5 * reward
    assert [advantage for _, advantage in controller._waiting] == pytest.approx(expected)
    learned = [o.architecture.choices for o in (*outcomes[:4], outcomes[6]) if o.architecture]
    assert [choices for choices, _ in controller._waiting] == learned


def test_an_update_waits_for_its_batch() -> None:
    space, rng = Bandit(), np.random.default_rng(0)
    controller = Rnn(space, 0, batch=3)
    start = weights(controller)
    for number, value in enumerate((0.1, 0.9)):
        controller.observe(number, scored(space.sample(rng), value))
    assert all(torch.equal(a, b) for a, b in zip(start, weights(controller), strict=True))
    controller.observe(2, scored(space.sample(rng), 0.5))
    assert not all(torch.equal(a, b) for a, b in zip(start, weights(controller), strict=True))


def test_entropy_keeps_the_policy_open() -> None:
    space = Bandit()
    found = []
    for entropy in (0.0, 1.0):
        controller = Rnn(space, 0, entropy=entropy)
        simulate(controller, completed(space.score), trials=150)
        found.append(probability(controller, space.best))
    assert found[0] > 0.5 > 0.2 > found[1]


@pytest.mark.parametrize("name", installed("space"))
def test_it_learns_on_every_space(name: str) -> None:
    """After a reward above all others an architecture is likelier than before."""
    cls = load("space", name)
    space = cls(**resolve(cls, {}, "space"))
    controller, rng = Rnn(space, 0), np.random.default_rng(0)
    for number in range(3):
        controller.observe(number, scored(space.sample(rng), 0.1 * number))
    good = space.sample(rng)
    before = probability(controller, good.choices)
    controller.observe(3, scored(good, 1.0))
    assert probability(controller, good.choices) > before


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        ({"algorithm": "a2c"}, "controller.algorithm"),
        ({"rate": 0}, "controller.rate"),
        ({"decay": 1}, "controller.decay"),
        ({"clip": 1}, "controller.clip"),
    ],
)
def test_settings_are_checked(given: dict[str, object], setting: str) -> None:
    with refusal(ConfigError, setting):
        resolve(Rnn, given, "controller")
