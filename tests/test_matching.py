from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from facts import refusal
from grids import rest_slow
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from nas.errors import ConfigError, Infeasible
from nas.learners.matching import Matching
from nas.space import TaskShape
from nas.testing.learners import (
    Constant,
    LearnerSuite,
    ToyBackbone,
    cast,
    convolutional,
    image_classes,
    planes,
)

PIXELS = TaskShape((1, 8, 8), 3)


class TestMatching(LearnerSuite):
    """The installed default is in test_learners."""

    @pytest.fixture(
        params=rest_slow(["l2", "cosine in full context", "l2 in full context"], ("l2 in full context",))
    )
    def make(self, request):
        distance, _, context = request.param.partition(" in ")
        return partial(Matching, distance=distance, full_context=bool(context))


def over_pixels(**settings) -> Matching:
    """Matching in pixel space."""
    torch.manual_seed(0)
    return Matching(ToyBackbone(64, nn.Flatten()), PIXELS, **settings).double()


def cosine(a, b):
    return np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))


def minus_squared_distance(a, b):
    return -np.sum((a - b) ** 2)


SIMILARITIES = {"cosine": cosine, "l2": minus_squared_distance}


def softmax(values):
    powers = np.exp(np.array(values) - max(values))
    return powers / powers.sum()


def class_probabilities(query, support, labels, ways, similarity, temperature):
    """P(y = k) = Σ_i a(query, x_i) [y_i = k] (Vinyals et al. 2016, equations 1 and 2)."""
    attention = softmax([similarity(query, x) / temperature for x in support])
    return [sum(a for a, y in zip(attention, labels, strict=True) if y == k) for k in range(ways)]


def tasks_of(episode):
    for task in episode:
        images = (task.support_x[0].flatten(1), task.query_x[0].flatten(1))
        yield *(x.numpy() for x in images), task.support_y[0].tolist()


