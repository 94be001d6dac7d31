"""Augmentations, against exact shifts and turns; the conformance suite; learned ones."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from facts import refusal
from torch import nn
from torch.testing import assert_close

from nas.errors import ConfigError
from nas.learners.augmentation import Augmentation, RotatedClasses, ShiftRotate, Unchanged, chance
from nas.learners.maml import Maml
from nas.learners.policies import TrivialAugment
from nas.learners.pretrain import Pretrain
from nas.learners.prototypical import Prototypical
from nas.learners.reptile import Reptile
from nas.plugins import load
from nas.space import TaskShape
from nas.tasks.glyphs import Glyphs
from nas.testing.augmentations import SHAPE, AugmentationSuite
from nas.testing.learners import convolutional, image_classes, planes
from nas.training.loop import start
from nas.training.scoring import score

pytestmark = pytest.mark.usefixtures("one_thread")


class Brightness(Augmentation):
    """A learned augmentation: a factor and noise of a learned size."""

    name = "brightness"

    def __init__(self, shape: TaskShape) -> None:
        super().__init__(shape)
        self.factor, self.noise = nn.Parameter(torch.tensor(1.1)), nn.Parameter(torch.tensor(0.3))

    def forward(self, episode, generator):
        noise = torch.randn(episode.support_x.shape, generator=generator).to(episode.support_x)
        return replace(episode, support_x=self.factor * episode.support_x + self.noise * noise)


class TestUnchanged(AugmentationSuite):
    draws = False

    @pytest.fixture
    def make(self):
        return Unchanged


class TestShiftRotate(AugmentationSuite):
    @pytest.fixture
    def make(self):
        return ShiftRotate


class TestRotatedClasses(AugmentationSuite):
    @pytest.fixture
    def make(self):
        return RotatedClasses


class TestLearned(AugmentationSuite):
    @pytest.fixture
    def make(self):
        return Brightness


def drawn(monkeypatch, *rows):
    """Make `torch.rand` give these numbers from −1 to 1 for every image: turn, right, down."""
    values = (torch.tensor(rows) + 1) / 2
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: values[:, None].expand(shape))


def test_a_shift_by_whole_pixels_moves_the_image(monkeypatch):
    episode = image_classes()
    augmentation = ShiftRotate(SHAPE, shift=2, angle=0)
    drawn(monkeypatch, 0.0, 1.0, -0.5)
    found = augmentation(episode, torch.Generator()).support_x
    x = episode.support_x
    rows, columns = (torch.arange(8) - 1).clamp(0), (torch.arange(8) + 2).clamp(max=7)
    assert_close(found, x[..., rows, :][..., columns], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_a_turn_moves_a_point_about_the_middle(monkeypatch, size):
    """By 30°, in an image that is no square, too: the middle of a spot keeps its distance."""
    height, width = size
    shape = TaskShape((1, *size), 3)
    down, right = (torch.arange(pixels) - (pixels - 1) / 2 for pixels in size)
    spot = torch.exp(-((down[:, None] - 0.5) ** 2 + (right[None] - 2.5) ** 2) / 1.0)
    x = spot.expand(1, 1, 1, height, width)
    episode = replace(image_classes(), support_x=x, query_x=x)
    drawn(monkeypatch, 30 / 44, 0.0, 0.0)
    found = ShiftRotate(shape, angle=44)(episode, torch.Generator()).support_x[0, 0, 0]
    at = [float((found * axis).sum() / found.sum()) for axis in (down[:, None], right[None])]
    turn = math.radians(30)
    expected = [
        0.5 * math.cos(turn) - 2.5 * math.sin(turn),
        2.5 * math.cos(turn) + 0.5 * math.sin(turn),
    ]
    assert at == pytest.approx(expected, abs=0.1)


def test_images_move_apart_within_their_bounds():
    """Spots move by other amounts each, none by more than the shift."""
    x = torch.zeros(1, 200, 1, 15, 15)
    x[..., 7, 7] = 1
    episode = replace(image_classes(), support_x=x, query_x=x)
    found = ShiftRotate(TaskShape((1, 15, 15), 3), shift=3, angle=0)(episode, chance(0)).support_x[0, :, 0]
    axis = torch.arange(15.0) - 7
    places = torch.stack([(found * a).sum((1, 2)) / found.sum((1, 2)) for a in (axis[:, None], axis)], 1)
    assert places.abs().max() <= 3.001
    assert places.abs().max() > 2.8
    assert len(places.mul(100).round().unique(dim=0)) > 190


def test_no_shift_and_no_turn_is_the_image():
    episode = image_classes()
    found = ShiftRotate(SHAPE, shift=0, angle=0)(episode, chance(0))
    assert_close(found.support_x, episode.support_x, rtol=1e-5, atol=1e-5)


def test_a_class_turns_as_a_whole_and_to_the_bit():
    episode = image_classes(tasks=40)
    found = RotatedClasses(SHAPE)(episode, chance(0))
    turns = found.classes - 4 * episode.classes
    assert set(np.unique(turns)) == {0, 1, 2, 3}
    assert np.bincount(turns.ravel()).min() > 15
    for task, each in enumerate(turns):
        for part in ("support", "query"):
            x, y = getattr(episode, f"{part}_x")[task], getattr(episode, f"{part}_y")[task]
            for image, label, got in zip(x, y, getattr(found, f"{part}_x")[task], strict=True):
                assert torch.equal(got, image.rot90(int(each[label]), (-2, -1)))


def test_turned_classes_are_new_ones_to_pretraining():
    learner = Pretrain(convolutional(), SHAPE, train_classes=9).equip(augmentation=RotatedClasses)
    with refusal(ConfigError, "learner.train_classes"):
        learner.learn_from(image_classes(tasks=3), chance(0))
    learner = Pretrain(convolutional(), SHAPE, train_classes=36).equip(augmentation=RotatedClasses)
    assert math.isfinite(learner.learn_from(image_classes(tasks=3), chance(0)))


@pytest.mark.parametrize("make", [ShiftRotate, RotatedClasses])
def test_vectors_are_refused(make):
    with refusal(ConfigError, "learner.augmentation"):
        make(TaskShape((2,), 1))


def test_only_squares_and_few_shot_classes_are_turned():
    with refusal(ConfigError, "learner.augmentation"):
        RotatedClasses(TaskShape((1, 8, 9), 3))
    with refusal(ConfigError, "learner.augmentation"):
        RotatedClasses(SHAPE)(planes(), chance(0))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("make", [Prototypical, Maml])
def test_a_learned_one_gets_the_gradient_of_the_undivided_batch(make, threads, monkeypatch):
    """However the tasks are shared out."""
    from nas.learners import base

    torch.manual_seed(0)
    learner = make(convolutional(), SHAPE).equip(augmentation=Brightness)
    episode = image_classes(tasks=5)
    learner.meta_loss(learner.augmentation(episode, chance(1))).backward()
    expected = [p.grad.clone() for p in learner.parameters()]
    learner.zero_grad()
    monkeypatch.setattr(base, "HELD", 1)
    torch.set_num_threads(threads)
    learner.learn_from(episode, chance(1))
    for parameter, gradient in zip(learner.parameters(), expected, strict=True):
        assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [ShiftRotate, TrivialAugment])
def test_images_do_not_move_in_a_lower_precision(make):
    """Places in an image have no more than some hundred values in bfloat16."""
    learner, episode = Prototypical(convolutional(), SHAPE).equip(augmentation=make), image_classes()
    expected = learner.augmentation(episode, chance(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = learner.augmented(episode, chance(0))
        assert torch.nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype == torch.bfloat16
    assert torch.equal(found.query_x, expected.query_x)
    assert torch.equal(found.support_x, expected.support_x)


def test_one_without_a_gradient_is_left_alone():
    """Reptile's update is no gradient of its tasks."""
    learner = Reptile(convolutional(), SHAPE).equip(augmentation=Brightness)
    learner.learn_from(image_classes(), chance(0))
    assert learner.augmentation.factor.grad is None
    assert next(learner.network.parameters()).grad is not None


