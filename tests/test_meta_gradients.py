"""Meta-gradients against `higher` (Grefenstette et al. 2019), which loops over tasks and unrolls them."""

import warnings

import pytest
import torch
from grids import rest_slow
from small_networks import draw_network, draw_tasks
from torch import nn
from torch.testing import assert_close

from nas.learners import base, folded
from nas.learners.anil import Anil
from nas.learners.base import task_loss
from nas.learners.folded import foldable
from nas.learners.maml import Maml
from nas.learners.meta_sgd import MetaSgd
from nas.space import TaskShape
from nas.testing.learners import cast, perceptron, planes

with warnings.catch_warnings():
    warnings.simplefilter("ignore", SyntaxWarning)  # where it is compiled for the first time
    import higher

learners = pytest.mark.parametrize("make", [Maml, Anil, MetaSgd])
orders = pytest.mark.parametrize("order", [1, 2])
seeds = pytest.mark.parametrize("seed", rest_slow(range(8), (0, 2)))
SMOOTH = 7
"""The seed of a network without ReLU and maximum."""


pytestmark = pytest.mark.usefixtures("one_thread")


def unrolled(network, episode, optimizer, steps, order, rates):
    """Return the loss of a network that `optimizer` adapts to each task; add its gradient to `.grad`.

    Args:
        rates: of each parameter group, to be learned too; None: those of the optimizer.
    """
    total = 0.0
    override = None if rates is None else {"lr": rates}
    constant = (lambda gradients: [g if g is None else g.detach() for g in gradients]) if order == 1 else None
    for task in episode:
        context = higher.innerloop_ctx(network, optimizer, copy_initial_weights=False, override=override)
        with context as (adapting, rule):
            for _ in range(steps):
                rule.step(task_loss(adapting(task.support_x[0]), task.support_y[0]), grad_callback=constant)
            loss = task_loss(adapting(task.query_x[0]), task.query_y[0]) / len(episode)
            loss.backward()
        total += loss.item()
    return total


def taken(parameters):
    """Take the gradients away, as one vector."""
    vector = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    for parameter in parameters:
        parameter.grad = None
    return vector


def assert_same(found, expected):
    """Two gradients are the same but for rounding: by norm, and entry by entry."""
    assert (found - expected).norm() <= 1e-9 * expected.norm()
    assert_close(found, expected, rtol=1e-6, atol=1e-9 * expected.abs().max().item())


def check(learner, episode):
    """The meta-gradient is that of `higher`: of the weights and, where they are learned, of the rates."""
    weights, rates, adapting = list(learner.network.parameters()), None, learner.network
    if isinstance(learner, Anil):
        adapting = learner.network.head
    if isinstance(learner, MetaSgd):
        rates = list(learner.inner_rates.parameters())
        with torch.no_grad():
            for rate in rates:
                rate.add_(0.2 * torch.randn_like(rate))  # some become negative
    loss = learner.meta_backward(episode)
    found = [taken(parameters) for parameters in (weights, rates) if parameters]
    optimizer = torch.optim.SGD(
        [{"params": [weight]} for weight in adapting.parameters()],
        lr=0.0 if rates else learner.update.lr,
    )
    expected = unrolled(learner.network, episode, optimizer, learner.inner_steps, learner.order, rates)
    assert loss == pytest.approx(expected, rel=1e-10)
    for part, parameters in zip(found, filter(None, (weights, rates)), strict=True):
        assert_same(part, taken(parameters))


def classify(make, seed, *, plain=True, tasks=3, **settings):
    backbone, shape = draw_network(seed, plain=plain)
    torch.manual_seed(seed)
    learner = make(backbone, shape, inner_lr=0.3, **settings).double().train()
    return learner, draw_tasks(shape, tasks, seed=seed)


def regress(make, seed, tasks=3, **settings):
    torch.manual_seed(seed)
    learner = make(perceptron(), TaskShape((2,), 1), inner_lr=0.1, **settings).double().train()
    return learner, cast(planes(tasks, seed=seed), torch.float64)


@learners
@orders
@seeds
def test_random_networks(make, order, seed):
    learner, episode = classify(make, seed, inner_steps=1 + seed % 3, order=order)
    assert foldable(learner.network)
    check(learner, episode)


@learners
@orders
@pytest.mark.parametrize("seed", [0, 1])
def test_regression(make, order, seed):
    check(*regress(make, seed, inner_steps=2 + seed, order=order))


@learners
@orders
@pytest.mark.parametrize("seed", [0, 1])
def test_networks_with_layers_of_their_own(make, order, seed):
    """What cannot be folded runs task by task."""
    learner, episode = classify(make, seed, plain=False, inner_steps=2, order=order)
    assert not foldable(learner.network)
    check(learner, episode)


@learners
@orders
@pytest.mark.parametrize("tasks_at_once", [1, 2])
def test_more_tasks_than_pass_at_once(make, order, tasks_at_once, monkeypatch):
    """Five tasks in chunks; rows go through the network in small groups."""
    learner, episode = classify(make, 3, tasks=5, inner_steps=2, order=order)
    size = learner.passes * episode.support_x[0].numel() + episode.query_x[0].numel()
    monkeypatch.setattr(base, "HELD", size * tasks_at_once)
    monkeypatch.setattr(folded, "CACHED", 13 * episode.query_x[0, 0].numel())
    sizes = []
    meta_loss = learner.meta_loss
    monkeypatch.setattr(learner, "meta_loss", lambda chunk: (sizes.append(len(chunk)), meta_loss(chunk))[1])
    check(learner, episode)
    assert sizes == {1: [1, 1, 1, 1, 1], 2: [2, 2, 1]}[tasks_at_once]


@learners
def test_finite_differences(make):
    """The derivative along a direction in all of φ, by a difference of fourth order, without any library."""
    learner, episode = classify(make, SMOOTH, inner_steps=2)
    learner.meta_backward(episode)
    parameters = list(learner.parameters())
    gradient, vector = taken(parameters), nn.utils.parameters_to_vector(parameters).detach()
    direction = torch.randn_like(vector) / len(vector) ** 0.5

    @torch.no_grad()
    def loss(step: float) -> float:
        nn.utils.vector_to_parameters(vector + step * direction, parameters)
        return learner.meta_loss(episode).item()

    h = 1e-5
    slope = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    assert (gradient @ direction).item() == pytest.approx(slope, rel=1e-6)


@orders
@seeds
def test_anil_is_meta_sgd_that_leaves_the_body(order, seed):
    """Rates of zero on the backbone, and ANIL's on the head."""
    anil, episode = classify(Anil, seed, inner_steps=2, order=order)
    meta_sgd, _ = classify(MetaSgd, seed, inner_steps=2, order=order)
    meta_sgd.network.load_state_dict(anil.network.state_dict())
    with torch.no_grad():
        for name, rate in zip(meta_sgd.network.trainable, meta_sgd.inner_rates.parameters(), strict=True):
            rate.fill_(0.3 if name.startswith("head.") else 0.0)
    assert_close(anil(episode), meta_sgd(episode))
    anil.meta_backward(episode)
    meta_sgd.meta_backward(episode)
    assert_same(taken(list(anil.network.parameters())), taken(list(meta_sgd.network.parameters())))