@given(
    tasks=st.integers(1, 2),
    ways=st.integers(2, 4),
    shots=st.integers(1, 3),
    queries=st.integers(1, 3),
    distance=st.sampled_from(["cosine", "l2"]),
    temperature=st.sampled_from([0.1, 1.0, 40.0]),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_attends_to_the_labels_of_the_support(tasks, ways, shots, queries, distance, temperature, seed):
    episode = cast(image_classes(tasks, ways, shots, queries, seed), torch.float64)
    shuffle = torch.randperm(ways * shots, generator=torch.Generator().manual_seed(seed))
    episode = replace(
        episode, support_x=episode.support_x[:, shuffle], support_y=episode.support_y[:, shuffle]
    )
    log_probabilities = over_pixels(distance=distance, temperature=temperature)(episode)
    assert log_probabilities.shape == (tasks, ways * queries, ways)
    for t, (support, images, labels) in enumerate(tasks_of(episode)):
        for q, image in enumerate(images):
            expected = class_probabilities(image, support, labels, ways, SIMILARITIES[distance], temperature)
            assert_close(log_probabilities[t, q].exp(), torch.tensor(expected, dtype=torch.float64))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(x, hidden, cell, weights):
    """One step of an LSTM with torch's order of gates: input, forget, candidate, output."""
    w_x, w_h, b_x, b_h = weights
    gate_in, forget, candidate, out = np.split(w_x @ x + b_x + w_h @ hidden + b_h, 4)
    cell = sigmoid(forget) * cell + sigmoid(gate_in) * np.tanh(candidate)
    return sigmoid(out) * np.tanh(cell), cell


def parameters(module, suffix):
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [getattr(module, name + suffix).detach().numpy() for name in names]


def read(support, weights):
    """Return the hidden states after each example, in its order."""
    states, hidden = [], np.zeros(support.shape[1])
    cell = hidden
    for x in support:
        hidden, cell = lstm_step(x, hidden, cell, weights)
        states.append(hidden)
    return states


def embed_support(support, lstm):
    """g(x_i, S) = →h_i + ←h_i + g'(x_i), appendix A.2."""
    forward = read(support, parameters(lstm, "_l0"))
    backward = read(support[::-1], parameters(lstm, "_l0_reverse"))[::-1]
    return [f + b + x for f, b, x in zip(forward, backward, support, strict=True)]


def embed_query(query, support, reads, weights):
    """ĥ_k, c_k = LSTM(f'(x), [h_{k-1}, r_{k-1}], c_{k-1}), h_k = ĥ_k + f'(x), appendix A.1."""
    hidden, cell = np.zeros_like(query), np.zeros_like(query)
    for _ in range(reads):
        attention = softmax([hidden @ g for g in support])
        seen = sum(a * g for a, g in zip(attention, support, strict=True))
        hidden, cell = lstm_step(np.concatenate([query, seen]), hidden, cell, weights)
        hidden = hidden + query
    return hidden


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("reads", [1, 3])
def test_full_context_embeds_by_two_lstms(distance, reads):
    learner = over_pixels(distance=distance, full_context=True, reads=reads, temperature=2.0)
    episode = cast(image_classes(tasks=2, ways=3, shots=2), torch.float64)
    probabilities = learner(episode).exp()
    for t, (support, images, labels) in enumerate(tasks_of(episode)):
        embedded = embed_support(support, learner.context.support)
        for q, image in enumerate(images):
            query = embed_query(image, embedded, reads, parameters(learner.context.query, ""))
            expected = class_probabilities(query, embedded, labels, 3, SIMILARITIES[distance], 2.0)
            assert_close(probabilities[t, q], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("full_context", [False, True])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_gradient_matches_finite_differences(distance, full_context):
    torch.manual_seed(0)
    learner = Matching(convolutional(), PIXELS, distance=distance, full_context=full_context).double()
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


def test_support_order_matters_in_full_context_alone():
    episode, shuffle = cast(image_classes(ways=3, shots=2), torch.float64), torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = replace(
        episode, support_x=episode.support_x[:, shuffle], support_y=episode.support_y[:, shuffle]
    )
    plain, context = over_pixels(), over_pixels(full_context=True)
    assert_close(plain(shuffled), plain(episode))
    assert not torch.allclose(context(shuffled), context(episode), rtol=1e-3)


@pytest.mark.parametrize("full_context", [False, True])
def test_class_names_permute_predictions(full_context):
    episode, rename = cast(image_classes(ways=3, shots=2), torch.float64), torch.tensor([2, 0, 1])
    learner = over_pixels(full_context=full_context)
    renamed = replace(episode, support_y=rename[episode.support_y])
    assert_close(learner(renamed)[..., rename], learner(episode))


@pytest.mark.parametrize("full_context", [False, True])
def test_comparisons_keep_full_precision_under_autocast(full_context):
    episode, learner = image_classes(), over_pixels(full_context=full_context).float()
    with torch.autocast("cpu", torch.bfloat16):
        low = learner(episode)
    assert_close(low, learner(episode), rtol=0, atol=0)


def test_features_that_vanish_have_finite_gradients():
    """As where every ReLU of an example is off: the cosine has no gradient there."""
    backbone = ToyBackbone(64, nn.Flatten(), nn.Linear(64, 64))
    learner = Matching(backbone, PIXELS, distance="cosine")
    for weight in backbone.parameters():
        nn.init.zeros_(weight)
    loss = learner.meta_backward(image_classes(ways=3))
    assert loss == pytest.approx(np.log(3))
    assert all(p.grad.isfinite().all() for p in backbone.parameters())


def test_a_constant_network_guesses():
    predictions = Matching(Constant(6), PIXELS)(image_classes(ways=3))
    assert_close(predictions.exp(), torch.full_like(predictions, 1 / 3))


def test_refuses_regression():
    with refusal(ConfigError, "learner: 'matching'"):
        over_pixels()(cast(planes(), torch.float64))


def test_needs_features():
    with refusal(Infeasible, "0 features"):
        Matching(ToyBackbone(0, nn.Flatten()), PIXELS)
