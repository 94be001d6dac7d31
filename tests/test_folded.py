"""Many tasks as one batch: against each task by itself, through torch's own layers."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from grids import rest_slow
from small_networks import draw_network
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.testing import assert_close

from nas.bilevel import load_forward_mode
from nas.errors import Infeasible
from nas.learners import folded
from nas.learners.folded import foldable, run
from nas.learners.network import Network, normalized
from nas.plugins import installed, load
from nas.space import TaskShape
from nas.testing.learners import ToyBackbone, perceptron

TASKS, ROWS = 3, 6
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
seeds = pytest.mark.parametrize("seed", rest_slow(range(6), (0, 1)))
plainness = pytest.mark.parametrize("plain", [True, False], ids=["foldable", "unfoldable"])


pytestmark = pytest.mark.usefixtures("one_thread")


class Leading(nn.Module):
    """Batch norm by the statistics of the leading rows, straight from the paper's formula."""

    def __init__(self, norm, rows):
        super().__init__()
        self.weight, self.bias, self.eps, self.rows = norm.weight, norm.bias, norm.eps, rows

    def forward(self, x):
        axes, channel = [0, *range(2, x.dim())], (-1, *[1] * (x.dim() - 2))
        variance, mean = torch.var_mean(x[: self.rows], axes, correction=0, keepdim=True)
        out = (x - mean) / (variance + self.eps).sqrt()
        return out if self.weight is None else out * self.weight.view(channel) + self.bias.view(channel)


