"""Reptile against its closed form, and against torch's Adam run by hand."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from small_networks import draw_network, draw_tasks
from torch.testing import assert_close

from nas.learners.base import task_loss
from nas.learners.reptile import Reptile
from nas.plugins import load
from nas.space import TaskShape
from nas.tasks.sinusoid import Sinusoid
from nas.testing.learners import cast, perceptron, planes
from nas.training.loop import start

kinds = pytest.mark.parametrize("kind", ["classification", "regression"])
batches_of_tasks = pytest.mark.parametrize("tasks", [1, 3])
TIGHT = {"rtol": 1e-7, "atol": 1e-9}


pytestmark = pytest.mark.usefixtures("one_thread")


def begin(kind, tasks, seed=0, **settings):
    """A learner in float64, and as many tasks for it."""
    torch.manual_seed(seed)
    if kind == "classification":
        backbone, shape = draw_network(seed)
        episode = draw_tasks(shape, tasks, seed=seed)
    else:
        backbone, shape = perceptron(), TaskShape((2,), 1)
        episode = cast(planes(tasks, seed=seed), torch.float64)
    return Reptile(backbone, shape, **settings).double().train(), episode


def weights_of(learner):
    return {name: weight.detach().clone() for name, weight in learner.network.named_parameters()}


def minibatches(examples, size, count, generator=None):
    """Consecutive parts of random orders, one order after the other."""
    orders = [torch.randperm(examples, generator=generator) for _ in range(-(-count * size // examples))]
    return torch.cat(orders).split(size)[:count]


class ByHand:
    """Torch's Adam with β₁ = 0 on one task after the other; hands on the mean of their second moments."""

    def __init__(self, network, inner_lr):
        self.network, self.inner_lr, self.step = copy.deepcopy(network), inner_lr, 0
        self.second = [torch.zeros_like(weight) for weight in network.parameters()]

    def adapted(self, task, batches):
        """The network after a step on each minibatch, and its second moments."""
        network = copy.deepcopy(self.network)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.inner_lr, betas=(0.0, 0.999))
        for weight, second in zip(network.parameters(), self.second, strict=True):
            optimizer.state[weight] = {
                "step": torch.tensor(float(self.step)),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": second.clone(),
            }
        for rows in batches:
            optimizer.zero_grad()
            task_loss(network(task.support_x[0, rows]), task.support_y[0, rows]).backward()
            optimizer.step()
        return network, [optimizer.state[weight]["exp_avg_sq"] for weight in network.parameters()]

    def meta_step(self, episode, batches, rate):
        """φ ← φ + ε (mean of φ_k − φ); return the mean loss on the queries."""
        ended = [self.adapted(task, batches) for task in episode]
        losses = [
            task_loss(n(t.query_x[0])[None], t.query_y) for (n, _), t in zip(ended, episode, strict=True)
        ]
        with torch.no_grad():
            for weight, *after in zip(
                self.network.parameters(), *(network.parameters() for network, _ in ended), strict=True
            ):
                weight += rate * (torch.stack(after).mean(0) - weight)
        moments = zip(*(second for _, second in ended), strict=True)
        self.second = [torch.stack(second).mean(0) for second in moments]
        self.step += len(batches)
        return sum(losses).item() / len(losses)


@kinds
@batches_of_tasks
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_step_has_a_closed_form(kind, tasks, seed):
    """From moments of zero, Adam with β₁ = 0 moves each weight by lr · g / (|g| + ε)."""
    learner, episode = begin(kind, tasks, seed, inner_steps=1, inner_lr=0.01, inner_batch=100)
    learner.meta_backward(episode)
    found = {name: weight.grad.clone() for name, weight in learner.network.named_parameters()}
    moved = {name: torch.zeros_like(weight) for name, weight in found.items()}
    for task in episode:
        learner.zero_grad()
        task_loss(learner.network(task.support_x[0]), task.support_y[0]).backward()
        for name, weight in learner.network.named_parameters():
            moved[name] += 0.01 * weight.grad / (weight.grad.abs() + 1e-8) / tasks
    assert_close(found, moved, **TIGHT)


