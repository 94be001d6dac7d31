"""What every weighting must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nas import plugins
from nas.learners.maml import Maml
from nas.learners.weighting import Weighting
from nas.testing.learners import CASES, gradients

Make = Callable[[], Weighting]


def examples(tasks: int = 3, count: int = 6) -> tuple[Tensor, Tensor]:
    """Draw losses `[T, B]`, float64, and labels of three classes."""
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(tasks, count, generator=generator, dtype=torch.float64) * 3
    return losses, torch.arange(count).remainder(3).expand(tasks, -1)


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
        weights = self.weighting(make)(losses, labels)
        assert weights.shape == losses.shape
        assert weights.isfinite().all()
        assert (weights >= 0).all()
        assert weights.any()
        assert torch.equal(losses, given)

    def test_values_have_weights_too(self, make: Make) -> None:
        """In regression the targets are `[T, B, outputs]`."""
        losses, _ = examples()
        assert self.weighting(make)(losses, torch.zeros(3, 6, 2).double()).shape == losses.shape

    def test_the_scale_does_not_depend_on_how_many_there_are(self, make: Make) -> None:
        """Every example twice, every weight twice: the mean loss stays."""
        losses, labels = examples()
        weighting = self.weighting(make)
        doubled = weighting(torch.cat([losses, losses], 1), torch.cat([labels, labels], 1))
        assert_close(doubled, weighting(losses, labels).repeat(1, 2))

    def test_tasks_are_independent(self, make: Make) -> None:
        """A task's weights are those that it has alone."""
        losses, labels = examples()
        weighting = self.weighting(make)
        alone = [weighting(losses[t : t + 1], labels[t : t + 1]) for t in range(len(losses))]
        assert_close(weighting(losses, labels), torch.cat(alone))

    @pytest.mark.parametrize("case", CASES)
    def test_a_learner_trains_with_it(self, make: Make, case: str) -> None:
        """The meta-gradient is finite, and that of the weighting's parameters a difference of losses.

        With one inner step, since the weights take losses for constants.
        """
        tasks = CASES[case]
        learner = tasks.learner(lambda backbone, shape: Maml(backbone, shape).equip(weighting=make))
        learner.double().train()
        episode = tasks.episode(torch.float64, tasks=3)
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
                weights = learner.weighting(ends[0], episode.query_y).detach()
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.add_(sign * h * directions[name])
        slope = float((weights * (ends[1] - ends[2])).mean()) / (2 * h)
        along = sum(float((found[f"weighting.{n}"] * d).sum()) for n, d in directions.items())
        assert along == pytest.approx(slope, rel=1e-4, abs=1e-7)
