"""Batch normalization (Ioffe & Szegedy 2015) whose statistics belong to a task, with fast second derivatives.

The second derivative is written down: it needs two more sums per channel, and is a linear combination of
three maps with a coefficient per channel. torch's takes some thirty passes over the maps, and its
channels-last kernel on a CPU adds up in an order that loses digits. Higher ones are torch's, of that formula.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def normalize(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, tasks: int, reference: int | None = None
) -> Tensor:
    """Normalize each task's rows by the mean and variance of its own, channel by channel.

    Args:
        x: `[T·B, C, …]`, task by task.
        weight: `[T, C]`, or `[1, C]` where tasks share it.
        bias: like `weight`.
        eps: added to the variance.
        tasks: T.
        reference: take the statistics from so many leading rows of each task's B; default: from all.
    """
    if reference is None:
        return _Normalize.apply(x, weight, bias, eps, tasks)  # type: ignore[no-untyped-call,no-any-return]
    rows = _rows(x, tasks)
    seen = _leading(rows, x, reference)
    mean = seen.mean(1, keepdim=True)
    variance = ((seen - mean) ** 2).mean(1, keepdim=True)
    scale = weight[:, None] * (variance + eps).rsqrt()
    return _shaped((rows - mean) * scale + bias[:, None], x)


def scale_and_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return `[T·B, C, …]` times each task's scale `[T, C]`, plus its shift."""
    return _shaped(torch.addcmul(shift[:, None], _rows(x, len(scale)), scale[:, None]), x)


def statistics(x: Tensor, tasks: int, reference: int | None = None) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased variance `[C]` of `[T·B, C, …]`, averaged over tasks; see `normalize`."""
    seen = _rows(x, tasks)
    if reference is not None:
        seen = _leading(seen, x, reference)
    seen = seen.to(torch.promote_types(seen.dtype, torch.float32))
    return seen.mean((0, 1)), seen.var(1).mean(0)


def _rows(x: Tensor, tasks: int) -> Tensor:
    """Return `[T·B, C, …]` as `[T, R, C]`: a view, where channels come last in memory."""
    return x.movedim(1, -1).reshape(tasks, -1, x.shape[1])


def _leading(rows: Tensor, x: Tensor, count: int) -> Tensor:
    """Return the rows `[T, R, C]` that the first `count` of each task's B in x make."""
    return rows[:, : count * rows.shape[0] * rows.shape[1] // len(x)]


def _shaped(rows: Tensor, x: Tensor) -> Tensor:
    """Return `[T, R, C]` in the shape of x."""
    return rows.view(len(x), *x.shape[2:], x.shape[1]).movedim(-1, 1)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, tasks: int) -> Tensor:
        rows = _rows(x, tasks)
        centered = rows - rows.mean(1, keepdim=True)
        inverse = (_mean(centered, centered) + eps).rsqrt()
        ctx.save_for_backward(x, centered, inverse, weight)
        ctx.save_for_forward(x, centered, inverse, weight)
        ctx.eps = eps
        return _shaped(torch.addcmul(bias[:, None], centered, weight[:, None] * inverse), x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found = _Gradients.apply(gradient, *ctx.saved_tensors, ctx.eps)  # type: ignore[no-untyped-call]
        return (*found, None, None)

    @staticmethod
    def jvp(
        ctx: Any, of_x: Tensor | None, of_weight: Tensor | None, of_bias: Tensor | None, *_: None
    ) -> Tensor:
        x, centered, s, weight = ctx.saved_tensors
        u = torch.zeros_like(centered) if of_x is None else _rows(of_x, len(centered))
        zero = torch.zeros_like(weight)
        of_weight = zero if of_weight is None else of_weight
        of_bias = zero if of_bias is None else of_bias
        return _shaped(_along(u, of_weight, of_bias, centered, s, weight), x)


class _Gradients(torch.autograd.Function):
    """The gradients as a function of the output's gradient g, the input x and the weight w.

    With x̂ the normalized rows, s the inverse deviation and ⟨a, b⟩ a mean over rows:
    ∂x = w s (g − ⟨g⟩ − x̂ ⟨g, x̂⟩), ∂w = R ⟨g, x̂⟩, ∂b = R ⟨g⟩.
    """

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, x: Tensor, centered: Tensor, inverse: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        tasks, count = centered.shape[:2]
        rows = _rows(gradient, tasks)
        mean = rows.mean(1, keepdim=True)
        along = _mean(rows, centered) * inverse
        scale = weight[:, None] * inverse
        ctx.save_for_backward(gradient, centered, inverse, weight, mean, along, x)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        of_x = torch.addcmul(-scale * mean, centered, -scale * inverse * along).addcmul_(rows, scale)
        return _shaped(of_x, x), _like(count * along, weight), _like(count * mean, weight)

    @staticmethod
    def backward(
        ctx: Any, of_x: Tensor | None, of_weight: Tensor | None, of_bias: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gradient, centered, s, weight, mean_g, along_g, x = ctx.saved_tensors
        g = _rows(gradient, len(centered))
        if torch.is_grad_enabled():  # to be differentiated itself: what was computed within has no graph
            rows = _rows(x, len(g))
            centered = rows - rows.mean(1, keepdim=True)
            s = (_mean(centered, centered) + ctx.eps).rsqrt()
            mean_g, along_g = g.mean(1, keepdim=True), _mean(g, centered) * s
        w, zero = weight[:, None], torch.zeros_like(mean_g)
        of_weight = zero if of_weight is None else of_weight[:, None]
        of_bias = zero if of_bias is None else of_bias[:, None]
        u = torch.zeros_like(g) if of_x is None else _rows(of_x, len(g))
        mean_u, along_u = u.mean(1, keepdim=True), _mean(u, centered) * s
        both = _mean(u, g) - mean_u * mean_g - along_u * along_g
        to_g = torch.addcmul(of_bias - w * s * mean_u, centered, s * (of_weight - w * s * along_u))
        to_g.addcmul_(u, w * s)
        # h, the gradient of x̂, is u·a + g·b; what flows through s besides follows x̂.
        a, b = -w * s * along_g, of_weight - w * s * along_u
        mean_h = a * mean_u + b * mean_g
        along_h = a * along_u + b * along_g
        to_x = torch.addcmul(-s * mean_h, centered, -s * s * (along_h + w * s * both))
        to_x.addcmul_(u, s * a).addcmul_(g, s * b)
        to_weight = _like(g.shape[1] * s * both, weight)
        return _shaped(to_g, x), _shaped(to_x, x), None, None, to_weight, None


def _along(
    u: Tensor, of_weight: Tensor, of_bias: Tensor, centered: Tensor, s: Tensor, weight: Tensor
) -> Tensor:
    """Return how the output moves with the rows along u, and with the weight and the bias: `[T, R, C]`."""
    scale = weight[:, None] * s
    slope = s * (of_weight[:, None] - scale * _mean(u, centered) * s)
    shift = of_bias[:, None] - scale * u.mean(1, keepdim=True)
    return torch.addcmul(shift, centered, slope).addcmul_(u, scale)


def _mean(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).mean(1, keepdim=True)


def _like(per_task: Tensor, weight: Tensor) -> Tensor:
    """Return `[T, 1, C]` as `[T, C]`, summed over tasks where these share the weight."""
    return per_task.sum(0) if len(weight) == 1 else per_task[:, 0]
