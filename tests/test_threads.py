import copy
import threading

import pytest
import torch
from facts import refusal
from torch import nn
from torch.testing import assert_close

from nas.learners.maml import Maml
from nas.learners.threads import backward, usable
from nas.space import TaskShape
from nas.testing.learners import ToyBackbone, cast, convolutional, gradients, image_classes

SHAPE = TaskShape((1, 8, 8), 3)


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def maml(**settings):
    torch.manual_seed(0)
    return Maml(convolutional(), SHAPE, **settings).double()


def meta_gradient(learner, tasks, threads):
    torch.set_num_threads(threads)
    learner.zero_grad()
    loss = learner.meta_backward(tasks)
    return loss, gradients(learner)


def test_the_meta_gradient_is_that_of_one_thread():
    learner, tasks = maml(), cast(image_classes(tasks=7), torch.float64)
    loss, gradient = meta_gradient(learner, tasks, 1)
    for threads in (2, 3, 16):
        assert_close(meta_gradient(learner, tasks, threads), (loss, gradient), rtol=1e-10, atol=1e-12)


def test_two_threads_give_the_same_bits_twice():
    learner, tasks = maml().float(), image_classes(tasks=7)
    assert_close(meta_gradient(learner, tasks, 2), meta_gradient(learner, tasks, 2), rtol=0, atol=0)


def test_each_thread_takes_its_items_alone_and_leaves_torch_as_it_was():
    seen, meeting = {}, threading.Barrier(2)

    def step(module, item):
        meeting.wait(60)  # both are at it
        seen[item] = (threading.get_ident(), torch.get_num_threads(), torch.is_autocast_enabled("cpu"))
        (module.weight.sum() * item).backward()
        return float(item)

    module = nn.Linear(2, 1, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert backward(module, [1, 2, 3, 4], step, 2) == 10
    assert torch.equal(module.weight.grad, torch.full((1, 2), 10.0))
    assert {cores for _, cores, _ in seen.values()} == {1}
    assert all(autocast for _, _, autocast in seen.values())
    assert seen[1][0] == seen[3][0] != seen[2][0] == seen[4][0]
    assert torch.get_num_threads() == 2
    assert not torch.is_autocast_enabled("cpu")


def test_gradients_are_added_to_those_there_are():
    learner, tasks = maml(), cast(image_classes(tasks=4), torch.float64)
    learner.meta_backward(tasks)
    once = {name: gradient.clone() for name, gradient in gradients(learner).items()}
    learner.meta_backward(tasks)
    assert_close(gradients(learner), {name: 2 * gradient for name, gradient in once.items()})


def test_what_a_thread_raises_is_raised_and_torch_left_as_it_was():
    def step(module, item):
        raise ValueError(f"item {item}")

    with refusal(ValueError, "item 0"):
        backward(nn.Linear(1, 1), [0, 1], step, 2)
    assert torch.get_num_threads() == 2


class Noisy(nn.Module):
    """Draws without a module that would tell."""

    def forward(self, x):
        return x * torch.rand_like(x)


@pytest.mark.parametrize("noise", [nn.Dropout(0.5), nn.RReLU(), Noisy()], ids=type)
def test_what_draws_random_numbers_draws_them_in_order(noise):
    """With two threads as with one, from the first meta-step on, and after a copy as after a checkpoint."""
    torch.manual_seed(0)
    learner = Maml(ToyBackbone(8, nn.Flatten(), nn.Linear(64, 8), noise), SHAPE).double().train()
    tasks = cast(image_classes(tasks=6), torch.float64)
    by_one, by_two = copy.deepcopy(learner), copy.deepcopy(learner)
    parts = list(tasks.chunks(2))

    def meta_gradient(learner, threads):
        learner.zero_grad()
        loss = backward(learner, parts, lambda own, some: _back(own.meta_loss(some)), threads)
        return loss, gradients(learner), torch.rand(1)

    torch.manual_seed(1)
    expected = [meta_gradient(by_one, 1) for _ in range(3)]
    torch.manual_seed(1)
    found = [meta_gradient(by_two, 2) for _ in range(2)]
    found.append(meta_gradient(copy.deepcopy(by_two), 2))
    assert_close(found, expected, rtol=0, atol=0)


def _back(loss):
    loss.backward()
    return float(loss.detach())


@pytest.mark.parametrize("module", [nn.BatchNorm2d(3), nn.Linear(2, 2, device="meta")], ids=type)
def test_tasks_that_affect_each_other_stay_in_one_thread(module):
    assert usable(nn.Sequential(nn.Linear(2, 2), module)) == 1
    assert usable(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm2d(3, track_running_stats=False))) == 2


def test_running_averages_see_all_tasks():
    learner = Maml(
        ToyBackbone(3, nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3)), SHAPE, normalization="running"
    )
    assert usable(learner) == 1
