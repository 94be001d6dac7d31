"""Convolution with a weight per task, differentiable at the speed of the underlying kernels, twice too.

Convolution is bilinear: it, its two gradients and all of *their* gradients are three kernels (forward,
gradient of the input, gradient of the weight). torch's own second derivative rearranges some of them into
slower ones, such as a dilated convolution. Tasks become groups of one convolution, side by side in the
channels of a channels-last map, which oneDNN runs as fast as single ones and torch.vmap's layout does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class _Geometry(NamedTuple):
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve each task's images with its weight; parameters as of `torch.nn.functional.conv2d`.

    Args:
        x: images `[T·B, in, H, W]`, task by task.
        weight: `[T, out, in / groups, h, w]`.
        bias: `[T, out]`.
        stride: as torch has it, and so are the others.
        padding: zeros around the map.
        dilation: between the pixels under the window.
        groups: of channels.

    Returns:
        `[T·B, out, H', W']`, channels last.
    """
    dilation = _pair(dilation)
    if padding == "same":  # the odd pixel of an even window goes to the right and the bottom
        height, width = (d * (k - 1) for d, k in zip(dilation, weight.shape[3:], strict=True))
        x = F.pad(x, (width // 2, -(-width // 2), height // 2, -(-height // 2)))
    geometry = _Geometry(_pair(stride), _pair(0 if isinstance(padding, str) else padding), dilation, groups)
    if x.shape[1] == groups == 1 and not x.requires_grad:
        out = _patchwise(x, weight, geometry)
    else:
        out = _Convolution.apply(x, weight, geometry)  # type: ignore[no-untyped-call]
    if bias is None:
        return out
    by_task = out.view(len(weight), -1, *out.shape[1:]) + bias[:, None, :, None, None]
    return by_task.flatten(0, 1)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _patchwise(x: Tensor, weight: Tensor, geometry: _Geometry) -> Tensor:
    """Convolve images of one channel, which the kernels are slow at, as a product of matrices."""
    tasks, stride, padding, dilation = len(weight), *geometry[:3]
    patches = F.unfold(x, weight.shape[3:], dilation, padding, stride)
    rows = patches.mT.reshape(tasks, -1, patches.shape[1])
    out = rows @ weight.flatten(2).mT
    height = (x.shape[2] + 2 * padding[0] - dilation[0] * (weight.shape[3] - 1) - 1) // stride[0] + 1
    return out.view(len(x), height, -1, weight.shape[1]).permute(0, 3, 1, 2)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: _Geometry) -> Tensor:
        tasks = len(weight)
        sides, joint = _side_by_side(x, tasks), weight.flatten(0, 1)
        ctx.save_for_backward(x, sides, weight, joint)
        ctx.geometry = geometry
        return _one_by_one(_forward(sides, joint, geometry, tasks), tasks)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needs = (*ctx.needs_input_grad[:2], False)
        found = _Gradients.apply(gradient, *ctx.saved_tensors, ctx.geometry, needs)  # type: ignore[no-untyped-call]
        return (*found, None)


class _Gradients(torch.autograd.Function):
    """The gradients of a convolution as a function of the output's gradient, the input and the weight."""

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        x: Tensor,
        sides: Tensor,
        weight: Tensor,
        joint: Tensor,
        geometry: _Geometry,
        needs: tuple[bool, ...],
    ) -> tuple[Tensor | None, Tensor | None]:
        tasks = len(weight)
        above = _side_by_side(gradient, tasks)
        ctx.save_for_backward(gradient, x, sides, weight, joint)
        ctx.geometry, ctx.tasks = geometry, tasks
        ctx.set_materialize_grads(False)
        of_x, of_weight = _backward(above, sides, joint, geometry, tasks, needs)
        return (
            None if of_x is None else _one_by_one(of_x, tasks),
            None if of_weight is None else of_weight.view(tasks, -1, *of_weight.shape[1:]),
        )

    @staticmethod
    def backward(ctx: Any, of_x: Tensor | None, of_weight: Tensor | None) -> tuple[Tensor | None, ...]:
        gradient, x, sides, weight, joint = ctx.saved_tensors
        geometry, tasks = ctx.geometry, ctx.tasks
        above = _side_by_side(gradient, tasks)
        if torch.is_grad_enabled():  # to be differentiated itself: what was computed within has no graph
            sides, joint = _side_by_side(x, tasks), weight.flatten(0, 1)
        wants_gradient, wants_x, _, wants_weight = ctx.needs_input_grad[:4]
        to_gradient = to_x = to_weight = None
        if of_x is not None:
            below = _side_by_side(of_x, tasks)
            if wants_gradient:
                to_gradient = _forward(below, joint, geometry, tasks)
            if wants_weight:
                to_weight = _backward(above, below, joint, geometry, tasks, (False, True, False))[1]
        if of_weight is not None:
            of_joint = of_weight.flatten(0, 1)
            if wants_gradient:
                more = _forward(sides, of_joint, geometry, tasks)
                to_gradient = more if to_gradient is None else to_gradient.add_(more)
            if wants_x:
                to_x = _backward(above, sides, of_joint, geometry, tasks, (True, False, False))[0]
        return (
            None if to_gradient is None else _one_by_one(to_gradient, tasks),
            None if to_x is None else _one_by_one(to_x, tasks),
            *(
                None,
                None if to_weight is None else to_weight.view(tasks, -1, *to_weight.shape[1:]),
                None,
                None,
                None,
            ),
        )


def _side_by_side(x: Tensor, tasks: int) -> Tensor:
    """Return `[T·B, C, H, W]` as `[B, T·C, H, W]`, channels last."""
    if tasks == 1:
        return x.contiguous(memory_format=torch.channels_last)
    last = x.permute(0, 2, 3, 1).reshape(tasks, -1, *x.shape[2:], x.shape[1])
    return last.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)


def _one_by_one(x: Tensor, tasks: int) -> Tensor:
    """Return `[B, T·C, H, W]` as `[T·B, C, H, W]`, channels last."""
    if tasks == 1:
        return x
    last = x.permute(0, 2, 3, 1).reshape(len(x), *x.shape[2:], tasks, -1)
    return last.permute(3, 0, 1, 2, 4).flatten(0, 1).permute(0, 3, 1, 2)


def _forward(x: Tensor, weight: Tensor, geometry: _Geometry, tasks: int) -> Tensor:
    stride, padding, dilation, groups = geometry
    return torch.convolution(x, weight, None, stride, padding, dilation, False, (0, 0), groups * tasks)


def _backward(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry, tasks: int, needs: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    stride, padding, dilation, groups = geometry
    of_x, of_weight, _ = torch.ops.aten.convolution_backward.default(
        gradient, x, weight, None, stride, padding, dilation, False, (0, 0), groups * tasks, needs
    )
    return of_x, of_weight
