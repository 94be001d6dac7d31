"""Pretraining against a plain supervised loss, and fine-tuning against torch's SGD on each task."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from facts import refusal
from small_networks import draw_network, draw_tasks
from torch.testing import assert_close

from nas.driver.creation import create
from nas.errors import ConfigError
from nas.learners.base import task_loss
from nas.learners.pretrain import Pretrain
from nas.settings.search import SearchConfig
from nas.space import TaskShape
from nas.tasks.glyphs import Glyphs
from nas.tasks.sinusoid import Sinusoid
from nas.testing.learners import cast, perceptron, planes

CLASSES = 7
kinds = pytest.mark.parametrize("kind", ["classification", "regression"])


def begin(kind, seed=0, tasks=3, **settings):
    """A learner in float64, and tasks; those with classes share some among 7."""
    torch.manual_seed(seed)
    if kind == "regression":
        learner = Pretrain(perceptron(), TaskShape((2,), 1), **settings)
        return learner.double().train(), cast(planes(tasks, seed=seed), torch.float64)
    backbone, shape = draw_network(seed)
    learner = Pretrain(backbone, shape, train_classes=CLASSES, **settings)
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.permutation(CLASSES)[: shape.outputs] for _ in range(tasks)])
    return learner.double().train(), replace(draw_tasks(shape, tasks, seed=seed), classes=drawn)


@kinds
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_all_examples_by_a_plain_supervised_loss(kind, seed):
    """Support and queries of a task are one batch; the labels are the classes of the split."""
    learner, episode = begin(kind, seed)
    loss = learner.meta_backward(episode)
    found = {name: weight.grad for name, weight in learner.named_parameters()}
    plain = copy.deepcopy(learner)
    plain.zero_grad()
    losses = []
    for task in episode:
        images = torch.cat([task.support_x[0], task.query_x[0]])
        if kind == "regression":
            targets = torch.cat([task.support_y[0], task.query_y[0]])
            losses.append(F.mse_loss(plain.network(images), targets))
        else:
            labels = [int(task.classes[0, y]) for y in [*task.support_y[0], *task.query_y[0]]]
            logits = plain.classifier(plain.network.backbone(images))
            losses.append(F.cross_entropy(logits, torch.tensor(labels)))
    expected = sum(losses) / len(losses)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for name, weight in plain.named_parameters():
        assert_close(found[name], weight.grad, rtol=1e-9, atol=1e-11)
    untouched = [name for name, gradient in found.items() if gradient is None]
    assert untouched == ([] if kind == "regression" else ["network.head.weight", "network.head.bias"])


@kinds
@pytest.mark.parametrize("steps", [1, 4])
def test_fine_tuning_is_gradient_descent_on_each_task(kind, steps):
    learner, episode = begin(kind, inner_lr=0.1, test_steps=steps)
    optimizer = learner.optimizer()
    for _ in range(3):
        optimizer.zero_grad()
        learner.meta_backward(episode)
        optimizer.step()
    expected = []
    for task in episode:
        network = copy.deepcopy(learner.network)
        descent = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(steps):
            descent.zero_grad()
            task_loss(network(task.support_x[0]), task.support_y[0]).backward()
            descent.step()
        expected.append(network(task.query_x[0]).detach())
    with torch.no_grad():
        assert_close(learner.eval()(episode), torch.stack(expected), rtol=1e-9, atol=1e-9)


def test_a_task_begins_with_a_head_of_zeros():
    """Pretraining has no part in it: without fine-tuning every class is as likely."""
    learner, episode = begin("classification", inner_lr=1e-30)
    optimizer = learner.optimizer()
    learner.meta_backward(episode)
    optimizer.step()
    assert learner(episode).abs().max() < 1e-20


def test_pretraining_leaves_nothing_to_the_order_of_labels():
    """The same classes under other labels are the same loss."""
    learner, episode = begin("classification")
    rename = torch.tensor([2, 0, 1])
    renamed = replace(
        episode,
        support_y=rename[episode.support_y],
        query_y=rename[episode.query_y],
        classes=episode.classes[:, rename.argsort().numpy()],
    )
    assert_close(learner.meta_loss(renamed), learner.meta_loss(episode))


def test_a_classifier_needs_the_number_of_classes():
    _, episode = begin("classification", tasks=6)
    backbone, shape = draw_network(0)
    learner = Pretrain(backbone, shape).double()
    with refusal(ConfigError, "learner.train_classes"):
        learner.meta_backward(episode)


def test_a_classifier_needs_as_many_classes_as_there_are():
    _, episode = begin("classification", tasks=6)
    backbone, shape = draw_network(0)
    assert episode.classes.max() == 6
    with refusal(ConfigError, "learner.train_classes: 6"):
        Pretrain(backbone, shape, train_classes=6).double().meta_backward(episode)
    loss = Pretrain(backbone, shape, train_classes=7).double().meta_backward(episode)
    assert np.isfinite(loss)


def test_regression_has_no_classes():
    _, episode = begin("regression")
    learner = Pretrain(perceptron(), TaskShape((2,), 1), train_classes=3).double()
    with refusal(ConfigError, "learner.train_classes"):
        learner.meta_backward(episode)


def test_the_tasks_tell_the_number_of_classes_unless_it_is_set():
    shape = Glyphs().shape
    learner = Pretrain(perceptron(), shape)
    assert learner.classifier.out_features == shape.train_classes == 200
    assert Pretrain(perceptron(), shape, train_classes=300).classifier.out_features == 300
    assert Pretrain(perceptron(), Sinusoid().shape).classifier is None


def test_a_search_with_too_small_a_number_of_classes_does_not_begin(store):
    learner = {"name": "pretrain", "train_classes": 1}
    config = SearchConfig(space="chain", controller="random", tasks="glyphs", learner=learner, name="p")
    tasks = config.make_tasks()
    with refusal(ConfigError, "learner.train_classes: 1"):
        create(store, config, tasks)
    assert not store.searches()
