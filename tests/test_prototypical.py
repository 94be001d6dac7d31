from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from facts import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from nas.errors import ConfigError
from nas.learners.prototypical import Prototypical
from nas.space import TaskShape
from nas.testing.learners import Constant, ToyBackbone, cast, convolutional, image_classes, planes

PIXELS = TaskShape((1, 8, 8), 3)


def nearest_means() -> Prototypical:
    """Prototypes in pixel space."""
    return Prototypical(ToyBackbone(64, nn.Flatten()), PIXELS)


@given(
    tasks=st.integers(1, 2),
    ways=st.integers(2, 4),
    shots=st.integers(1, 3),
    queries=st.integers(1, 3),
    seed=st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_logits_are_minus_squared_distances_to_class_means(tasks, ways, shots, queries, seed):
    episode = cast(image_classes(tasks, ways, shots, queries, seed), torch.float64)
    logits = nearest_means()(episode).numpy()
    assert logits.shape == (tasks, ways * queries, ways)
    for t in range(tasks):
        support, labels = episode.support_x[t].numpy(), episode.support_y[t].numpy()
        for q in range(ways * queries):
            for k in range(ways):
                mean = sum(x for x, y in zip(support, labels, strict=True) if y == k) / shots
                expected = -np.sum((episode.query_x[t, q].numpy() - mean) ** 2)
                assert logits[t, q, k] == pytest.approx(expected, rel=1e-12)


def test_gradient_matches_finite_differences():
    torch.manual_seed(0)
    learner = Prototypical(convolutional(), PIXELS).double()
    episode = cast(image_classes(), torch.float64)
    learner.meta_loss(episode).backward()
    gradient = torch.cat([p.grad.flatten() for p in learner.parameters()])
    vector = nn.utils.parameters_to_vector(learner.parameters()).detach()
    direction = F.normalize(torch.randn_like(vector), dim=0)

    @torch.no_grad()
    def loss(step: float) -> float:
        nn.utils.vector_to_parameters(vector + step * direction, learner.parameters())
        return learner.meta_loss(episode).item()

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert (gradient @ direction).item() == pytest.approx(slope, rel=1e-7)


def test_support_order_does_not_matter_and_class_names_permute_logits():
    episode = image_classes(ways=3, shots=2)
    learner = Prototypical(convolutional(), PIXELS)
    logits = learner(episode)
    shuffle, rename = torch.tensor([3, 1, 5, 0, 2, 4]), torch.tensor([2, 0, 1])
    shuffled = replace(
        episode, support_x=episode.support_x[:, shuffle], support_y=episode.support_y[:, shuffle]
    )
    assert_close(learner(shuffled), logits)
    assert_close(learner(replace(episode, support_y=rename[episode.support_y]))[..., rename], logits)


def test_batch_norm_takes_its_statistics_from_the_task():
    episode = cast(image_classes(tasks=2, ways=3), torch.float64)
    learner = Prototypical(ToyBackbone(64, nn.BatchNorm2d(1), nn.Flatten()), PIXELS).double()
    normalized = []
    for task in episode:
        images = torch.cat([task.support_x[0], task.query_x[0]])
        images = F.batch_norm(images, None, None, training=True)
        support, queries = images.split([task.support_x.shape[1], task.query_x.shape[1]])
        normalized.append(replace(task, support_x=support[None], query_x=queries[None]))
    expected = torch.cat([nearest_means()(task) for task in normalized])
    assert_close(learner.train()(episode), expected)
    assert_close(learner.eval()(episode), expected)


def test_distances_keep_full_precision_under_autocast():
    episode = image_classes()
    with torch.autocast("cpu", torch.bfloat16):
        low = nearest_means()(episode)
    assert_close(low, nearest_means()(episode), rtol=0, atol=0)


def test_a_constant_network_guesses():
    logits = Prototypical(Constant(6), PIXELS)(image_classes())
    assert not logits.any()


def test_refuses_regression():
    with refusal(ConfigError, "learner: 'prototypical'"):
        nearest_means()(planes())
