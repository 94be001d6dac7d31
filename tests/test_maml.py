import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.testing import assert_close

from nas.learners.base import task_loss
from nas.learners.maml import Maml
from nas.space import TaskShape
from nas.tasks.base import Episode
from nas.testing.learners import Constant, ToyBackbone, cast, convolutional, image_classes, perceptron, planes

NETWORKS = {
    "convolutional": (convolutional, image_classes, TaskShape((1, 8, 8), 3)),
    "perceptron": (perceptron, planes, TaskShape((2,), 1)),
}
steps_1_and_3 = pytest.mark.parametrize("steps", [1, 3])
networks = pytest.mark.parametrize("network", NETWORKS)


def learner_and_task(network, seed=0, **settings):
    backbone, draw, shape = NETWORKS[network]
    torch.manual_seed(seed)
    learner = Maml(backbone(), shape, inner_lr=0.3, **settings).double()
    return learner, cast(draw(tasks=1, seed=seed), torch.float64)


def flat_gradient(learner):
    return torch.cat([p.grad.flatten() for p in learner.parameters()])


def losses_of_flat_weights(learner, task):
    """The support and the query loss as functions of one vector of weights."""
    shapes = {name: p.shape for name, p in learner.network.named_parameters()}

    def loss(vector, x, y):
        parts = vector.split([shape.numel() for shape in shapes.values()])
        weights = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        outputs = functional_call(learner.network, weights, x[0])
        return F.mse_loss(outputs, y[0]) if y.is_floating_point() else F.cross_entropy(outputs, y[0])

    return partial(loss, x=task.support_x, y=task.support_y), partial(loss, x=task.query_x, y=task.query_y)


def slope(loss, at):
    at = at.detach().requires_grad_()
    return torch.autograd.grad(loss(at), at)[0]


@networks
@steps_1_and_3
def test_second_order_gradient_is_the_product_of_hessians(network, steps):
    """∇L = Π (I − α H_k) ∇L_q(w_K): the chain rule through w_{k+1} = w_k − α ∇L_s(w_k)."""
    learner, task = learner_and_task(network, inner_steps=steps)
    learner.meta_backward(task)

    support_loss, query_loss = losses_of_flat_weights(learner, task)
    w = torch.cat([p.detach().flatten() for p in learner.parameters()])
    jacobian = torch.eye(len(w), dtype=w.dtype)
    for _ in range(steps):
        jacobian = jacobian - jacobian @ (0.3 * hessian(support_loss, w))
        w = w - 0.3 * slope(support_loss, w)
    assert_close(flat_gradient(learner), jacobian @ slope(query_loss, w), rtol=1e-9, atol=1e-12)


@networks
@steps_1_and_3
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_second_order_gradient_matches_finite_differences(network, steps, seed):
    learner, task = learner_and_task(network, seed, inner_steps=steps)
    learner.meta_backward(task)
    vector = nn.utils.parameters_to_vector(learner.parameters()).detach()
    direction = F.normalize(torch.randn_like(vector), dim=0)

    @torch.no_grad()
    def loss(step: float) -> float:
        nn.utils.vector_to_parameters(vector + step * direction, learner.parameters())
        return learner.meta_loss(task).item()

    expected = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert (flat_gradient(learner) @ direction).item() == pytest.approx(expected, rel=1e-6)


