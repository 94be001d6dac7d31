"""The operations of DARTS and NASNet: separable and dilated convolutions, pooling, factorized reduction."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.operations import AveragePool, relu_conv_bn

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""In the order of the paper's code (Liu et al. 2019, §3.1.1)."""

WEIGHTLESS = ("max_pool_3x3", "avg_pool_3x3")
"""Operations that compute the same wherever they see the same."""


def operation(name: str, channels: int, stride: int = 1) -> nn.Module:
    """Return a fresh operation: `[B, channels, H, W]` to `[B, channels, ⌈H/stride⌉, ⌈W/stride⌉]`.

    Convolutions see their input through a ReLU and end in batch norm; pooling has neither. A skip connection
    is the identity with stride 1 and a factorized reduction with stride 2.
    """
    kernel = int(name[-1]) if name[-1].isdigit() else 1
    match name:
        case "max_pool_3x3" | "max_pool_5x5" | "max_pool_7x7":
            return nn.MaxPool2d(kernel, stride, padding=kernel // 2)
        case "avg_pool_3x3":
            return AveragePool(3) if stride == 1 else nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        case "skip_connect":
            return nn.Identity() if stride == 1 else FactorizedReduction(channels, channels)
        case "sep_conv_3x3" | "sep_conv_5x5" | "sep_conv_7x7":
            return nn.Sequential(
                *relu_separable_bn(channels, kernel, stride), *relu_separable_bn(channels, kernel)
            )
        case "dil_conv_3x3" | "dil_conv_5x5":
            return relu_separable_bn(channels, kernel, stride, dilation=2)
        case _:
            raise ValueError(f"No module for operation '{name}'.")


def relu_separable_bn(channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return ReLU, depthwise and pointwise convolution, batch norm; the map shrinks by the stride alone."""
    reach = dilation * (kernel // 2)
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, reach, dilation=dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


@final
class FactorizedReduction(nn.Module):
    """Half the map's size without pooling: `[B, C, H, W]` to `[B, out, ⌈H/2⌉, ⌈W/2⌉]`.

    ReLU, two pointwise convolutions of stride 2 that see every other pixel, the second one pixel further down
    and right, side by side in the channels, and batch norm. A row or column that an odd map lacks is zero.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.even = nn.Conv2d(channels, half, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(channels, out_channels - half, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map at half the size."""
        x = F.relu(x)
        height, width = x.shape[2:]
        shifted = F.pad(x, (0, width % 2, 0, height % 2))[:, :, 1:, 1:]
        y: Tensor = self.norm(torch.cat([self.even(x), self.odd(shifted)], 1))
        return y


def preprocessing(channels: int, out_channels: int, *, halve: bool) -> nn.Module:
    """Return what fits an earlier cell's map to a cell: to its channels, and to half the size if `halve`."""
    if halve:
        return FactorizedReduction(channels, out_channels)
    return relu_conv_bn(channels, out_channels, 1)
