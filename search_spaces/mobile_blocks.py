"""Inverted bottlenecks (Sandler et al., CVPR 2018), with squeeze and excitation (Howard et al. 2019)."""

from __future__ import annotations

from typing import NamedTuple, final

from torch import Tensor, nn

REDUCTION = 4
"""How many times fewer channels a squeeze has than what it weighs."""


class BlockPlan(NamedTuple):
    """An inverted bottleneck: kernel, expansion, and whether it squeezes and excites."""

    kernel: int
    expansion: int
    squeeze: int


class StagePlan(NamedTuple):
    """A stage: the channels of its blocks, of which the first halves the map, and the blocks."""

    channels: int
    blocks: tuple[BlockPlan, ...]


def squeezed(hidden: int) -> int:
    """Return the channels of the squeeze of so many hidden channels."""
    return max(1, hidden // REDUCTION)


@final
class SqueezeExcite(nn.Module):
    """Weighs channels by what the map's mean says of them: `[B, C, H, W]` to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed(channels), 1)
        self.excite = nn.Conv2d(squeezed(channels), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighed map."""
        y: Tensor = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return y


@final
class InvertedBottleneck(nn.Module):
    """A 1×1 convolution to more channels, a depthwise one, and a 1×1 convolution to fewer.

    Each has batch norm. The first two end in ReLU6, and the last in nothing. With stride 1 and equal
    channels the input is added.
    """

    def __init__(self, channels: int, out_channels: int, plan: BlockPlan, stride: int) -> None:
        super().__init__()
        hidden = channels * plan.expansion
        self.body = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, plan.kernel, stride, plan.kernel // 2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            *([SqueezeExcite(hidden)] if plan.squeeze else []),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.adds = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map."""
        y: Tensor = self.body(x)
        return x + y if self.adds else y
