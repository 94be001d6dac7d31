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

from nas.errors import ConfigError, Infeasible
from nas.learners.relation import Relation
from nas.space import TaskShape
from nas.testing.learners import ToyBackbone, cast, convolutional, image_classes, planes

PIXELS = TaskShape((1, 8, 8), 3)


def over_pixels(**settings) -> Relation:
    """Relations in pixel space."""
    torch.manual_seed(0)
    return Relation(ToyBackbone(64, nn.Flatten()), PIXELS, **settings).double()


def perceptron(x, layers):
    for weight, bias in layers[:-1]:
        x = np.maximum(weight @ x + bias, 0)
    weight, bias = layers[-1]
    return (weight @ x + bias).item()


def layers_of(learner):
    linear = [layer for layer in learner.relation if isinstance(layer, nn.Linear)]
    return [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in linear]


def scores_by_hand(learner, episode):
    """One query and one class at a time."""
    logits = np.empty((len(episode), episode.query_x.shape[1], episode.ways))
    for t, task in enumerate(episode):
        support, labels = task.support_x[0].flatten(1).numpy(), task.support_y[0].tolist()
        for q, query in enumerate(task.query_x[0].flatten(1).numpy()):
            for k in range(episode.ways):
                examples = [x for x, y in zip(support, labels, strict=True) if y == k]
                difference = abs(np.mean(examples, axis=0) - query)
                pair = np.concatenate([np.sum(examples, axis=0), query, difference])
                logits[t, q, k] = perceptron(pair, layers_of(learner))
    return 1 / (1 + np.exp(-logits))


@given(
    tasks=st.integers(1, 2),
    ways=st.integers(2, 4),
    shots=st.integers(1, 3),
    queries=st.integers(1, 3),
    hidden=st.sampled_from([1, 16]),
    seed=st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_scores_every_query_with_every_class(tasks, ways, shots, queries, hidden, seed):
    episode = cast(image_classes(tasks, ways, shots, queries, seed), torch.float64)
    shuffle = torch.randperm(ways * shots, generator=torch.Generator().manual_seed(seed))
    episode = replace(
        episode, support_x=episode.support_x[:, shuffle], support_y=episode.support_y[:, shuffle]
    )
    learner = over_pixels(hidden=hidden)
    expected = scores_by_hand(learner, episode)
    assert_close(learner(episode).sigmoid(), torch.from_numpy(expected))

    errors = [
        (expected[t, q, k] - (episode.query_y[t, q].item() == k)) ** 2
        for t, q, k in np.ndindex(expected.shape)
    ]
    assert learner.meta_loss(episode).item() == pytest.approx(np.mean(errors), rel=1e-9)


def test_gradient_matches_finite_differences():
    torch.manual_seed(0)
    learner = Relation(convolutional(), PIXELS).double()
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
    assert (gradient @ direction).item() == pytest.approx(slope, rel=1e-6)


def test_support_order_does_not_matter_and_class_names_permute_logits():
    episode, learner = cast(image_classes(ways=3, shots=2), torch.float64), over_pixels()
    shuffle, rename = torch.tensor([3, 1, 5, 0, 2, 4]), torch.tensor([2, 0, 1])
    shuffled = replace(
        episode, support_x=episode.support_x[:, shuffle], support_y=episode.support_y[:, shuffle]
    )
    assert_close(learner(shuffled), learner(episode))
    renamed = replace(episode, support_y=rename[episode.support_y])
    assert_close(learner(renamed)[..., rename], learner(episode))


def test_scores_keep_full_precision_under_autocast():
    episode, learner = image_classes(), over_pixels().float()
    with torch.autocast("cpu", torch.bfloat16):
        low = learner(episode)
    assert_close(low, learner(episode), rtol=0, atol=0)


def test_refuses_regression():
    with refusal(ConfigError, "learner: 'relation'"):
        over_pixels()(cast(planes(), torch.float64))


def test_needs_features():
    with refusal(Infeasible, "0 features"):
        Relation(ToyBackbone(0, nn.Flatten()), PIXELS)
