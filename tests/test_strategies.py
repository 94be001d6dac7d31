import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from grids import rest_slow
from torch import Tensor

from controllers.one_shot import descend
from nas.backbone import BackboneSpace
from nas.controller import Controller, Derived
from nas.errors import PluginError
from nas.plugins import arguments, installed, load, resolve
from nas.space import Architecture
from nas.strategy import Batches, Epoch, Strategy
from nas.supernet import Relaxation
from nas.testing.strategies import Make, StrategySuite, begin
from nas.training.oneshot.assembly import method

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "dada": {"alpha_rate": 0.1},
    "darts": {"alpha_rate": 0.1},
    "darts second order": {"alpha_rate": 0.1, "order": 2},
    "darts exact": {"alpha_rate": 0.1, "order": "exact", "stop_skips": 4, "stop_eigenvalue": 20},
    "drnas": {"alpha_rate": 0.1},
    "enas": {"weight_steps": 10, "policy_steps": 5},
    "gdas": {"alpha_rate": 0.1, "hot": 2.0},
    "random_sharing": {"samples": 400},
    "random_sharing fair": {"samples": 400, "fair": True},
    "random_sharing sandwich": {"samples": 400, "sandwich": True},
}
"""Where the defaults, made for longer trainings, would not do; and what a name alone does not reach."""

NAMES = [name for name in installed("controller") if load("controller", name, Controller).one_shot]
CASES = sorted({*NAMES, *SETTINGS})


class TestInstalledStrategies(StrategySuite):
    @pytest.fixture(params=rest_slow(CASES, NAMES))
    def make(self, request: pytest.FixtureRequest) -> Make:
        cls = method(request.param.split()[0])
        given = resolve(cls, dict(SETTINGS.get(request.param, {})), "controller")
        return lambda space, relaxation, seed: cls(space, relaxation, seed, **arguments(cls, given))


# The suite itself: each way to break the promise fails a test


class Broken(Strategy):
    """Uniform paths that derive a scored sample: right, until a subclass breaks it."""

    def __init__(self, space: BackboneSpace, relaxation: Relaxation, seed: int) -> None:
        super().__init__(space, relaxation, seed)
        self.reference = space.sample(self.rng)

    def step(self, batches: Batches, optimizer: torch.optim.Optimizer, progress: float) -> float:
        return descend(batches.inner(self.relaxation.mixture_of(self.space.sample(self.rng))), optimizer)

    def mixture(self) -> list[Tensor]:
        return self.relaxation.mixture_of(self.reference)

    def end_epoch(self, batches: Batches) -> Epoch:
        return Epoch(None, {})

    def derive(self, number: int, score: Callable[[Architecture], float]) -> Sequence[Derived]:
        drawn = dict.fromkeys(self.space.sample(self.rng) for _ in range(400))
        scored = [Derived(architecture, score(architecture)) for architecture in drawn]
        return sorted(scored, key=lambda derived: -derived.score)[:number]


class ForgetsItsGenerator(Broken):
    def get_extra_state(self) -> int:
        return 0

    def set_extra_state(self, state: Any) -> None:
        pass


class DrawsGlobally(Broken):
    def step(self, batches: Batches, optimizer: torch.optim.Optimizer, progress: float) -> float:
        torch.rand(1)
        return super().step(batches, optimizer, progress)


class DrawsInMixture(Broken):
    def mixture(self) -> list[Tensor]:
        return self.relaxation.mixture_of(self.space.sample(self.rng))


class Registers(Broken):
    def __init__(self, space: BackboneSpace, relaxation: Relaxation, seed: int) -> None:
        super().__init__(space, relaxation, seed)
        self.inner = relaxation


class StepsItself(Broken):
    def step(self, batches: Batches, optimizer: torch.optim.Optimizer, progress: float) -> float:
        loss = super().step(batches, optimizer, progress)
        with torch.no_grad():
            for weight in self.relaxation.parameters():
                weight.mul_(0.9)
        return loss


class DerivesTheWorst(Broken):
    def derive(self, number: int, score: Callable[[Architecture], float]) -> Sequence[Derived]:
        return super().derive(400, score)[::-1][:number]


class Repeats(Broken):
    def derive(self, number: int, score: Callable[[Architecture], float]) -> Sequence[Derived]:
        return [super().derive(1, score)[0]] * number


class Fails(Broken):
    def step(self, batches: Batches, optimizer: torch.optim.Optimizer, progress: float) -> float:
        loss = batches.inner(self.mixture())
        loss.backward()
        return float(loss.detach())


