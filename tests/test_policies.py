"""Policies of augmentation: what passes through them, and what they draw; the conformance suite."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from facts import refusal

from nas.errors import ConfigError
from nas.learners.augmentation import chance
from nas.learners.classifier import Classifier
from nas.learners.maml import Maml
from nas.learners.matching import Matching
from nas.learners.policies import RandAugment, TrivialAugment
from nas.learners.pretrain import Pretrain
from nas.learners.prototypical import Prototypical
from nas.space import TaskShape
from nas.testing.augmentations import SHAPE, AugmentationSuite
from nas.testing.learners import convolutional, image_classes, planes

pytestmark = pytest.mark.usefixtures("one_thread")

PHOTOGRAPHS = TaskShape((3, 8, 8), 3)


def photographs(**options):
    """Return tasks of images in three channels, with values from 0 to 1."""
    episode = image_classes(**options)
    colours = [x.expand(-1, -1, 3, -1, -1).sigmoid() for x in (episode.support_x, episode.query_x)]
    return replace(episode, support_x=colours[0], query_x=colours[1])


class TestRandAugment(AugmentationSuite):
    @pytest.fixture
    def make(self):
        return RandAugment


class TestTrivialAugment(AugmentationSuite):
    @pytest.fixture
    def make(self):
        return TrivialAugment


class TestCopies(AugmentationSuite):
    copies = 2

    @pytest.fixture
    def make(self):
        return partial(TrivialAugment, where="shot")


class TestClasses(AugmentationSuite):
    @pytest.fixture
    def make(self):
        return partial(RandAugment, where="task", operations="quarter_turn+flip_x+rotate", magnitude=1)


class TestPhotographs(AugmentationSuite):
    shape = PHOTOGRAPHS

    def episode(self):
        return photographs(tasks=4, shots=2, queries=3)

    @pytest.fixture
    def make(self):
        return partial(RandAugment, images="photographs", magnitude=1)

    def test_only_training_sees_it(self, make):
        pytest.skip("the suite's learner is of one channel")


def test_one_magnitude_or_one_for_each():
    which, magnitude = RandAugment(SHAPE, count=3, magnitude=0.4).choose(4000, chance(0))
    assert which.shape == magnitude.shape == (4000, 3)
    assert torch.equal(magnitude, torch.full_like(magnitude, 0.4))
    counts = torch.bincount(which.flatten() + 1, minlength=11)
    assert (counts.min(), counts.max()) > (0.9 * 12000 / 11, 0)
    assert counts.max() < 1.1 * 12000 / 11
    which, magnitude = TrivialAugment(SHAPE).choose(4000, chance(0))
    assert which.shape == (4000, 1)
    assert len(magnitude.unique()) == 31
    assert float(magnitude.mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("where", ["examples", "support", "query", "task"])
def test_magnitude_0_is_none_to_the_bit(where):
    episode = image_classes()
    found = RandAugment(SHAPE, magnitude=0, where=where)(episode, chance(0))
    assert torch.equal(found.support_x, episode.support_x)
    assert torch.equal(found.query_x, episode.query_x)


@pytest.mark.parametrize(
    ("where", "support", "query"), [("support", 1, 0), ("query", 0, 1), ("examples", 1, 1)]
)
def test_only_what_is_asked_for_passes_through(where, support, query):
    episode = image_classes()
    found = RandAugment(SHAPE, magnitude=1, where=where)(episode, chance(0))
    assert torch.equal(found.support_x, episode.support_x) != support
    assert torch.equal(found.query_x, episode.query_x) != query


def test_shots_are_added_beside_those_of_their_class():
    episode = image_classes(shots=2)
    found = RandAugment(SHAPE, magnitude=0.05, where="shot")(episode, chance(0))
    assert found.shots == 4
    kept = found.support_x.unflatten(1, (3, 4))[:, :, :2].flatten(1, 2)
    assert torch.equal(kept, episode.support_x)
    assert torch.equal(found.support_y[0], torch.arange(3).repeat_interleave(4))
    copies = found.support_x.unflatten(1, (3, 4))[:, :, 2:].flatten(1, 2)
    near = [(copies[0] - own).flatten(1).norm(dim=1).argmin().item() for own in episode.support_x[0]]
    assert near == list(range(6))


@pytest.mark.parametrize("make", [Prototypical, Matching, Maml])
def test_learners_take_more_shots(make):
    learner = make(convolutional(), SHAPE).equip(augmentation=partial(TrivialAugment, where="shot"))
    assert math.isfinite(learner.learn_from(image_classes(shots=1), chance(0)))


def test_a_class_passes_through_as_a_whole():
    """Whatever is drawn: equal images of a class stay equal, in support and queries."""
    episode = image_classes(tasks=20, shots=2, queries=2)
    rows = torch.arange(6) // 2 * 2
    x = episode.support_x[:, rows]
    episode = replace(episode, support_x=x, query_x=x, query_y=episode.support_y)
    found = TrivialAugment(SHAPE, where="task")(episode, chance(0))
    assert torch.equal(found.support_x, found.query_x)
    assert torch.equal(found.support_x[:, 0::2], found.support_x[:, 1::2])
    assert (found.classes == episode.classes).all()
    changed = (found.support_x != x).flatten(2).any(2)
    assert 0.7 < changed.float().mean() < 1
    apart = TrivialAugment(SHAPE)(episode, chance(0))
    assert not torch.equal(apart.support_x[:, 0::2], apart.support_x[:, 1::2])


def test_turned_and_mirrored_classes_are_new_ones():
    """A class has one number for each way that it looks."""
    episode = image_classes(tasks=200, ways=1, shots=1, queries=1)
    x = episode.support_x[:1].expand(200, -1, -1, -1, -1)
    episode = replace(episode, support_x=x, query_x=x, classes=np.zeros((200, 1), np.int64))
    policy = RandAugment(SHAPE, where="task", operations="quarter_turn+flip_x+flip_y", count=3, magnitude=0.5)
    found = policy(episode, chance(0))
    pairs = {
        (image.numpy().tobytes(), int(number))
        for image, [number] in zip(found.support_x, found.classes, strict=True)
    }
    assert sorted(number for _, number in pairs) == list(range(8))
    assert len({image for image, _ in pairs}) == 8
    learner = Pretrain(convolutional(), SHAPE, train_classes=9)
    learner.equip(augmentation=partial(RandAugment, where="task", operations="flip_x", magnitude=1))
    with refusal(ConfigError, "learner.train_classes"):
        learner.learn_from(image_classes(tasks=3), chance(0))


def test_ordinary_data_is_augmented():
    episode = image_classes(shots=1)
    minibatch = replace(
        episode, support_x=episode.support_x[:, :0], support_y=episode.support_y[:, :0], shots=0
    )
    learner = Classifier(convolutional(), SHAPE).equip(augmentation=TrivialAugment)
    assert math.isfinite(learner.learn_from(minibatch, chance(0)))
    for where in ("support", "shot", "task"):
        with refusal(ConfigError, f"learner.augmentation.where={where}"):
            TrivialAugment(SHAPE, where=where)(minibatch, chance(0))


@pytest.mark.parametrize(
    ("settings", "shape", "facts"),
    [
        ({"operations": "rotate+quarter_turn"}, SHAPE, ("learner.augmentation.operations", "quarter_turn")),
        ({"operations": "flip_x", "where": "query"}, SHAPE, ("learner.augmentation.operations", "flip_x")),
        (
            {"operations": "flip_y", "images": "photographs"},
            PHOTOGRAPHS,
            ("learner.augmentation.operations", "flip_y"),
        ),
        ({"operations": "turn"}, SHAPE, ("learner.augmentation.operations", "'turn'")),
        ({"operations": "solarize"}, SHAPE, ("learner.augmentation.operations", "'solarize'")),
        ({}, PHOTOGRAPHS, ("learner.augmentation.images=strokes", "3")),
        ({"images": "photographs"}, SHAPE, ("learner.augmentation.images=photographs", "'colour'")),
        ({}, TaskShape((2,), 1), ("learner.augmentation.images=strokes", "(2,)")),
    ],
)
def test_refusals(settings, shape, facts):
    with refusal(ConfigError, *facts):
        TrivialAugment(shape, **settings)


def test_flips_of_photographs_keep_their_class():
    policy = RandAugment(PHOTOGRAPHS, images="photographs", operations="flip_x", count=1, magnitude=1)
    episode = photographs(tasks=20)
    found = policy(episode, chance(0))
    flipped = (found.query_x == episode.query_x.flip(-1)).flatten(2).all(2)
    assert 0.3 < flipped.float().mean() < 0.7
    assert (found.classes == episode.classes).all()


def test_whole_classes_are_those_of_few_shot_tasks():
    policy = TrivialAugment(SHAPE, where="task")
    with refusal(ConfigError, "learner.augmentation.where=task"):
        policy(planes(), chance(0))
