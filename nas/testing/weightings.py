"""What every weighting must do."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nas import plugins
from nas.errors import ConfigError
from nas.learners.augmentation import chance
from nas.learners.classifier import Classifier
from nas.learners.maml import Maml
from nas.learners.weighting import Judged, Weighting
from nas.space import TaskShape
from nas.tasks.base import Episode
from nas.testing.learners import CASES, convolutional, gradients, image_classes
from nas.training.loop import copied

Make = Callable[[], Weighting]


def examples(tasks: int = 3, count: int = 6) -> tuple[Tensor, Tensor]:
    """Draw losses `[T, B]`, float64, and labels of three classes."""
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(tasks, count, generator=generator, dtype=torch.float64) * 3
    return losses, torch.arange(count).remainder(3).expand(tasks, -1)


class Minibatches(NamedTuple):
    """Ordinary data, and the shape of its examples."""

    episode: Episode
    shape: TaskShape


def minibatches(examples: int = 12, clean: int = 6, seed: int = 0) -> Minibatches:
    """Draw a minibatch of 8×8 images of three classes, every third with a wrong label, and a clean one."""
    drawn = image_classes(tasks=1, queries=(examples + clean) // 3, seed=seed)
    order = torch.randperm(drawn.query_y.shape[1], generator=torch.Generator().manual_seed(seed))
    x, y = drawn.query_x[:, order], drawn.query_y[:, order]
    right = replace(
        drawn,
        support_x=drawn.support_x[:, :0],
        support_y=drawn.support_y[:, :0],
        query_x=x[:, examples:],
        query_y=y[:, examples:],
        shots=0,
    )
    noisy = y[:, :examples].clone()
    noisy[:, ::3] = (noisy[:, ::3] + 1) % 3
    return Minibatches(
        replace(right, query_x=x[:, :examples], query_y=noisy, clean=right), CASES["classification"].shape
    )


def weigh(weighting: Weighting, losses: Tensor, targets: Tensor) -> Tensor:
    """Return the weights; where clean examples judge it, these like some losses better than others."""
    if not isinstance(weighting, Judged):
        return weighting(losses, targets)  # type: ignore[no-any-return]

    def judge(weights: Tensor) -> Tensor:
        return -torch.cos(3 * losses) / losses.shape[1] * (1 + (weights * losses).mean(1, keepdim=True))

    return weighting.weigh(losses, targets, judge)


class WeightingSuite(ABC):
    """Inherit it, and give the fixture `make`: what makes the weighting.

    class TestMine(WeightingSuite):
        @pytest.fixture
        def make(self):
            return Mine
    """

    @abstractmethod
    def make(self) -> Make:
        """Return the weighting's class or a partial of it; a pytest fixture."""

    def weighting(self, make: Make) -> Weighting:
        """Make the weighting with seeded parameters, float64."""
        torch.manual_seed(0)
        return make().double()

    def test_it_describes_itself(self, make: Make) -> None:
        """It has a name, and every setting says what it means."""
        cls = type(self.weighting(make))
        assert cls.name
        assert [name for name, field in plugins.settings(cls).items() if not field.description] == []

    def test_every_example_has_a_weight(self, make: Make) -> None:
        """Weights are `[T, B]`, finite, none negative, and not all zero."""
        losses, labels = examples()
        given = losses.clone()
        weights = weigh(self.weighting(make), losses, labels)
        assert weights.shape == losses.shape
        assert weights.isfinite().all()
        assert (weights >= 0).all()
        assert weights.any()
        assert torch.equal(losses, given)

    def test_values_have_weights_too(self, make: Make) -> None:
        """In regression the targets are `[T, B, outputs]`."""
        losses, _ = examples()
        assert weigh(self.weighting(make), losses, torch.zeros(3, 6, 2).double()).shape == losses.shape

    def test_the_scale_does_not_depend_on_how_many_there_are(self, make: Make) -> None:
        """Every example twice, every weight twice: the mean loss stays."""
        losses, labels = examples()
        twice = torch.cat([losses, losses], 1), torch.cat([labels, labels], 1)
        doubled = weigh(self.weighting(make), *twice)
        assert_close(doubled, weigh(self.weighting(make), losses, labels).repeat(1, 2))

    def test_tasks_are_independent(self, make: Make) -> None:
        """A task's weights are those that it has alone; but what learns from all of them may go by them."""
        losses, labels = examples()
        weighting = self.weighting(make)
        if isinstance(weighting, Judged) and list(weighting.parameters()):
            pytest.skip("it learns from all tasks before it weighs any")
        alone = [weigh(weighting, losses[t : t + 1], labels[t : t + 1]) for t in range(len(losses))]
        assert_close(weigh(weighting, losses, labels), torch.cat(alone))

    @pytest.mark.parametrize("case", CASES)
    def test_a_learner_trains_with_it(self, make: Make, case: str) -> None:
        """The meta-gradient is finite, and that of the weighting's parameters a difference of losses.

        With one inner step, since the weights take losses for constants.
        """
        tasks = CASES[case]
        learner = tasks.learner(lambda backbone, shape: Maml(backbone, shape).equip(weighting=make))
        learner.double().train()
        episode = tasks.episode(torch.float64, tasks=3)
        try:
            learner.weighting.check(episode)
        except ConfigError:
            with pytest.raises(ConfigError, match=r"learner\.weighting"):
                learner.meta_backward(episode)
            return
        learner.meta_backward(episode)
        found = gradients(learner)
        assert all(gradient.isfinite().all() for gradient in found.values())
        parameters = dict(learner.weighting.named_parameters())
        if not parameters:
            return
        generator = torch.Generator().manual_seed(4)
        directions = {n: torch.randn(p.shape, generator=generator).to(p) for n, p in parameters.items()}
        ends, h = [], 1e-5
        for sign in (1, -2, 1):
            ends.append(learner.criterion(learner(episode), episode.query_y, "example").detach())
            if sign == 1 and len(ends) == 1:
                plain = isinstance(learner.weighting, Judged)
                weights = 1 if plain else learner.weighting(ends[0], episode.query_y).detach()
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.add_(sign * h * directions[name])
        slope = float((weights * (ends[1] - ends[2])).mean()) / (2 * h)
        along = sum(float((found[f"weighting.{n}"] * d).sum()) for n, d in directions.items())
        assert along == pytest.approx(slope, rel=1e-4, abs=1e-7)

    def test_a_classifier_trains_with_it(self, make: Make) -> None:
        """On ordinary data with clean examples; from a copy of its state it goes on to the same bits."""

        def begun() -> tuple[Classifier, torch.optim.Optimizer]:
            torch.manual_seed(0)
            learner = Classifier(convolutional(), minibatches().shape, lr=0.1).equip(weighting=make).train()
            return learner, learner.optimizer()

        def go_on(learner: Classifier, optimizer: torch.optim.Optimizer, seeds: range) -> list[float]:
            losses = []
            for seed in seeds:
                optimizer.zero_grad()
                losses.append(learner.learn_from(minibatches(seed=seed).episode, chance(seed), optimizer))
                optimizer.step()
            return losses

        learner, optimizer = begun()
        learner.weighting.check(minibatches().episode)
        go_on(learner, optimizer, range(3))
        other, its_optimizer = begun()
        other.load_state_dict(copied(learner.state_dict()))
        its_optimizer.load_state_dict(copied(optimizer.state_dict()))
        if isinstance(learner.weighting, Judged) and learner.weighting.optimizer is not None:
            assert isinstance(other.weighting, Judged)
            assert other.weighting.optimizer is not None
            other.weighting.optimizer.load_state_dict(copied(learner.weighting.optimizer.state_dict()))
        losses = go_on(learner, optimizer, range(3, 6))
        assert all(math.isfinite(loss) and loss >= 0 for loss in losses)
        assert go_on(other, its_optimizer, range(3, 6)) == losses
        states = learner.state_dict(), other.state_dict()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
