"""A weighted sum of maps, some of which pass a pointwise convolution and batch norm on their way.

See `search_spaces.mixed.pointwise`: convolution, batch norm, weighting and sum are one product of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from search_spaces.mixed.pointwise import (
    Convolved,
    MatrixProduct,
    Pointwise,
    as_map,
    by_task,
    differentiable,
    normalized,
    usable,
)


class Plain(NamedTuple):
    """A map and its weight, a scalar."""

    x: Tensor
    weight: Tensor

    def by_modules(self) -> Tensor:
        """Return the weighted map."""
        return self.weight * self.x


def weighted_sum(terms: Sequence[Convolved | Plain]) -> Tensor:
    """Return the sum of maps of one size: `[B, out, H, W]`.

    Args:
        terms: one at least; the convolved maps have equal channels, and all kernels or none are one a task.
    """
    tasks = usable(terms[0].x)
    if tasks is None:
        return sum((term.by_modules() for term in terms[1:]), terms[0].by_modules())
    plain = [term for term in terms if isinstance(term, Plain)]
    convolved = [term for term in terms if isinstance(term, Convolved)]
    one = terms[0].x.new_ones(())
    inputs = (
        *(term.x for term in plain),
        *(term.weight for term in plain),
        *(term.x for term in convolved),
        *(term.kernel for term in convolved),
        *(one if term.weight is None else term.weight for term in convolved),
    )
    eps = [term.eps for term in convolved]
    return _WeightedSum.apply(tasks, len(plain), eps, *inputs)  # type: ignore[no-untyped-call,no-any-return]


class _Split(NamedTuple):
    """The inputs by their roles."""

    maps: Sequence[Tensor]
    weights: Sequence[Tensor]
    sources: Sequence[Tensor]
    kernels: Sequence[Tensor]
    scales: Sequence[Tensor]


def _split(inputs: Sequence[Tensor], plain: int) -> _Split:
    parts = (len(inputs) - 2 * plain) // 3
    ends = [0, plain, 2 * plain, 2 * plain + parts, 2 * plain + 2 * parts, len(inputs)]
    return _Split(*(inputs[a:b] for a, b in pairwise(ends)))


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tasks: int, plain: int, eps: Sequence[float], *inputs: Tensor) -> Tensor:
        maps, weights, sources, kernels, scales = _split(inputs, plain)
        like = (*maps, *sources)[0]
        ctx.settings = tasks, plain, eps
        if sources:
            ctx.pointwise = Pointwise(tasks, sources, kernels, scales, eps)
            rows = [by_task(d, tasks) for d in sources]
            shift = ctx.pointwise.shifts().sum(0, keepdim=True)
            product = MatrixProduct(rows[0].shape[1], shift.shape[2], shift)
            factors = product.factors(ctx.pointwise.factors())
            out = as_map(product.sum(0, list(zip(rows, factors, strict=True))), like)
        else:
            out = torch.zeros_like(like, memory_format=torch.channels_last)
        for x, weight in zip(maps, weights, strict=True):
            out.add_(x, alpha=float(weight))
        ctx.save_for_backward(*inputs)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, plain = ctx.saved_tensors, ctx.settings[1]
        if torch.is_grad_enabled():  # the gradient is to be differentiated itself
            written_out = partial(_written_out, ctx.settings)
            needs = ctx.needs_input_grad[3:]
            return None, None, None, *differentiable(written_out, inputs, needs, [gradient])
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        maps, weights, sources, _, _ = _split(inputs, plain)
        of_maps = [weight * gradient for weight in weights]
        of_weights = [torch.dot(_flat(gradient), _flat(x)) for x in maps]
        found: tuple[Tensor, ...] = ()
        if sources:
            of_sources, of_kernels, of_scales = ctx.pointwise.gradients([gradient], sources)
            found = *of_sources, *of_kernels, *of_scales
        return None, None, None, *of_maps, *of_weights, *found


def _written_out(settings: tuple[int, int, Sequence[float]], inputs: Sequence[Tensor]) -> list[Tensor]:
    tasks, plain, eps = settings
    maps, weights, sources, kernels, scales = _split(inputs, plain)
    total = [weight * x for weight, x in zip(weights, maps, strict=True)]
    for source, kernel, scale, e in zip(sources, kernels, scales, eps, strict=True):
        total.append(scale * normalized(source, kernel, e, tasks))
    return [sum(total[1:], total[0])]


def _flat(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1)