def by_leading_rows(module, rows):
    """A copy of a module with `Leading` in place of its batch norms."""
    module = copy.deepcopy(module)
    for part in list(module.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(part, name, Leading(child, rows))
    return module


def draw(seed, normalization="transductive", *, plain=True, tasks=TASKS):
    """A network, images for it, and for each task weights of its own."""
    backbone, shape = draw_network(seed, plain=plain)
    torch.manual_seed(seed)
    network = Network(normalized(backbone, normalization), shape.outputs).double()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.track_running_stats:
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return network, torch.randn(tasks, ROWS, *shape.input, dtype=torch.float64), weights_of(network, tasks)


def weights_of(network, tasks=TASKS):
    return {
        name: weight.detach() + 0.3 * torch.randn(tasks, *weight.shape, dtype=weight.dtype)
        for name, weight in network.named_parameters()
    }


def looped(network, x, weights=None):
    """The network on each task, with the task's weights in place of its own."""
    tasks = [{name: w[t] for name, w in (weights or {}).items()} for t in range(len(x))]
    return torch.stack([functional_call(network, own, (x[t],)) for t, own in enumerate(tasks)])


@seeds
@plainness
@pytest.mark.parametrize("training", [True, False])
def test_statistics_of_the_task(seed, plain, training):
    network, x, weights = draw(seed, plain=plain)
    network.train(training)
    assert foldable(network) is plain
    assert_close(run(network, x, weights), looped(network, x, weights), **TIGHT)
    assert_close(run(network, x), looped(network, x), **TIGHT)


@seeds
@plainness
@pytest.mark.parametrize("reference", [2, 5, ROWS])
def test_statistics_of_leading_rows(seed, plain, reference):
    network, x, weights = draw(seed, plain=plain)
    plainly = by_leading_rows(network, reference)
    assert_close(run(network, x, weights, reference=reference), looped(plainly, x, weights), **TIGHT)
    assert_close(run(network, x, reference=reference), looped(plainly, x), **TIGHT)


@seeds
@plainness
def test_running_statistics_in_evaluation(seed, plain):
    network, x, weights = draw(seed, "running", plain=plain)
    before = copy.deepcopy(network.eval().state_dict())
    assert_close(run(network, x, weights), looped(network, x, weights), **TIGHT)
    assert_close(run(network, x), looped(network, x), **TIGHT)
    assert_close(network.state_dict(), before, rtol=0, atol=0)


@seeds
@pytest.mark.parametrize("shared", [True, False], ids=["shared_weights", "own_weights"])
def test_running_statistics_in_training(seed, shared):
    """Rows are normalized by their task; the averages take one step, to the mean over tasks."""
    network, x, weights = draw(seed, "running")
    weights = None if shared else weights
    alone = [copy.deepcopy(network) for _ in range(TASKS)]
    expected = [
        looped(network, x[t : t + 1], {name: w[t : t + 1] for name, w in (weights or {}).items()})
        for t, network in enumerate(alone)
    ]
    assert_close(run(network, x, weights), torch.cat(expected), **TIGHT)
    states = [network.state_dict() for network in alone]
    for name, value in network.named_buffers():
        assert_close(value, torch.stack([s[name] for s in states]).to(torch.float64).mean(0).to(value.dtype))
    moved = [n for n, _ in network.named_buffers() if n.endswith("running_mean")]
    assert moved
    assert not any(torch.equal(states[0][name], states[1][name]) for name in moved)


@seeds
def test_running_statistics_of_leading_rows(seed):
    """In training the averages follow the leading rows alone."""
    network, x, weights = draw(seed, "running")
    other = torch.cat([x[:, :4], torch.randn_like(x[:, 4:])], 1)
    twin = copy.deepcopy(network)
    assert_close(run(network, x, weights, reference=4)[:, :4], run(twin, other, weights, reference=4)[:, :4])
    assert_close(network.state_dict(), twin.state_dict())


@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_mode_is_the_derivative(tasks, bias):
    """Of every weight at once; running averages stay."""
    load_forward_mode()
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=bias), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 2, 2), nn.Flatten()
    ).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tasks, 4, 1, 6, 6, generator=generator, dtype=torch.float64)
    weights = {name: weight.detach() for name, weight in module.named_parameters()}
    along = {n: torch.randn(w.shape, generator=generator, dtype=torch.float64) for n, w in weights.items()}
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(weight, along[name]) for name, weight in weights.items()}
        found = forward_ad.unpack_dual(functional_call(Run(module), wrapped(dual), (x,))).tangent
    assert all(torch.equal(before[n], b) for n, b in module.named_buffers() if "num" not in n)

    def moved(step):
        there = {name: weight + step * along[name] for name, weight in weights.items()}
        copies = {name: buffer.clone() for name, buffer in before.items()}
        return functional_call(Run(module), wrapped({**there, **copies}), (x,))

    assert_close(found, (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-6, atol=1e-8)


class Run(nn.Module):
    """`run` as a module."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return run(self.module, x)


def wrapped(tensors):
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


@seeds
def test_some_weights_may_be_shared(seed):
    network, x, weights = draw(seed)
    some = dict(list(weights.items())[seed % 2 :: 2])
    assert_close(run(network, x, some), looped(network, x, some), **TIGHT)


@seeds
@pytest.mark.parametrize("reference", [None, 4])
def test_gradients_of_images_and_weights(seed, reference):
    network, x, weights = draw(seed)
    plainly = network if reference is None else by_leading_rows(network, reference)
    inputs = [x.requires_grad_(), *(w.requires_grad_() for w in weights.values())]
    outputs = run(network, x, weights, reference=reference), looped(plainly, x, weights)
    found, expected = (torch.autograd.grad((out**3).sum(), inputs) for out in outputs)
    assert_close(found, expected, **TIGHT)


@pytest.mark.parametrize("normalization", ["transductive", "running"])
@pytest.mark.parametrize("size", [1, ROWS, 2 * ROWS + 1, 1000])
def test_how_many_rows_pass_at_once_does_not_matter(normalization, size, monkeypatch):
    network, x, weights = draw(0, normalization, tasks=5)
    twin = copy.deepcopy(network)
    expected = run(network, x, weights)
    monkeypatch.setattr(folded, "CACHED", size * x[0, 0].numel())
    assert_close(run(twin, x, weights), expected, **TIGHT)
    assert_close(twin.state_dict(), network.state_dict(), **TIGHT)


@seeds
@pytest.mark.parametrize("shared", [True, False], ids=["shared_weights", "own_weights"])
@plainness
def test_low_precision_stays_close(seed, shared, plain):
    """Under bfloat16 autocast, beside what torch's own layers make of it there."""
    network, x, weights = draw(seed, plain=plain)
    network, x = network.float(), x.float()
    weights = None if shared else {name: weight.float() for name, weight in weights.items()}
    exact = looped(network, x, weights)
    with torch.autocast("cpu", torch.bfloat16):
        low, plainly = run(network, x, weights), looped(network, x, weights)
    assert low.dtype == torch.float32
    error, usual = ((out - exact).norm() / exact.norm() for out in (low, plainly))
    assert error < max(2 * usual, 0.02) < 0.2


def test_vectors_between_rows_and_features():
    """Linear layers and batch norm over `[rows, C, L]`, and with weights of their own."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.Linear(3, 5), nn.BatchNorm1d(2))
    network = normalized(network.double(), "transductive")
    x = torch.randn(TASKS, ROWS, 4, dtype=torch.float64)
    weights = weights_of(network)
    assert_close(run(network, x, weights), looped(network, x, weights), **TIGHT)


class Functional(nn.Module):
    """Fixed filters, by way of functions and keywords."""

    def forward(self, x):
        blurred = F.conv2d(input=x, weight=x.new_ones(x.shape[1], 1, 3, 3) / 9, padding=1, groups=x.shape[1])
        whitened = F.batch_norm(blurred, None, None, training=True)
        return F.linear(whitened, weight=torch.eye(x.shape[-1], dtype=x.dtype).roll(1, 0))


def test_layers_without_weights_of_their_own():
    torch.manual_seed(0)
    network = nn.Sequential(Functional(), nn.Conv2d(2, 3, 3, padding_mode="circular", padding=1)).double()
    x, weights = torch.randn(TASKS, ROWS, 2, 5, 4, dtype=torch.float64), weights_of(network)
    assert_close(run(network, x, weights), looped(network, x, weights), **TIGHT)


@pytest.mark.parametrize(
    "layer",
    [nn.GroupNorm(1, 2), nn.LayerNorm(3), nn.Conv1d(1, 1, 1), nn.ConvTranspose2d(1, 1, 1), nn.PReLU()],
)
def test_what_cannot_be_folded(layer):
    assert not foldable(nn.Sequential(nn.Linear(2, 2), layer))
    assert not foldable(ToyBackbone(2, layer))


def test_a_kind_of_convolution_of_its_own_cannot_be_folded():
    class Standardized(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, self.bias, self.stride, self.padding)

    network = Standardized(2, 3, 3).double()
    assert not foldable(network)
    torch.manual_seed(0)
    x, weights = torch.randn(TASKS, ROWS, 2, 5, 4, dtype=torch.float64), weights_of(network)
    assert_close(run(network, x, weights), looped(network, x, weights), **TIGHT)


def test_layers_without_weights_fold():
    assert foldable(nn.Sequential(nn.LayerNorm(3, elementwise_affine=False), nn.BatchNorm2d(2, affine=False)))
    assert foldable(perceptron())


SMALL, SMALLER = TaskShape((1, 9, 8), 3), TaskShape((1, 5, 4), 3)
SPACES = {
    "chain": ({"layers": 3, "channels": (2, 4)}, SMALL),
    "darts": ({"channels": 2, "cells": 4}, SMALLER),
    "enas_macro": ({"channels": 2, "layers": 4}, SMALL),
    "enas_micro": ({"channels": 2, "blocks": 2}, SMALLER),
    "few_shot": ({"channels": 2, "stages": 2}, SMALL),
    "hierarchical": ({"channels": 2, "motifs": 2, "nodes": 3, "cell_nodes": 3}, SMALLER),
    "large_scale": ({"layers": 3, "channels": (2, 4)}, SMALL),
    "mobile": ({"stages": 1, "stem": 2, "widths": (2, 4)}, SMALL),
    "nasbench101": ({"channels": 2}, SMALL),
    "nasbench201": ({"channels": 2, "cells": 1}, SMALL),
    "nasnet": ({"channels": 2, "blocks": 2}, SMALLER),
    "natssize": ({"channels": (2, 3)}, SMALL),
    "resnet_like": ({"stages": 2, "channels": (2, 3)}, SMALL),
    "mlp": ({"widths": (0, 5, 8)}, TaskShape((4,), 2)),
}


def test_every_space_is_here():
    assert SPACES.keys() == installed("space").keys()


@pytest.mark.parametrize("name", rest_slow(SPACES, ("chain", "darts", "few_shot", "nasbench201", "mlp")))
def test_networks_of_every_space_fold(name):
    settings, shape = SPACES[name]
    space, rng = load("space", name)(**settings), np.random.default_rng(0)
    torch.manual_seed(0)
    for _ in range(12):
        try:
            backbone = space.build(space.sample(rng), shape)
        except Infeasible:
            continue
        network = Network(normalized(backbone, "transductive"), shape.outputs).double()
        x, weights = torch.randn(TASKS, ROWS, *shape.input, dtype=torch.float64), weights_of(network)
        assert foldable(network)
        assert_close(run(network, x, weights), looped(network, x, weights), **TIGHT)
        assert_close(
            run(network, x, weights, reference=4), looped(by_leading_rows(network, 4), x, weights), **TIGHT
        )
