"""What every augmentation must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch.testing import assert_close

from nas import plugins
from nas.learners.augmentation import Augmentation, chance
from nas.learners.base import TENSORS
from nas.learners.prototypical import Prototypical
from nas.space import TaskShape
from nas.tasks.base import Episode
from nas.testing.learners import convolutional, gradients, image_classes

Make = Callable[[TaskShape], Augmentation]

SHAPE = TaskShape((1, 8, 8), 3)


class AugmentationSuite(ABC):
    """Inherit it, and give the fixture `make`: from a shape to the augmentation.

    class TestMine(AugmentationSuite):
        @pytest.fixture
        def make(self):
            return Mine

    The tasks drawn here are classifications of 8×8 images; a suite for others replaces `shape` and `episode`.
    """

    draws: ClassVar[bool] = True
    """Whether it draws from its generator, so that another one gives another result."""
    copies: ClassVar[int] = 1
    """How many shots there are for each that is given."""
    shape: ClassVar[TaskShape] = SHAPE

    @abstractmethod
    def make(self) -> Make:
        """Return the augmentation's class or a partial of it; a pytest fixture."""

    def episode(self) -> Episode:
        """Draw four tasks."""
        return image_classes(tasks=4, shots=2, queries=3)

    def augmentation(self, make: Make) -> Augmentation:
        """Make the augmentation with seeded parameters, in training mode."""
        torch.manual_seed(0)
        return make(self.shape).train()

    def test_it_describes_itself(self, make: Make) -> None:
        """It has a name, and every setting says what it means."""
        cls = type(self.augmentation(make))
        assert cls.name
        assert [name for name, field in plugins.settings(cls).items() if not field.description] == []

    def test_tasks_keep_their_shapes(self, make: Make) -> None:
        """Tasks, ways and queries are as many, of the same types, and every number is finite."""
        episode = self.episode()
        found = self.augmentation(make)(episode, chance(0))
        assert (found.ways, found.shots) == (episode.ways, self.copies * episode.shots)
        assert found.classes.shape == episode.classes.shape
        for name in TENSORS:
            given, got = getattr(episode, name), getattr(found, name)
            times = self.copies if name.startswith("support") else 1
            shape = (given.shape[0], times * given.shape[1], *given.shape[2:])
            assert (got.shape, got.dtype) == (shape, given.dtype)
            assert got.isfinite().all()

    def test_a_task_keeps_as_many_examples_of_each_class(self, make: Make) -> None:
        """Supports stay ordered class by class, and queries have as many of each class as before."""
        episode = self.episode()
        found = self.augmentation(make)(episode, chance(0))
        if not episode.regression:
            assert torch.equal(found.support_y, episode.support_y.repeat_interleave(self.copies, 1))
            assert torch.equal(found.query_y.sort(1).values, episode.query_y.sort(1).values)

    def test_chance_is_that_of_its_generator(self, make: Make) -> None:
        """Equal generators give equal bits, other ones other tasks; torch's own generator is not read."""
        augmentation, episode = self.augmentation(make), self.episode()
        once = augmentation(episode, chance(1))
        before = torch.get_rng_state()
        again, other = augmentation(episode, chance(1)), augmentation(episode, chance(2))
        assert torch.equal(before, torch.get_rng_state())
        for name in TENSORS:
            assert torch.equal(getattr(once, name), getattr(again, name))
        changed = any(not torch.equal(getattr(once, name), getattr(other, name)) for name in TENSORS)
        assert changed is self.draws

    def test_it_changes_nothing_that_it_is_given(self, make: Make) -> None:
        """The episode and the augmentation's state stay as they were."""
        augmentation, episode = self.augmentation(make), self.episode()
        tensors = {name: getattr(episode, name).clone() for name in TENSORS}
        state, classes = {n: t.clone() for n, t in augmentation.state_dict().items()}, episode.classes.copy()
        augmentation(episode, chance(0))
        assert all(torch.equal(getattr(episode, name), tensor) for name, tensor in tensors.items())
        assert (episode.classes == classes).all()
        assert_close(dict(augmentation.state_dict()), state, rtol=0, atol=0)

    def test_only_training_sees_it(self, make: Make) -> None:
        """A learner predicts as if it had none; what it learns from is the augmented tasks."""
        torch.manual_seed(0)
        learner = Prototypical(convolutional(), self.shape)
        episode = self.episode()
        plain = learner(episode)
        learner.equip(augmentation=make)
        assert torch.equal(learner(episode), plain)
        augmented = learner.augmentation(episode, chance(3))
        expected = learner.meta_loss(augmented).item()
        assert learner.learn_from(episode, chance(3)) == pytest.approx(expected, rel=1e-5)

    def test_its_parameters_get_the_meta_gradient(self, make: Make) -> None:
        """Through the tasks, however many are held at once: a difference of losses tells, in float64."""
        torch.manual_seed(0)
        learner = Prototypical(convolutional(), self.shape).equip(augmentation=make).double()
        parameters = dict(learner.augmentation.named_parameters())
        if not parameters:
            pytest.skip("it learns nothing")
        given = self.episode()
        episode = replace(given, support_x=given.support_x.double(), query_x=given.query_x.double())
        learner.learn_from(episode, chance(3))
        found = gradients(learner)
        generator = torch.Generator().manual_seed(4)
        directions = {n: torch.randn(p.shape, generator=generator).to(p) for n, p in parameters.items()}
        ends, h = [], 1e-5
        for sign in (1, -2, 1):
            ends.append(learner.meta_loss(learner.augmentation(episode, chance(3))).item())
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.add_(sign * h * directions[name])
        slope = (ends[1] - ends[2]) / (2 * h)
        along = sum(float((found[f"augmentation.{n}"] * d).sum()) for n, d in directions.items())
        assert along == pytest.approx(slope, rel=1e-4, abs=1e-7)