@networks
@steps_1_and_3
def test_first_order_gradient_is_that_at_the_adapted_weights(network, steps):
    learner, task = learner_and_task(network, inner_steps=steps, order=1)
    learner.meta_backward(task)

    adapted = copy.deepcopy(learner.network)
    optimizer = torch.optim.SGD(adapted.parameters(), lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        task_loss(adapted(task.support_x[0]), task.support_y[0]).backward()
        optimizer.step()
    adapted.zero_grad()
    predictions = adapted(task.query_x[0])
    task_loss(predictions, task.query_y[0]).backward()

    assert_close(learner(task)[0], predictions)
    assert_close(flat_gradient(learner), flat_gradient(adapted), rtol=1e-9, atol=1e-12)


@networks
@steps_1_and_3
def test_both_orders_predict_alike_with_and_without_gradients(network, steps):
    learner, task = learner_and_task(network, inner_steps=steps)
    second = learner(task)
    learner.order = 1
    assert_close(learner(task), second)
    with torch.no_grad():
        assert_close(learner(task), second.detach())


def test_evaluation_may_take_more_steps():
    three, task = learner_and_task("convolutional", inner_steps=3)
    learner, _ = learner_and_task("convolutional", inner_steps=1, test_steps=3)
    assert not torch.allclose(learner(task), three(task))
    assert_close(learner.eval()(task), three(task))


def test_batch_norm_sees_support_and_queries_apart():
    """Other queries change how a query is predicted, not how the network adapts."""
    learner, task = learner_and_task("convolutional")
    fewer = replace(task, query_x=task.query_x[:, :4], query_y=task.query_y[:, :4])
    for mode in (True, False):
        assert not torch.allclose(learner.train(mode)(fewer), learner(task)[:, :4])
    plain = Maml(ToyBackbone(64, nn.Flatten()), TaskShape((1, 8, 8), 3)).double()
    assert_close(plain(fewer), plain(task)[:, :4])


def test_frozen_weights_neither_adapt_nor_learn():
    learner, task = learner_and_task("perceptron")
    frozen = learner.network.backbone[0].weight.requires_grad_(False)
    learner.meta_backward(task)
    assert frozen.grad is None
    assert all(p.grad is not None for p in learner.parameters() if p is not frozen)


@pytest.mark.parametrize("order", [1, 2])
def test_unused_weights_do_no_harm(order):
    learner = Maml(Constant(6), TaskShape((1, 8, 8), 3), order=order)
    learner.meta_backward(image_classes())
    assert learner.network.backbone.weight.grad is None
    assert learner.network.head.bias.grad.isfinite().all()


def test_channels_last_keeps_the_gradient():
    learner, task = learner_and_task("convolutional", inner_steps=2)
    learner.meta_backward(task)
    exact = flat_gradient(learner)
    learner.zero_grad()
    learner.float().to(memory_format=torch.channels_last).meta_backward(cast(task, torch.float32))
    assert_close(flat_gradient(learner).double(), exact, rtol=1e-3, atol=1e-4)


def test_low_precision_keeps_the_direction_of_the_gradient():
    torch.manual_seed(0)
    smooth = ToyBackbone(
        64, nn.Conv2d(1, 16, 3, stride=2), nn.BatchNorm2d(16), nn.Softplus(), nn.Flatten(), nn.LazyLinear(64)
    )
    task = image_classes(tasks=1)
    smooth(task.support_x[0])
    learner = Maml(smooth, TaskShape((1, 8, 8), 3))
    learner.meta_backward(task)
    exact = flat_gradient(learner)
    learner.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        learner.meta_backward(task)
    assert F.cosine_similarity(flat_gradient(learner), exact, dim=0) > 0.99


def sinusoids(tasks, rng, shots=10):
    """Draw the regression tasks of Finn et al. 2017, section 5.1; also return the amplitudes."""
    amplitude, phase = rng.uniform(0.1, 5, (tasks, 1, 1)), rng.uniform(0, np.pi, (tasks, 1, 1))
    x = rng.uniform(-5, 5, (tasks, 2 * shots, 1))
    inputs, targets = (torch.from_numpy(a).float() for a in (x, amplitude * np.sin(x - phase)))
    return Episode(
        inputs[:, :shots],
        targets[:, :shots],
        inputs[:, shots:],
        targets[:, shots:],
        *(0, shots, np.zeros((tasks, 0), np.int64)),
    )


@pytest.mark.slow
def test_learns_sinusoids_beyond_what_one_function_can():
    """The best single function is −2 cos(x) E[A] / π, with error E[A²]/2 − 2(E[A]/π)² = 3.01."""
    torch.manual_seed(0)
    backbone = ToyBackbone(40, nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU())
    learner = Maml(backbone, TaskShape((1,), 1), inner_lr=0.01, lr=0.01)
    optimizer, rng = learner.optimizer(), np.random.default_rng(0)
    for _ in range(600):
        optimizer.zero_grad()
        learner.meta_backward(sinusoids(4, rng))
        optimizer.step()
    test = sinusoids(200, np.random.default_rng(1))
    blind = -2 * test.query_x.cos() * 2.55 / np.pi
    floor = F.mse_loss(blind, test.query_y).item()
    assert floor == pytest.approx(3.01, abs=0.4)
    with torch.no_grad():
        assert learner.meta_loss(test).item() < 0.6 * floor