class Suite(StrategySuite):
    def make(self) -> Make:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("cls", "test"),
    [
        (ForgetsItsGenerator, lambda suite, make: suite.test_state_continues_to_the_same_bits(make, 12)),
        (DrawsGlobally, Suite.test_draws_from_its_generator_alone),
        (DrawsInMixture, Suite.test_mixture),
        (Registers, Suite.test_weights_are_stepped_by_the_optimizer_alone),
        (StepsItself, Suite.test_weights_are_stepped_by_the_optimizer_alone),
        (DerivesTheWorst, lambda suite, make: suite.test_finds_the_best_architecture(make, 0)),
        (Repeats, lambda suite, make: suite.test_derives_so_many_distinct_architectures(make, 3)),
        (Fails, Suite.test_a_network_without_a_path_is_no_error),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_suite_catches(cls: type[Broken], test: Callable[[Suite, Make], None]) -> None:
    test(Suite(), Broken)
    with pytest.raises((AssertionError, RuntimeError)):
        test(Suite(), cls)


def test_suite_must_be_filled_in() -> None:
    with pytest.raises(TypeError):
        type("Empty", (StrategySuite,), {})()


@pytest.mark.parametrize("name", NAMES)
def test_a_controller_of_the_same_name_takes_the_settings(name: str) -> None:
    settings = resolve(method(name), {}, "controller")
    controller = resolve(load("controller", name), {}, "controller")
    assert set(controller) == {*settings, "derive", "budget"}
    settings.pop("alpha_rate", None)  # which the controller paces by its budget
    assert all(controller[name] == value for name, value in {**settings, "derive": 3}.items())


def test_uniform_paths_train_all_architectures_alike() -> None:
    cls = method("random_sharing")
    run = begin(lambda *args: cls(*args), features=1)
    seen = torch.zeros(4)
    inner = run.problem.batches().inner

    def record(mixture: Sequence[Tensor], weights: Mapping[str, Tensor] | None = None) -> Tensor:
        seen.add_(mixture[0])
        return inner(mixture, weights)

    for _ in range(800):
        run.strategy.step(run.problem.batches()._replace(inner=record), run.optimizer, 0.0)
    assert float(((seen - 200) ** 2 / 200).sum()) < 16.3  # 99.9 % quantile at 3 degrees of freedom


def test_fair_paths_train_each_choice_equally_often_in_every_step() -> None:
    """Four architectures a step, and one step of the weights by the sum of their gradients."""
    cls = method("random_sharing")
    run = begin(lambda *args: cls(*args, fair=True), features=3)
    batches, parameters = run.problem.batches(), [p for g in run.optimizer.param_groups for p in g["params"]]
    drawn, mixtures = list[float](), list[list[Tensor]]()

    def record(mixture: Sequence[Tensor], weights: Mapping[str, Tensor] | None = None) -> Tensor:
        mixtures.append(list(mixture))
        loss = batches.inner(mixture, weights)
        drawn.append(float(loss.detach()))
        return loss

    loss = run.strategy.step(batches._replace(inner=record), run.optimizer, 0.0)
    assert len(mixtures) == 4
    for feature in zip(*mixtures, strict=True):
        assert torch.equal(torch.stack(feature).sum(0), torch.ones(4))
    assert loss == pytest.approx(sum(drawn) / 4)
    assert any(p.grad is not None and p.grad.any() for p in parameters)


def test_a_sandwich_trains_the_largest_and_the_smallest_in_every_step() -> None:
    cls = method("random_sharing")
    run = begin(lambda *args: cls(*args, sandwich=True), features=3)
    mixtures, batches = list[list[Tensor]](), run.problem.batches()

    def record(mixture: Sequence[Tensor], weights: Mapping[str, Tensor] | None = None) -> Tensor:
        mixtures.append(list(mixture))
        return batches.inner(mixture, weights)

    run.strategy.step(batches._replace(inner=record), run.optimizer, 0.0)
    chosen = [[int(weights.argmax()) for weights in mixture] for mixture in mixtures]
    assert len(chosen) == 4
    assert chosen[:2] == [[3, 3, 3], [0, 0, 0]]


def test_uniform_paths_name_the_best_of_a_sample_after_an_epoch() -> None:
    cls = method("random_sharing")
    run = begin(lambda *args: cls(*args), features=1)
    losses = dict[int, float]()

    def record(mixture: Sequence[Tensor], weights: Mapping[str, Tensor] | None = None) -> Tensor:
        choice = int(mixture[0].argmax())
        losses[choice] = (math.nan, 3.0, 1.0, 2.0)[choice]
        return torch.tensor(losses[choice])

    for _ in range(3):
        losses.clear()
        epoch = run.strategy.end_epoch(run.problem.batches()._replace(outer=record))
        assert len(losses) > 1
        assert epoch.architecture is not None
        least = min(loss for loss in losses.values() if not math.isnan(loss))
        assert losses[epoch.architecture.choices[0]] == least
        assert epoch.measurements["skips"] == epoch.architecture.choices.count(1)


@pytest.mark.parametrize("name", ["evolution", "nas.testing.oneshot:ToyOneShot"])
def test_what_trains_no_supernet_is_no_strategy(name: str) -> None:
    with pytest.raises(PluginError):
        method(name)
