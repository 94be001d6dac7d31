"""Meta-SGD's rates; its meta-gradient has tests of its own."""

import pytest
import torch
from small_networks import draw_network, draw_tasks
from torch import nn
from torch.testing import assert_close

from nas.learners.base import task_loss
from nas.learners.maml import Maml
from nas.learners.meta_sgd import MetaSgd
from nas.space import TaskShape
from nas.testing.learners import convolutional, image_classes, train


def begin(seed=0, tasks=3, make=MetaSgd, **settings):
    backbone, shape = draw_network(seed)
    torch.manual_seed(seed)
    return make(backbone, shape, inner_lr=0.25, **settings).double(), draw_tasks(shape, tasks, seed=seed)


@pytest.mark.parametrize("order", [1, 2])
def test_it_begins_as_maml(order):
    learner, episode = begin(inner_steps=2, order=order)
    maml, _ = begin(make=Maml, inner_steps=2, order=order)
    maml.network.load_state_dict(learner.network.state_dict())
    assert_close(learner(episode), maml(episode))
    learner.meta_backward(episode)
    maml.meta_backward(episode)
    for own, other in zip(learner.network.parameters(), maml.network.parameters(), strict=True):
        assert_close(own.grad, other.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_the_gradient_of_the_rates_has_a_closed_form(order):
    """After one step w' = w − α ∘ g it is −g ∘ ∇L(w'), the mean over tasks (Li et al. 2017)."""
    learner, episode = begin(order=order)
    learner.meta_backward(episode)
    weights = list(learner.network.parameters())
    start = [weight.detach().clone() for weight in weights]
    expected = [torch.zeros_like(weight) for weight in weights]
    for task in episode:
        slopes = torch.autograd.grad(
            task_loss(learner.network(task.support_x[0]), task.support_y[0]), weights
        )
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                weight -= 0.25 * slope
        ends = torch.autograd.grad(task_loss(learner.network(task.query_x[0]), task.query_y[0]), weights)
        with torch.no_grad():
            for weight, before in zip(weights, start, strict=True):
                weight.copy_(before)
        for total, slope, end in zip(expected, slopes, ends, strict=True):
            total -= slope * end / len(episode)
    for rate, gradient in zip(learner.inner_rates.parameters(), expected, strict=True):
        assert_close(rate.grad, gradient, rtol=1e-9, atol=1e-12)


def test_rates_learn():
    torch.manual_seed(0)
    learner = MetaSgd(convolutional(), TaskShape((1, 8, 8), 3), lr=0.05)
    losses = train(learner, image_classes(tasks=4), steps=30)
    assert losses[-1] < losses[0]
    rates = nn.utils.parameters_to_vector(learner.inner_rates.parameters()).detach()
    assert rates.unique().numel() > 100
    assert rates.min() < 0 < rates.max()


def test_the_memory_format_does_not_matter():
    """Rates follow the layout of their weights."""
    learner, episode = begin(inner_steps=2)
    learner.meta_backward(episode)
    expected = [parameter.grad.clone() for parameter in learner.parameters()]
    learner.zero_grad()
    learner.to(memory_format=torch.channels_last).meta_backward(episode)
    for parameter, gradient in zip(learner.parameters(), expected, strict=True):
        assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def test_frozen_weights_have_no_rate():
    backbone, shape = draw_network(0)
    for parameter in backbone[0].parameters():
        parameter.requires_grad_(False)
    learner = MetaSgd(backbone, shape).double()
    assert len(list(learner.inner_rates.parameters())) == len(learner.network.trainable)
    assert len(learner.network.trainable) < len(list(learner.network.parameters()))
    learner.meta_backward(draw_tasks(shape, 2))
    assert all(rate.grad is not None for rate in learner.inner_rates.parameters())
    assert backbone[0].weight.grad is None
