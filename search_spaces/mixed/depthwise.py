"""Depthwise convolutions with fast gradients on a CPU.

oneDNN's gradients of a depthwise convolution are fast for windows of up to three columns without dilation, on
maps with as many rows as the window, and take up to 18 times as long for others. Here the others are put
together out of fast ones. The gradient of the map is, with stride 1, a convolution with the flipped windows,
which takes half of oneDNN's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def depthwise(x: Tensor, layers: Sequence[nn.Conv2d], *, subsampled: bool = False) -> list[Tensor]:
    """Convolve each channel with its own window: `[B, C, H, W]` to `[B, C, ⌈H/stride⌉, ⌈W/stride⌉]` a layer.

    Args:
        x: the map.
        layers: their geometry and weight; windows are square and odd, the padding keeps the map's size, there
            is no bias.
        subsampled: whether x is every other pixel of a map: a layer of stride 2 and dilation 2 sees no
            others.
    """
    geometries = [
        _Geometry(layer.kernel_size[0], *((1, 1) if subsampled else (layer.stride[0], layer.dilation[0])))
        for layer in layers
    ]
    weights = [layer.weight for layer in layers]
    plain = weights[0].dim() == 4 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if plain and torch.is_grad_enabled():
        return list(_Depthwise.apply(x, geometries, *weights))  # type: ignore[no-untyped-call]
    return [
        torch.conv2d(x, weight, None, geometry.stride, geometry.padding, geometry.dilation, layer.groups)
        for weight, geometry, layer in zip(weights, geometries, layers, strict=True)
    ]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, geometries: Sequence[_Geometry], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        ctx.geometries = geometries
        ctx.set_materialize_grads(False)
        pairs = zip(weights, geometries, strict=True)
        return tuple(_convolved(x, weight, geometry) for weight, geometry in pairs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        of_x, of_weights, seen = None, list[Tensor | None](), _Phases(x)
        wants_x, _, *wants = ctx.needs_input_grad
        for gradient, weight, geometry, wanted in zip(gradients, weights, ctx.geometries, wants, strict=True):
            if gradient is None:
                of_weights.append(None)
                continue
            if torch.is_grad_enabled():  # the gradient is to be differentiated itself
                part, of_weight = _gradients(gradient, x, weight, geometry, (wants_x, wanted))
            else:
                gradient = gradient.contiguous(memory_format=torch.channels_last)
                part = _of_input(gradient, x, weight, geometry) if wants_x else None
                of_weight = _of_weight(gradient, seen, weight, geometry) if wanted else None
            of_weights.append(of_weight)
            if part is not None:
                of_x = part if of_x is None else of_x + part if torch.is_grad_enabled() else of_x.add_(part)
        return of_x, None, *of_weights


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


class _Phases:
    """The maps that dilated windows see of one map, each by itself.

    `[B, C, H, W]` becomes `[dilation² B, C, rows, ⌈W/dilation⌉ + columns]`, channels last, where rows is
    ⌈H/dilation⌉, or `least` if that is more: zeros below and to the right, and a pixel of zeros before and
    after them in memory.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self._made = dict[tuple[int, int, int], Tensor]()

    def __call__(self, dilation: int, least: int, columns: int) -> Tensor:
        key = dilation, least, columns
        if key not in self._made:
            self._made[key] = _phases(self.x, *key)
        return self._made[key]


def _phases(x: Tensor, dilation: int, least: int, columns: int) -> Tensor:
    batch, channels, height, width = x.shape
    down, across = -(-height // dilation), -(-width // dilation)
    if height % dilation or width % dilation:
        x = F.pad(x, (0, across * dilation - width, 0, down * dilation - height))
    shape = batch, dilation, dilation, max(down, least), across + columns, channels
    memory = x.new_empty(math.prod(shape) + 2 * channels)
    memory[:channels] = memory[-channels:] = 0
    maps = memory[channels:-channels].view(shape)
    parts = x.permute(0, 2, 3, 1).reshape(batch, down, dilation, across, dilation, channels)
    maps[..., :down, :across, :] = parts.permute(0, 2, 4, 1, 3, 5)
    if columns:
        maps[..., across:, :] = 0
    if least > down:
        maps[..., down:, :, :] = 0
    return maps.flatten(0, 2).permute(0, 3, 1, 2)


def _of_weight(gradient: Tensor, seen: _Phases, weight: Tensor, geometry: _Geometry) -> Tensor | None:
    kernel, stride, dilation = geometry
    wide, low = kernel > _FAST, -(-seen.x.shape[2] // dilation) < kernel
    if not (wide or low or dilation > 1) or kernel not in (3, 5) or (dilation > 1 and stride > 1):
        return _gradients(gradient, seen.x, weight, geometry, (False, True))[1]
    # To the right of each row are zeros: shifted by a column in memory, it shows no pixel of another row.
    least = kernel if low else 0
    below = seen(dilation, least, 2 if wide else 0)
    above = _phases(gradient, dilation, -(-least // stride), 2 // stride if wide else 0)
    geometry = geometry._replace(dilation=1)
    if not wide:
        return _gradients(above, below, weight, geometry, (False, True))[1]
    left, right = (_of_narrow(above, _shifted(below, columns), geometry) for columns in (-1, 1))
    return torch.cat([left, right[..., 1:]], -1)


def _of_narrow(gradient: Tensor, x: Tensor, geometry: _Geometry) -> Tensor:
    """Return the gradient of a window of as many rows, but three columns."""
    weight, padding = x.new_empty(x.shape[1], 1, geometry.kernel, _FAST), [geometry.padding, 1]
    stride = [geometry.stride] * 2
    return torch.ops.aten.convolution_backward.default(  # type: ignore[no-any-return]
        gradient, x, weight, None, stride, padding, [1, 1], False, [0, 0], len(weight), [False, True, False]
    )[1]


def _shifted(x: Tensor, columns: int) -> Tensor:
    """Return a map of `_Phases` one pixel further on in memory, or one before."""
    return x.as_strided(x.shape, x.stride(), x.storage_offset() + columns * x.shape[1])
