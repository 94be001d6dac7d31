"""ANIL against gradient descent on the head of each task; its meta-gradient has tests of its own."""

import pytest
import torch
from small_networks import draw_network, draw_tasks
from torch import nn
from torch.testing import assert_close

from nas.learners.anil import Anil
from nas.learners.base import task_loss
from nas.learners.maml import Maml
from nas.space import TaskShape
from nas.testing.learners import ToyBackbone, cast, image_classes, planes


def begin(seed=0, tasks=3, **settings):
    backbone, shape = draw_network(seed)
    torch.manual_seed(seed)
    return Anil(backbone, shape, **settings).double(), draw_tasks(shape, tasks, seed=seed)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_only_the_head_adapts(training, seed):
    """Logistic regression on fixed features, by as many steps as training or evaluation takes."""
    learner, episode = begin(seed, inner_lr=0.3, inner_steps=2, test_steps=5)
    learner.train(training)
    expected = []
    for task in episode:
        head = nn.Linear(5, 3).double()
        head.load_state_dict(learner.network.head.state_dict())
        features = [learner.network.backbone(x[0]).detach() for x in (task.support_x, task.query_x)]
        optimizer = torch.optim.SGD(head.parameters(), lr=0.3)
        for _ in range(2 if training else 5):
            optimizer.zero_grad()
            task_loss(head(features[0]), task.support_y[0]).backward()
            optimizer.step()
        expected.append(head(features[1]))
    assert_close(learner(episode), torch.stack(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 10])
def test_examples_pass_through_the_backbone_once(steps):
    learner, episode = begin(inner_steps=steps)
    seen = []
    learner.network.backbone.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    learner.meta_backward(episode)
    assert sum(seen) == 3 * (6 + 6)


@pytest.mark.parametrize("order", [1, 2])
def test_it_is_maml_where_the_head_is_all_there_is(order):
    pixels, shape = ToyBackbone(64, nn.Flatten()), TaskShape((1, 8, 8), 3)
    episode = cast(image_classes(tasks=3), torch.float64)
    learners = [cls(pixels, shape, inner_lr=0.3, inner_steps=3, order=order).double() for cls in (Anil, Maml)]
    learners[1].load_state_dict(learners[0].state_dict())
    for learner in learners:
        learner.meta_backward(episode)
    anil, maml = (dict(learner.named_parameters()) for learner in learners)
    assert_close(learners[0](episode), learners[1](episode))
    assert_close(*({name: weight.grad for name, weight in part.items()} for part in (anil, maml)))


def test_regression():
    torch.manual_seed(0)
    body = ToyBackbone(2, nn.Identity())
    learner = Anil(body, TaskShape((2,), 1), inner_lr=0.5, test_steps=300).double().eval()
    episode = cast(planes(tasks=4, shots=10), torch.float64)
    assert learner.meta_loss(episode).item() < 1e-3 * episode.query_y.square().mean().item()