@kinds
@batches_of_tasks
def test_meta_steps_are_those_of_adam_by_hand(kind, tasks):
    """Serial and batched, over minibatches that cut across the support, with moments that persist."""
    learner, episode = begin(kind, tasks, inner_steps=4, inner_lr=0.02, inner_batch=4, lr=0.5)
    by_hand, optimizer = ByHand(learner.network, 0.02), learner.optimizer()
    for step in range(3):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = learner.meta_backward(episode)
        optimizer.step()
        torch.manual_seed(step)
        batches = minibatches(episode.support_x.shape[1], 4, 4)
        assert loss == pytest.approx(by_hand.meta_step(episode, batches, rate=0.5), rel=1e-7)
        assert_close(weights_of(learner), dict(by_hand.network.named_parameters()), **TIGHT)


@kinds
def test_evaluation_adapts_by_the_same_minibatches_every_time(kind):
    """From the moments of training, which it leaves alone, with its own steps and sizes."""
    learner, episode = begin(kind, 2, inner_steps=2, inner_lr=0.02, test_steps=7, test_batch=4, lr=0.5)
    by_hand, optimizer = ByHand(learner.network, 0.02), learner.optimizer()
    learner.meta_backward(episode)
    optimizer.step()
    torch.manual_seed(0)
    by_hand.meta_step(episode, minibatches(6, 6, 2), rate=0.5)
    learner.eval()
    batches = minibatches(6, 4, 7, torch.Generator().manual_seed(0))
    expected = [by_hand.adapted(task, batches)[0](task.query_x[0]) for task in episode]
    for _ in range(2):
        assert_close(learner(episode), torch.stack(expected), rtol=1e-6, atol=1e-6)


@batches_of_tasks
def test_the_step_follows_the_schedule(tasks):
    """φ ← φ − ε_t · (what `.grad` holds), where ε_t falls linearly to zero."""
    space, source = load("space", "mlp")(), Sinusoid()

    def make(backbone, shape):
        return Reptile(backbone, shape, lr=0.8, meta_batch=tasks)

    training = start(space, space.named["maml"], source, make, "float32", 12, 0)
    learner = training.learner
    while training.done < 12:
        rate = 0.8 * (1 - training.done / 12)
        before = weights_of(learner)
        next(training.until(12))
        step = {name: weight.grad for name, weight in learner.network.named_parameters()}
        assert any(part.any() for part in step.values())
        assert_close(weights_of(learner), {name: w - rate * step[name] for name, w in before.items()})


def test_training_uses_no_queries():
    learner, episode = begin("classification", 2)
    twin = copy.deepcopy(learner)
    other = replace(episode, query_x=episode.query_x.flip(1), query_y=1 - episode.query_y.clamp(max=1))
    losses = []
    for one, tasks in ((learner, episode), (twin, other)):
        torch.manual_seed(0)
        losses.append(one.meta_backward(tasks))
    assert losses[0] != losses[1]
    for a, b in zip(learner.network.parameters(), twin.network.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@kinds
def test_it_goes_on_with_its_moments(kind):
    """A state that went through a file carries the moments; without them the next step is another."""
    learner, episode = begin(kind, 2, inner_lr=0.02)
    learner.meta_backward(episode)
    learner.zero_grad()
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    resumed, forgetful = begin(kind, 2, seed=0, inner_lr=0.02)[0], begin(kind, 2, seed=0, inner_lr=0.02)[0]
    resumed.load_state_dict(torch.load(file, weights_only=True))
    forgetful.network.load_state_dict(learner.network.state_dict())
    steps = []
    for one in (learner, resumed, forgetful):
        torch.manual_seed(1)
        one.meta_backward(episode)
        steps.append(torch.cat([weight.grad.flatten() for weight in one.network.parameters()]))
    assert torch.equal(steps[0], steps[1])
    assert not torch.allclose(steps[0], steps[2], rtol=0.01)
    assert int(resumed.step) == 2 * learner.inner_steps


def test_frozen_weights_stay():
    backbone, shape = draw_network(0)
    backbone[0].weight.requires_grad_(False)
    learner = Reptile(backbone, shape).double()
    before = backbone[0].weight.clone()
    learner.meta_backward(draw_tasks(shape, 2))
    learner.optimizer().step()
    assert torch.equal(backbone[0].weight, before)
    assert backbone[0].weight.grad is None
