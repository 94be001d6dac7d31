"""Small networks at random, to hold fast code against slow."""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from torch import Tensor, nn

from nas.space import TaskShape
from nas.tasks.base import Episode
from nas.testing.learners import ToyBackbone


class Residual(nn.Module):
    """The input plus what a module makes of it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape."""
        out: Tensor = x + self.module(x)
        return out


class Concatenated(nn.Module):
    """The input and what a module makes of it, side by side in the channels."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Return `[batch, more channels, H, W]`."""
        return torch.cat([x, self.module(x)], 1)


class Scaled(nn.Module):
    """A layer of its own kind, with a weight for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape."""
        return x * self.scale


def randomized(module: nn.Module, seed: int) -> nn.Module:
    """Give a module random weights and statistics, in place, in float64 and in evaluation mode.

    So two modules of one kind compute apart, and none is the identity: statistics lie in [0.5, 1.5], weights
    and biases in [-0.4, 0.6].
    """
    torch.manual_seed(seed)
    module.double().eval()
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    for weight in module.parameters():
        weight.data.sub_(0.9)
    return module


def draw_network(seed: int, *, plain: bool = True) -> tuple[ToyBackbone, TaskShape]:
    """Draw a network in float64, and the images that it is for: every kind of layer, geometry at random.

    Convolutions have windows, strides, paddings, dilations, groups and biases at random; one is depthwise,
    one in a residual branch, one concatenated to its input. Batch norms have maps and vectors, with and
    without weights.

    Args:
        seed: of layers and weights; torch's generator stays as it is.
        plain: whether every weight is that of a convolution, a linear layer or a batch norm; otherwise some
            belong to a group norm, and to a layer of its own kind.
    """
    draw = Random(seed)
    channels, wide = draw.choice([1, 2, 4]), 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = nn.Conv2d(
            channels,
            wide,
            (draw.choice([2, 3]), draw.choice([1, 3])),
            stride=(draw.choice([1, 2]), 1),
            padding=draw.choice([(0, 0), (1, 1), (1, 2)]),
            dilation=draw.choice([1, 2]),
            groups=draw.choice([groups for groups in (1, 2) if channels % groups == 0]),
            bias=draw.random() < 0.5,
        )
        depthwise = nn.Conv2d(wide, wide, (3, draw.choice([1, 3])), padding="same", groups=wide)
        branch = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=draw.choice([1, 2])),
            nn.BatchNorm2d(wide, affine=draw.random() < 0.5),
            nn.Tanh(),
        )
        beside = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(wide, 2, 1, bias=False))
        odd = () if plain else (nn.GroupNorm(2, wide + 2), Scaled(wide + 2))
        backbone = ToyBackbone(
            5,
            *(first, nn.BatchNorm2d(wide), draw.choice([nn.ReLU(), nn.Softplus()])),
            *(depthwise, Residual(branch), Concatenated(beside), *odd),
            *(nn.Conv2d(wide + 2, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), nn.Tanh()),
            *(draw.choice([nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2)]), nn.Flatten()),
            *(nn.Linear(12, 5, bias=draw.random() < 0.5), nn.BatchNorm1d(5), nn.Softplus()),
        ).double()
        for layer in backbone.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.uniform_(layer.bias, -0.5, 0.5)
    return backbone, TaskShape((channels, draw.randint(7, 9), draw.randint(7, 9)), 3)


def draw_tasks(shape: TaskShape, tasks: int, *, shots: int = 2, queries: int = 2, seed: int = 0) -> Episode:
    """Draw tasks in float64 whose classes are so many images of noise."""
    generator = torch.Generator().manual_seed(seed)
    ways = shape.outputs

    def draw(number: int) -> tuple[Tensor, Tensor]:
        size = (tasks, ways * number, *shape.input)
        images = torch.randn(size, dtype=torch.float64, generator=generator)
        return images, torch.arange(ways).repeat_interleave(number).expand(tasks, -1)

    return Episode(*draw(shots), *draw(queries), ways, shots, np.zeros((tasks, ways), np.int64))