def test_a_training_goes_on_with_the_same_augmentation():
    """Bit for bit from a state, and otherwise than without; validation sees nothing of it."""
    space, tasks = load("space", "chain")(channels=(4,), layers=1), Glyphs(ways=3, queries=2)

    def make(backbone, shape):
        return Prototypical(backbone, shape).equip(augmentation=ShiftRotate)

    def begin(learner):
        architecture = space.sample(np.random.default_rng(0))
        return start(space, architecture, tasks, learner, "float32", 6, 0)

    whole, halves, plain = begin(make), begin(make), begin(Prototypical)
    losses = list(whole.until(6))
    first = list(halves.until(3))
    resumed = begin(make)
    resumed.restore(halves.state())
    assert first + list(resumed.until(6)) == losses
    assert list(plain.until(6)) != losses
    without = begin(Prototypical)
    without.learner.load_state_dict(whole.learner.state_dict())
    scores = [score(each.learner, tasks, "validation", 4, each.arithmetic) for each in (whole, without)]
    assert scores[0] == scores[1]


def test_chance_is_of_all_its_numbers():
    draws = [torch.rand(1, generator=chance(*seed)).item() for seed in ((0,), (0, 1), (1, 0), (0, 2**62))]
    assert len(set(draws)) == 4
    assert draws[1] == torch.rand(1, generator=chance(0, 1)).item()
