"""The ReLUs of maps that pass a pointwise convolution and batch norm on their way, several at once.

See `search_spaces.pointwise`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def rectified(terms: Sequence[Convolved]) -> list[Tensor]:
    """Return each map's result, without the negative: `[B, out, H, W]`.

    Args:
        terms: maps of one size and without weights; all kernels or none are one a task.
    """
    tasks = usable(terms[0].x)
    if tasks is None:
        return [term.by_modules().relu() for term in terms]
    inputs = (*(term.x for term in terms), *(term.kernel for term in terms))
    return list(_Rectified.apply(tasks, [term.eps for term in terms], *inputs))  # type: ignore[no-untyped-call]


class _Rectified(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tasks: int, eps: Sequence[float], *inputs: Tensor) -> tuple[Tensor, ...]:
        sources, kernels = inputs[: len(eps)], inputs[len(eps) :]
        ctx.settings = tasks, eps
        ctx.pointwise = Pointwise(tasks, sources, kernels, (), eps)
        shifts = ctx.pointwise.shifts()
        product = MatrixProduct(by_task(sources[0], tasks).shape[1], shifts.shape[2], shifts)
        maps = []
        for i, (d, factor) in enumerate(zip(sources, product.factors(ctx.pointwise.factors()), strict=True)):
            maps.append(as_map(product.sum(i, [(by_task(d, tasks), factor)]).relu_(), d))
        ctx.save_for_backward(*inputs, *maps)
        return tuple(maps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tasks, eps = ctx.settings
        count = len(eps)
        sources, kernels = ctx.saved_tensors[:count], ctx.saved_tensors[count : 2 * count]
        maps = ctx.saved_tensors[2 * count :]
        if torch.is_grad_enabled():  # the gradients are to be differentiated themselves

            def written_out(inputs: Sequence[Tensor]) -> list[Tensor]:
                triples = zip(inputs[:count], inputs[count:], eps, strict=True)
                return [normalized(*triple, tasks).relu() for triple in triples]

            needs = ctx.needs_input_grad[2:]
            return None, None, *differentiable(written_out, (*sources, *kernels), needs, gradients)
        above = [
            torch.ops.aten.threshold_backward(g.contiguous(memory_format=torch.channels_last), x, 0)
            for g, x in zip(gradients, maps, strict=True)
        ]
        of_sources, of_kernels, _ = ctx.pointwise.gradients(above, sources)
        return None, None, *of_sources, *of_kernels
