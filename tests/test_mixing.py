"""Mixed queries and mixed classes: what is mixed, and the loss that two labels share."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from facts import refusal

from nas.errors import ConfigError
from nas.learners.augmentation import chance
from nas.learners.base import Losses
from nas.learners.classifier import Classifier
from nas.learners.maml import Maml
from nas.learners.mixing import MetaMix, MixedClasses, MixUp
from nas.learners.pretrain import Pretrain
from nas.learners.prototypical import Prototypical
from nas.learners.relation import Relation
from nas.learners.reptile import Reptile
from nas.space import TaskShape
from nas.tasks.base import Second
from nas.testing.augmentations import SHAPE, AugmentationSuite
from nas.testing.learners import convolutional, image_classes, planes

pytestmark = pytest.mark.usefixtures("one_thread")


class TestMixUp(AugmentationSuite):
    @pytest.fixture
    def make(self):
        return MixUp


class TestMetaMix(AugmentationSuite):
    @pytest.fixture
    def make(self):
        return MetaMix


class TestMixedClasses(AugmentationSuite):
    @pytest.fixture
    def make(self):
        return MixedClasses


@pytest.mark.parametrize(("make", "part"), [(MixUp, "query"), (MetaMix, "support")])
def test_a_query_is_a_mixture_of_two_examples_and_bears_both_labels(make, part):
    """Each of them is found again among all pairs; supports and own labels stay."""
    episode = image_classes(tasks=3, shots=2, queries=2)
    found = make(SHAPE)(episode, chance(0))
    assert torch.equal(found.support_x, episode.support_x)
    assert torch.equal(found.query_y, episode.query_y)
    others, labels = getattr(episode, f"{part}_x"), getattr(episode, f"{part}_y")
    assert found.second.share.unique().numel() == episode.query_y.numel()
    for task in range(3):
        for query in range(6):
            share = found.second.share[task, query]
            other = (found.query_x[task, query] - share * episode.query_x[task, query]) / (1 - share)
            distances = (others[task] - other).flatten(1).norm(dim=1)
            assert distances.min() < 1e-2 * distances.max() or share > 0.99
            if share <= 0.99:
                assert found.second.labels[task, query] == labels[task, distances.argmin()]


def test_shares_are_drawn_from_a_beta_distribution():
    share = MetaMix(SHAPE, alpha=2.0).shares((20_000,), chance(0))
    assert float(share.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(share.var()) == pytest.approx(1 / 20, abs=0.003)  # 1 / (4 (2 alpha + 1))


@pytest.mark.parametrize("make", [Prototypical, Maml, Relation, Pretrain])
def test_the_loss_is_shared_between_the_labels(make):
    """By hand, from the losses against either; with a share of 1 it is the plain one."""
    torch.manual_seed(0)
    learner = make(convolutional(), TaskShape((1, 8, 8), 3, 6))
    episode = image_classes(tasks=2, shots=2, queries=3)
    labels = episode.query_y.roll(1, 1)
    share = torch.rand(labels.shape, generator=chance(1))
    mixed = replace(episode, second=Second(labels, share))
    whole = replace(episode, second=Second(labels, torch.ones_like(share)))
    assert learner.meta_loss(whole).item() == pytest.approx(learner.meta_loss(episode).item(), rel=1e-5)
    if make is Pretrain:
        other = replace(episode, query_y=labels)
        one = replace(episode, second=Second(labels, torch.zeros_like(share)))
        assert learner.meta_loss(one).item() == pytest.approx(learner.meta_loss(other).item(), rel=1e-5)
        return
    predictions = learner(episode)
    own, others = (learner.criterion(predictions, y, "example") for y in (episode.query_y, labels))
    expected = (share * own + (1 - share) * others).mean()
    assert learner.meta_loss(mixed).item() == pytest.approx(expected.item(), rel=1e-5)
    assert learner.meta_backward(mixed) == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(Losses(learner)(mixed), share * own + (1 - share) * others)


def test_ordinary_data_is_mixed_within_its_minibatch():
    episode = image_classes(tasks=2, shots=1, queries=4)
    empty = episode.support_x[:, :0]
    ordinary = replace(episode, support_x=empty, support_y=episode.support_y[:, :0], shots=0)
    learner = Classifier(convolutional(), SHAPE).equip(augmentation=MixUp)
    assert np.isfinite(learner.learn_from(ordinary, chance(0)))
    for make in (MetaMix, MixedClasses):
        with refusal(ConfigError, "learner.augmentation", f"'{make.name}'"):
            make(SHAPE)(ordinary, chance(0))


def test_episodes_carry_second_labels_into_chunks():
    found = MixUp(SHAPE)(image_classes(tasks=3), chance(0))
    parts = list(found.chunks(2))
    assert [len(part) for part in parts] == [2, 1]
    assert torch.equal(torch.cat([part.second.labels for part in parts]), found.second.labels)
    assert torch.equal(found.to(torch.device("cpu")).second.share, found.second.share)


def test_classes_are_mixed_as_a_whole():
    """Where all images of a class are alike they stay so, and the own class counts for more."""
    episode = image_classes(tasks=20, ways=3, shots=2, queries=2)
    x = episode.support_x[:, torch.arange(6) // 2 * 2]
    same = replace(episode, support_x=x, query_x=x.flip(1), query_y=episode.support_y.flip(1))
    found = MixedClasses(SHAPE)(same, chance(0))
    assert torch.equal(found.support_x[:, 0::2], found.support_x[:, 1::2])
    assert torch.equal(found.query_x, found.support_x.flip(1))
    assert (found.classes == -1).all()
    own = x[:, ::2].flatten(2)
    nearest = torch.cdist(found.support_x[:, ::2].flatten(2), own).argmin(2)
    assert torch.equal(nearest, torch.arange(3).expand(20, 3))
    assert not torch.isclose(found.support_x, x).flatten(2).all(2).any()


@pytest.mark.parametrize("make", [MixUp, MetaMix, MixedClasses])
def test_what_cannot_be_mixed_is_refused(make):
    with refusal(ConfigError, "learner.augmentation", f"'{make.name}'", "regression"):
        make(TaskShape((2,), 1))(planes(), chance(0))


def test_learners_that_cannot_use_them_say_so():
    reptile = Reptile(convolutional(), SHAPE).equip(augmentation=MixUp)
    with refusal(ConfigError, "learner.augmentation", "'reptile'"):
        reptile.learn_from(image_classes(), chance(0))
    pretrain = Pretrain(convolutional(), TaskShape((1, 8, 8), 3, 6)).equip(augmentation=MixedClasses)
    with refusal(ConfigError, "learner.augmentation", "'pretrain'"):
        pretrain.learn_from(image_classes(), chance(0))
