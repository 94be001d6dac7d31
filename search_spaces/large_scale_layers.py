"""The networks of large-scale evolution (Real et al., ICML 2017, §3.2): layers in a row, with skip edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import torch.nn.functional as F
from torch import Tensor, nn

from nas.counting import count_once

IDENTITY = "identity"
"""The edge into a layer that changes nothing."""

RELU, LINEAR = "relu", "linear"


class GrownLayer(NamedTuple):
    """An edge from the value before, and what becomes of the sum of it and of skip edges.

    Attributes:
        kind: `relu`, for batch norm and ReLU, or `linear`, for nothing.
        edge: `identity`, or a convolution such as `3x3`.
        stride: of the edge.
        channels: of the convolution; an identity keeps those of its source.
        skips: earlier values that are added, numbered from the image, 0; the value before is none of them.
    """

    kind: str
    edge: str
    stride: int
    channels: int
    skips: tuple[int, ...] = ()

    def __str__(self) -> str:
        skips = "@" + "+".join(map(str, self.skips)) if self.skips else ""
        return f"{self.kind}:{self.edge}/{self.stride}:{self.channels}{skips}"


def widths(layers: Sequence[GrownLayer], in_channels: int) -> list[int]:
    """Return the channels of each value, the image first."""
    found = [in_channels]
    for layer in layers:
        found.append(found[-1] if layer.edge == IDENTITY else layer.channels)
    return found


def reshaped(x: Tensor, like: Tensor) -> Tensor:
    """Return a map in the shape of another: by nearest pixels, cut or padded with channels of zeros."""
    if x.shape[2:] != like.shape[2:]:
        x = F.interpolate(x, like.shape[2:], mode="nearest")
    missing = like.shape[1] - x.shape[1]
    return F.pad(x, (0, 0, 0, 0, 0, missing)) if missing > 0 else x[:, : like.shape[1]]


@final
class Grown(nn.Module):
    """A layer: the value before and skipped ones to a map."""

    def __init__(self, layer: GrownLayer, in_channels: int, channels: int) -> None:
        super().__init__()
        self.stride = layer.stride
        kernel = 0 if layer.edge == IDENTITY else int(layer.edge[0])
        self.convolution = (
            nn.Conv2d(in_channels, channels, kernel, layer.stride, kernel // 2, bias=False)
            if kernel
            else None
        )
        self.norm = nn.BatchNorm2d(channels) if layer.kind == RELU else None

    def forward(self, x: Tensor, skipped: Sequence[Tensor]) -> Tensor:
        """Return the layer's map."""
        y: Tensor = (
            x[:, :, :: self.stride, :: self.stride] if self.convolution is None else self.convolution(x)
        )
        for other in skipped:
            y = y + reshaped(other, y)
        return y if self.norm is None else self.norm(y).relu()


@final
class GrownNetwork(nn.Module):
    """Layers in a row, averaged over the last map: `[B, in, H, W]` to `[B, out_features]`.

    Batch norm brings the last map to one scale, unless it comes from one.
    """

    def __init__(self, layers: Sequence[GrownLayer], in_channels: int) -> None:
        super().__init__()
        channels = widths(layers, in_channels)
        self.skips = tuple(layer.skips for layer in layers)
        self.layers = nn.ModuleList(
            count_once(Grown, layer, channels[i], channels[i + 1]) for i, layer in enumerate(layers)
        )
        self.out_features = channels[-1]
        self.norm = None if layers and layers[-1].kind == RELU else nn.BatchNorm2d(channels[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a batch."""
        values = [x]
        for layer, skips in zip(self.layers, self.skips, strict=True):
            values.append(layer(values[-1], [values[skip] for skip in skips]))
        last = values[-1] if self.norm is None else self.norm(values[-1])
        return last.mean((2, 3))
