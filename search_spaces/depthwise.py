"""Depthwise convolution with fast gradients on a CPU.

oneDNN's gradients of a depthwise convolution are fast for windows of up to three columns without dilation,
and take up to 18 times as long for others. Here the others are put together out of fast ones. The gradient of
the map is, with stride 1, a convolution with the flipped windows, which takes half of oneDNN's own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FAST = 3
"""Columns of a window whose gradient oneDNN computes fast."""


class _Geometry(NamedTuple):
    """Of a square odd window, padded so that the map shrinks by the stride alone."""

    kernel: int
    stride: int
    dilation: int

    @property
    def padding(self) -> int:
        return self.dilation * (self.kernel // 2)


def depthwise(x: Tensor, layer: nn.Conv2d, *, subsampled: bool = False) -> Tensor:
    """Convolve each channel with its own window: `[B, C, H, W]` to `[B, C, ⌈H/stride⌉, ⌈W/stride⌉]`.

    Args:
        x: the map.
        layer: its geometry and weight; the window is square and odd, the padding keeps the map's size, there
            is no bias.
        subsampled: whether x is every other pixel of a map: a layer of stride 2 and dilation 2 sees no
            others.
    """
    stride, dilation = (1, 1) if subsampled else (layer.stride[0], layer.dilation[0])
    geometry = _Geometry(layer.kernel_size[0], stride, dilation)
    weight = layer.weight
    plain = weight.dim() == 4 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if plain and torch.is_grad_enabled():
        return _Depthwise.apply(x, weight, geometry)  # type: ignore[no-untyped-call,no-any-return]
    return torch.conv2d(x, weight, None, stride, geometry.padding, dilation, layer.groups)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return _convolved(x, weight, geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if torch.is_grad_enabled():  # the gradient is to be differentiated itself
            return *_gradients(gradient, x, weight, ctx.geometry, (needs[0], needs[1])), None
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = _of_input(gradient, x, weight, ctx.geometry) if needs[0] else None
        of_weight = _of_weight(gradient, x, weight, ctx.geometry) if needs[1] else None
        return of_x, of_weight, None


def _convolved(x: Tensor, weight: Tensor, geometry: _Geometry) -> Tensor:
    stride, dilation = geometry.stride, geometry.dilation
    return torch.conv2d(x, weight, None, stride, geometry.padding, dilation, len(weight))


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    stride, dilation, padding = ([n, n] for n in (geometry.stride, geometry.dilation, geometry.padding))
    of_x, of_weight, _ = torch.ops.aten.convolution_backward.default(
        gradient, x, weight, None, stride, padding, dilation, False, [0, 0], len(weight), [*needs, False]
    )
    return of_x, of_weight


def _of_input(gradient: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry) -> Tensor | None:
    if geometry.stride == 1:
        return _convolved(gradient, weight.flip(2, 3), geometry)
    return _gradients(gradient, x, weight, geometry, (True, False))[0]


def _of_weight(gradient: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry) -> Tensor | None:
    kernel, stride, dilation = geometry
    if (kernel <= _FAST and dilation == 1) or kernel not in (3, 5) or (dilation > 1 and stride > 1):
        return _gradients(gradient, x, weight, geometry, (False, True))[1]
    wide = kernel > _FAST
    # To the right of each row are zeros: shifted by a column in memory, it shows no pixel of another row.
    seen = _phases(x, dilation, 2 if wide else 0)
    above = _phases(gradient, dilation, 2 // stride if wide else 0)
    geometry = geometry._replace(dilation=1)
    if not wide:
        return _gradients(above, seen, weight, geometry, (False, True))[1]
    left, right = (_of_narrow(above, _shifted(seen, columns), geometry) for columns in (-1, 1))
    return torch.cat([left, right[..., 1:]], -1)


def _of_narrow(gradient: Tensor, x: Tensor, geometry: _Geometry) -> Tensor:
    """Return the gradient of a window of as many rows, but three columns."""
    weight, padding = x.new_empty(x.shape[1], 1, geometry.kernel, _FAST), [geometry.padding, 1]
    stride = [geometry.stride] * 2
    return torch.ops.aten.convolution_backward.default(  # type: ignore[no-any-return]
        gradient, x, weight, None, stride, padding, [1, 1], False, [0, 0], len(weight), [False, True, False]
    )[1]


def _phases(x: Tensor, dilation: int, columns: int) -> Tensor:
    """Return the maps that a dilated window sees, each by itself, with columns of zeros on the right.

    `[B, C, H, W]` to `[dilation² B, C, ⌈H/dilation⌉, ⌈W/dilation⌉ + columns]`, channels last, with a pixel of
    zeros before and after them in memory.
    """
    batch, channels, height, width = x.shape
    rows, across = -(-height // dilation), -(-width // dilation)
    if height % dilation or width % dilation:
        x = F.pad(x, (0, across * dilation - width, 0, rows * dilation - height))
    size = batch * dilation**2 * rows * (across + columns) * channels
    memory = x.new_zeros(size + 2 * channels)
    maps = memory[channels:-channels].view(batch, dilation, dilation, rows, across + columns, channels)
    parts = x.permute(0, 2, 3, 1).reshape(batch, rows, dilation, across, dilation, channels)
    maps[..., :across, :] = parts.permute(0, 2, 4, 1, 3, 5)
    return maps.flatten(0, 2).permute(0, 3, 1, 2)


def _shifted(x: Tensor, columns: int) -> Tensor:
    """Return a map of `_phases` one pixel further on in memory, or one before."""
    return x.as_strided(x.shape, x.stride(), x.storage_offset() + columns * x.shape[1])
