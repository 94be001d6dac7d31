"""What networks are made of: the convolutional blocks and the backbone that the spaces share."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.counting import count_once
from nas.errors import Infeasible
from nas.space import Decision, Role, TaskShape
from search_spaces.cells import ABSENT, SKIP

ROLES = {ABSENT: Role.ABSENT, SKIP: Role.IDENTITY}
"""Of the operations that have one; in a reduction, a skip connection halves the map."""


def on_edge(name: str, operations: tuple[str, ...]) -> Decision:
    """Return the decision which operation an edge carries."""
    return Decision(name, operations, roles=tuple(map(ROLES.get, operations)))


@final
class Backbone(nn.Module):
    """A body with the width of its output: `[batch, *input]` to `[batch, out_features]`."""

    def __init__(self, body: nn.Module, out_features: int) -> None:
        super().__init__()
        self.body = body
        self.out_features = out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a batch."""
        features: Tensor = self.body(x)
        return features


@final
class AveragePool(nn.Module):
    """Average pooling of stride 1 that leaves padding out of its means; odd kernels keep the map's size.

    On a CPU it is a depthwise convolution with ones, divided by the number of pixels under the window:
    torch's pooling kernel takes several times as long there, backward most of all.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """Return the means."""
        if x.device.type != "cpu":
            return F.avg_pool2d(x, self.kernel, 1, self.kernel // 2, count_include_pad=False)
        # The counts have all of x's channels: in its memory format, no broadcast within a row.
        return self._sums(x) * self._sums(torch.ones_like(x[:1])).reciprocal()

    def _sums(self, x: Tensor) -> Tensor:
        window = x.new_ones(x.shape[1], 1, self.kernel, self.kernel)
        return F.conv2d(x, window, padding=self.kernel // 2, groups=x.shape[1])


@final
class MaxPool(nn.Module):
    """Max-pooling of windows side by side; a map smaller than a window is pooled whole."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """Return the maxima."""
        return F.max_pool2d(x, (min(self.kernel, x.shape[2]), min(self.kernel, x.shape[3])))


def image_channels(shape: TaskShape, space: str) -> int:
    """Return the channels of a task's images.

    Raises:
        Infeasible: the task's inputs are no images.
    """
    if len(shape.input) != 3:
        raise Infeasible(
            f"Space '{space}' needs images (channels, height, width); the inputs of these tasks have shape "
            f"{shape.input}. Choose tasks with images, or a space for vectors."
        )
    return shape.input[0]


def relu_conv_bn(channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return ReLU, convolution, batch norm; the map shrinks by the stride alone, rounded up."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def averaged(channels: int) -> list[nn.Module]:
    """Return how a body ends: batch norm, ReLU, and the mean over each map, `[B, channels]`."""
    return [count_once(nn.BatchNorm2d, channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def conv_bn_relu(channels: int, out_channels: int, kernel: tuple[int, int], stride: int) -> nn.Sequential:
    """Return convolution, batch norm, ReLU; the map shrinks by the stride alone, rounded up (odd kernels)."""
    height, width = kernel
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, kernel, stride, padding=(height // 2, width // 2), bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
