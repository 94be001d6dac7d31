"""What every strategy of training a supernet promises, as a suite of tests."""

from __future__ import annotations

import io
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from nas.backbone import BackboneSpace
from nas.controller import Derived
from nas.strategy import Epoch, Strategy
from nas.supernet import Supernet
from nas.testing.toy_supernet import ToyCurves, ToyRegression

Make = Callable[[BackboneSpace, Supernet, int], Strategy]
"""From a space, its supernet and a seed to a new strategy."""


@dataclass(slots=True)
class StrategyRun:
    """A strategy at work on the toy problem, and what it did so far."""

    strategy: Strategy
    problem: ToyRegression
    optimizer: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)

    def train(self, steps: int, whole: int, epoch: int = 10) -> None:
        """Take steps of a training of `whole` steps, an epoch after every `epoch` of them."""
        for _ in range(steps):
            progress = len(self.losses) / whole
            self.losses.append(self.strategy.step(self.problem.batches(), self.optimizer, progress))
            if len(self.losses) % epoch == 0:
                self.epochs.append(self.strategy.end_epoch(self.problem.batches()))

    def derive(self, number: int) -> Sequence[Derived]:
        """Derive architectures, scored by the shared weights."""
        return self.strategy.derive(number, self.problem.score)

    def state(self) -> dict[str, Any]:
        """Return all that the next steps depend on, as a checkpoint holds it."""
        stream = io.BytesIO()
        torch.save(
            {
                "strategy": self.strategy.state_dict(),
                "supernet": self.problem.supernet.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "drawn": self.problem.drawn,
            },
            stream,
        )
        stream.seek(0)
        state: dict[str, Any] = torch.load(stream, weights_only=True)
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.strategy.load_state_dict(state["strategy"])
        self.problem.supernet.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.problem.drawn = state["drawn"]


def begin(make: Make, seed: int = 0, features: int = 3, weights: int = 0) -> StrategyRun:
    """Begin a training; `weights` seeds the supernet and its examples, `seed` the strategy."""
    problem = ToyRegression(ToyCurves(features=features), weights)
    strategy = make(problem.space, problem.supernet, seed)
    optimizer = torch.optim.SGD(problem.supernet.parameters(), 0.1, momentum=0.9)
    return StrategyRun(strategy, problem, optimizer)


