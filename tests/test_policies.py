"""Policies of augmentation: what passes through them, and what they draw; the conformance suite."""

import math
from collections import Counter
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
from nas.learners.operations import usual
from nas.learners.policies import AutoAugment, PopulationAugment, RandAugment, TrivialAugment, parse, unparse
from nas.learners.pretrain import Pretrain
from nas.learners.prototypical import Prototypical
from nas.plugins import choices, resolve
from nas.space import TaskShape
from nas.testing.augmentations import SHAPE, AugmentationSuite
from nas.testing.learners import convolutional, image_classes, planes

pytestmark = pytest.mark.usefixtures("one_thread")

PHOTOGRAPHS = TaskShape((3, 8, 8), 3)

POLICY = "rotate:1.0:9+thin:0.5:4/elastic:0.8:3/translate_x:0.3:9+scale:0.2:1"


LIST = "rotate:1.0:9+thin:0.5:4+rotate:0.2:2+elastic:0.0:9+scale:0.8:1"


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


class TestAutoAugment(AugmentationSuite):
    @pytest.fixture
    def make(self):
        return partial(AutoAugment, policy=POLICY)


class TestPopulationAugment(AugmentationSuite):
    @pytest.fixture
    def make(self):
        return partial(PopulationAugment, policy=LIST)


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


@pytest.mark.parametrize(
    "text", [POLICY, "rotate:0.0:0", "rotate:1.0:9/rotate:1.0:9", "thin:0.25:0+thin:0.0001:1"]
)
def test_the_text_of_a_policy_reads_back(text):
    assert unparse(parse(text)) == text
    assert parse(unparse(parse(text))) == parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rotate",
        "rotate:0.5",
        "rotate:2:3",
        "rotate:1.5:3",
        "rotate:-0.5:3",
        "rotate:0.5:10",
        "rotate:0.00001:3",
        "rotate:0.5:3/",
        "+",
    ],
)
def test_what_is_no_policy_is_an_error_of_settings(text):
    with pytest.raises(ConfigError) as refused:
        resolve(AutoAugment, {"policy": text}, "learner.augmentation")
    assert "learner.augmentation.policy" in str(refused.value)


def test_numbers_of_a_policy_are_written_alike():
    section = resolve(AutoAugment, {"policy": "rotate:1:3+thin:0.50:2"}, "learner.augmentation")
    assert section["policy"] == "rotate:1.0:3+thin:0.5:2"


def test_a_policy_has_the_operations_on_such_images():
    for settings, word in (
        ({"policy": "solarize:0.5:3"}, "solarize"),
        ({"policy": "rotate:0.5:3", "operations": "thin"}, "rotate"),
    ):
        with refusal(ConfigError, "learner.augmentation.policy", f"'{word}'"):
            AutoAugment(SHAPE, **settings)


@pytest.mark.parametrize(
    ("make", "policy"),
    [
        (AutoAugment, "rotate:0:9+thin:0:9"),
        (AutoAugment, "rotate:1:0/elastic:1:0"),
        (AutoAugment, "cutout:0:0"),
        (PopulationAugment, "rotate:0:9+thin:0:9"),
        (PopulationAugment, "rotate:1:0+elastic:1:0+rotate:1:0"),
    ],
)
def test_probability_0_and_magnitude_0_are_none_to_the_bit(make, policy):
    episode = image_classes()
    found = make(SHAPE, policy=policy)(episode, chance(0))
    assert torch.equal(found.support_x, episode.support_x)
    assert torch.equal(found.query_x, episode.query_x)


def test_operations_happen_with_their_probability():
    policy = AutoAugment(SHAPE, policy=POLICY)
    which, magnitude = policy.choose(6000, chance(0))
    names = policy.operations.names
    shares = {name: float((which == names.index(name)).any(1).float().mean()) for name in names}
    wanted = {"rotate": 1, "thin": 0.5, "elastic": 0.8, "translate_x": 0.3, "scale": 0.2}
    for name, share in shares.items():
        assert share == pytest.approx(wanted.get(name, 0) / 3, abs=0.02), name
    for name, level in (("rotate", 9), ("thin", 4), ("elastic", 3), ("scale", 1)):
        own = magnitude[which == names.index(name)]
        assert torch.equal(own, torch.full_like(own, level / 9))


def test_a_policy_is_30_decisions():
    """Sixteen operations on photographs, as in the paper; ten on strokes."""
    offered = choices(AutoAugment)["policy"]
    for images, count in (("photographs", 16), ("strokes", 10)):
        parts = offered.of({"images": images, "operations": "all"})
        lists = [part for part in parts if isinstance(part, list)]
        assert [len(own) for own in lists] == [count, 11, 10] * 10
        assert lists[0] == list(usual(images))
        text = "".join(str(part[-1]) if isinstance(part, list) else part for part in parts)
        policy = AutoAugment(SHAPE if images == "strokes" else PHOTOGRAPHS, policy=text, images=images)
        assert [len(sub) for sub in policy.policy] == [2] * 5
    few = offered.of({"images": "strokes", "operations": "thin+rotate"})
    assert few[0] == ["thin", "rotate"]
    with refusal(ConfigError, "learner.augmentation.images"):
        offered.of({"images": "paintings", "operations": "all"})


def algorithm_2(policy, rng):
    """Return what an image passes through, by the paper's Algorithm 2, read one at a time."""
    count, found = rng.choice(3, p=[0.2, 0.3, 0.5]), []
    for place in rng.permutation(len(policy)):
        if count == 0:
            break
        if rng.random() < policy[place].probability:
            found.append((policy[place].operation, policy[place].level))
            count -= 1
    return tuple(found)


def test_a_list_is_drawn_from_as_the_paper_says():
    """The shares of what images pass through, order included, are those of the paper's loop."""
    policy, images = PopulationAugment(SHAPE, policy=LIST), 20_000
    rng = np.random.default_rng(0)
    wanted = Counter(algorithm_2(policy.policy, rng) for _ in range(images))
    names = policy.operations.names
    which, magnitude = policy.choose(images, chance(0))
    levels = (9 * magnitude).round().int()
    rows = zip(which.tolist(), levels.tolist(), strict=True)
    found = Counter(tuple((names[w], level) for w, level in zip(*row, strict=True) if w >= 0) for row in rows)
    assert found.keys() == wanted.keys()
    for passed, count in wanted.items():
        assert found[passed] == pytest.approx(count, abs=5 * math.sqrt(2 * count)), passed
    assert not any(name == "elastic" for passed in found for name, _ in passed)


def test_a_list_to_choose_has_each_operation_twice_and_begins_with_nothing():
    """Fifteen of sixteen operations are the paper's; here all that are usual on such images."""
    offered = choices(PopulationAugment)["policy"]
    for images, count in (("photographs", 16), ("strokes", 10)):
        parts = offered.of({"images": images, "operations": "all"})
        lists = [part for part in parts if isinstance(part, list)]
        assert [len(own) for own in lists] == [11, 10] * 2 * count
        text = "".join(str(part[0]) if isinstance(part, list) else part for part in parts)
        policy = PopulationAugment(SHAPE if images == "strokes" else PHOTOGRAPHS, policy=text, images=images)
        assert [part[1:] for part in policy.policy] == [(0.0, 0)] * 2 * count
        assert Counter(part.operation for part in policy.policy) == Counter([*usual(images)] * 2)


def test_a_list_has_no_sub_policies():
    with refusal(ConfigError, "learner.augmentation.policy"):
        resolve(PopulationAugment, {"policy": "rotate:1.0:9/thin:0.5:4"}, "learner.augmentation")