class StrategySuite(ABC):
    """Tests that a strategy passes. Inherit it and say how yours is made.

    ```python
    class TestMine(StrategySuite):
        @pytest.fixture
        def make(self):
            return lambda space, relaxation, seed: Mine(space, relaxation, seed, rate=0.1)
    ```

    Choose settings that let it learn within `steps` steps.
    """

    steps = 100
    """Of a training that finds the best architecture."""

    @abstractmethod
    def make(self) -> Make:
        """Fixture: from a space, its supernet and a seed to a new strategy."""

    @pytest.mark.parametrize("seed", range(2))
    def test_finds_the_best_architecture(self, make: Make, seed: int) -> None:
        """Each feature's curve is found, whatever the seed, and the weights learn."""
        run = begin(make, seed, weights=seed)
        before = run.problem.score(run.problem.best)
        run.train(self.steps, self.steps)
        derived = run.derive(3)
        assert derived[0].architecture == run.problem.best
        assert derived[0].score > -1.3 > before

    @pytest.mark.parametrize("at", [0, 12])
    def test_state_continues_to_the_same_bits(self, make: Make, at: int) -> None:
        """Another instance that takes over the state goes on exactly as the first does."""
        first, second = begin(make, 0), begin(make, 5)
        first.train(at, 60)
        second.restore(first.state())
        second.losses = list(first.losses)
        ends = []
        for run in (first, second):
            del run.epochs[:]
            run.train(25, 60)
            ends.append((run.losses, run.epochs, run.derive(3), _weights(run)))
        assert ends[0] == ends[1]

    def test_seeded(self, make: Make) -> None:
        """Equal seeds give equal trainings, and another seed another one."""
        runs = [begin(make, seed) for seed in (0, 0, 1)]
        for run in runs:
            run.train(20, 20)
        ends = [(run.losses, run.epochs, run.derive(2), _weights(run)) for run in runs]
        assert ends[0] == ends[1]
        assert ends[0] != ends[2]

    def test_draws_from_its_generator_alone(self, make: Make) -> None:
        """No global generator moves."""
        run = begin(make)
        before = _global_chance()
        run.train(20, 20)
        run.derive(2)
        assert _global_chance() == before

    def test_weights_are_stepped_by_the_optimizer_alone(self, make: Make) -> None:
        """With a rate of zero they stay, to the bit; and they are no part of the strategy's state."""
        run = begin(make)
        before = _weights(run)
        run.optimizer.param_groups[0]["lr"] = 0.0
        run.train(20, 20)
        run.derive(2)
        assert _weights(run) == before
        own = {id(weight) for weight in run.problem.supernet.parameters()}
        assert not own & {id(parameter) for parameter in run.strategy.parameters()}
        assert not any("relaxation" in name for name in run.strategy.state_dict())

    def test_mixture(self, make: Make) -> None:
        """It distributes one over each decision's choices, has no graph and draws nothing."""
        run = begin(make)
        for _ in range(3):
            state = run.strategy.rng.bit_generator.state
            mixture = run.strategy.mixture()
            assert run.strategy.rng.bit_generator.state == state
            again = run.strategy.mixture()
            for decision, weights, same in zip(run.problem.space.decisions, mixture, again, strict=True):
                assert weights.shape == (len(decision.choices),)
                assert not weights.requires_grad
                assert bool((weights >= 0).all())
                assert float(weights.sum()) == pytest.approx(1)
                assert torch.equal(weights, same)
            run.train(5, 15)

    def test_losses_and_measurements_are_numbers(self, make: Make) -> None:
        """A step returns its loss, an epoch finite measurements under the same names."""
        run = begin(make)
        run.train(30, 30)
        assert all(type(loss) is float and math.isfinite(loss) and loss >= 0 for loss in run.losses)
        names = [set(epoch.measurements) for epoch in run.epochs]
        assert names[0] == names[1] == names[2]
        for epoch in run.epochs:
            assert all(type(v) is float and math.isfinite(v) for v in epoch.measurements.values())
            assert epoch.stop is None
            if epoch.architecture is not None:
                run.problem.space.check(epoch.architecture)

    @pytest.mark.parametrize("number", [1, 3, 10])
    def test_derives_so_many_distinct_architectures(self, make: Make, number: int) -> None:
        """They differ by canonical key, lie in the space and bear the scores asked for."""
        run = begin(make)
        run.train(5, 10)
        derived, space = run.derive(number), run.problem.space
        assert len(derived) == number
        assert len({space.canonical(space.check(d.architecture)) for d in derived}) == number
        for architecture, score in derived:
            assert all(type(choice) is int for choice in architecture.choices)
            assert score == run.problem.score(architecture)

    def test_derives_no_more_than_there_are(self, make: Make) -> None:
        """Asked for more than the space has, it returns what there is."""
        run = begin(make, features=1)
        run.train(2, 10)
        derived = run.derive(50)
        assert 1 <= len(derived) <= 4
        assert len(set(derived)) == len(derived)

    def test_a_network_without_a_path_is_no_error(self, make: Make) -> None:
        """A loss that depends on nothing, as of an architecture of zeros, moves no weight."""
        run = begin(make)
        before = _weights(run)
        flat = run.problem.batches()._replace(
            inner=lambda mixture, weights=None: torch.tensor(1.5),
            outer=lambda mixture, weights=None: torch.tensor(2.5),
        )
        for step in range(10):
            assert run.strategy.step(flat, run.optimizer, step / 10) in (1.5, 2.5)
        run.strategy.end_epoch(flat)
        assert _weights(run) == before


def _weights(run: StrategyRun) -> list[list[float]]:
    return [weight.flatten().tolist() for weight in run.problem.supernet.parameters()]


def _global_chance() -> tuple[object, ...]:
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    return random.getstate(), repr(state), torch.get_rng_state().tolist()
