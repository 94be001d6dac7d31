"""A weighted sum of maps, some of which pass a pointwise convolution and batch norm on their way.

Both are linear once the statistics are known, and these follow from the mean and the covariance of the map
that goes in: y = P d has mean P ⟨d⟩ and covariance P Cov(d) Pᵀ. So convolution, batch norm, weighting and
sum are one product of matrices; neither the convolved nor the normalized maps ever exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.supernet import tasks_of

_CANCELLED = 0.1
"""A variance below so much of the numbers whose difference it is, is computed anew."""

_LANES = 16
"""Numbers that a product of matrices takes at once."""


class Convolved(NamedTuple):
    """A map `[B, C, H, W]`, to be convolved and normalized, and the weight of the result.

    Attributes:
        x: the map.
        kernel: of a pointwise convolution without bias, `[out, C, 1, 1]`; or one a task, `[T, out, C, 1, 1]`.
        eps: of a batch norm without scale and shift, which normalizes by the batch.
        weight: a scalar; None: 1.
    """

    x: Tensor
    kernel: Tensor
    eps: float
    weight: Tensor | None = None


class Plain(NamedTuple):
    """A map and its weight, a scalar."""

    x: Tensor
    weight: Tensor


def weighted_sum(terms: Sequence[Convolved | Plain], *, rectify: bool = False) -> Tensor:
    """Return the sum of maps of one size: `[B, out, H, W]`.

    Args:
        terms: one at least; the convolved maps have equal channels, and all kernels or none are one a task.
        rectify: whether to return its ReLU.
    """
    like = terms[0].x
    tasks = tasks_of(like)
    if tasks is None or like.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        total = sum(map(_by_modules, terms[1:]), _by_modules(terms[0]))
        return total.relu() if rectify else total
    plain = [term for term in terms if isinstance(term, Plain)]
    convolved = [term for term in terms if isinstance(term, Convolved)]
    one = like.new_ones(())
    inputs = (
        *(term.x for term in plain),
        *(term.weight for term in plain),
        *(term.x for term in convolved),
        *(term.kernel for term in convolved),
        *(one if term.weight is None else term.weight for term in convolved),
    )
    eps = [term.eps for term in convolved]
    return _WeightedSum.apply(tasks, len(plain), eps, rectify, *inputs)  # type: ignore[no-untyped-call,no-any-return]


def _by_modules(term: Convolved | Plain) -> Tensor:
    if isinstance(term, Plain):
        return term.weight * term.x
    y = torch.conv2d(term.x, term.kernel)
    scale = None if term.weight is None else term.weight.expand(y.shape[1])
    return F.batch_norm(y, None, None, scale, None, True, 0.0, term.eps)


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


class _Normals(NamedTuple):
    """What batch norm needs to know of the K sources, by source and task: `[K, T, …]`."""

    rows: int
    mean: Tensor
    covariance: Tensor
    mean_out: Tensor
    inverse: Tensor


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tasks: int, plain: int, eps: Sequence[float], rectify: bool, *inputs: Tensor
    ) -> Tensor:
        maps, weights, sources, kernels, scales = _split(inputs, plain)
        like = (*maps, *sources)[0]
        ctx.settings = tasks, plain, eps, rectify
        if sources:
            rows, p, scale = [_rows(d, tasks) for d in sources], _matrices(kernels), _scales(scales)
            ctx.normals = _statistics(rows, p, eps)
            alpha = scale * ctx.normals.inverse
            start = -(alpha * ctx.normals.mean_out).sum(0)
            total = _Product(tasks, rows[0].shape[1], start)
            for d, factor in zip(rows, (alpha[..., None] * p).mT, strict=True):
                total.add(d, factor)
            out = _shaped(total.rows, like)
        else:
            out = torch.zeros_like(like, memory_format=torch.channels_last)
        for x, weight in zip(maps, weights, strict=True):
            out.add_(x, alpha=float(weight))
        if rectify:
            out.relu_()
        ctx.save_for_backward(*inputs, *([out] if rectify else []))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _, plain, _, rectify = ctx.settings
        inputs = ctx.saved_tensors[:-1] if rectify else ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated itself
            found = _differentiable(gradient, inputs, ctx.needs_input_grad[4:], ctx.settings)
            return None, None, None, None, *found
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if rectify:
            gradient = torch.ops.aten.threshold_backward(gradient, ctx.saved_tensors[-1], 0)
        maps, weights, sources, kernels, scales = _split(inputs, plain)
        of_maps = [weight * gradient for weight in weights]
        of_weights = [torch.dot(_flat(gradient), _flat(x)) for x in maps]
        of_others = _gradients(gradient, sources, kernels, scales, ctx.normals) if sources else ()
        return None, None, None, None, *of_maps, *of_weights, *of_others


class _Product:
    """A sum of products `[T, R, C] @ [1 or T, C, out]`, and of a row `[1 or T, out]` that is added to all.

    Products with fewer than `_LANES` columns are slow. So several rows are taken for one, and the factor is
    repeated along a diagonal.
    """

    def __init__(self, tasks: int, count: int, start: Tensor) -> None:
        out = start.shape[1]
        fold = _LANES // out if out < _LANES and _LANES % out == 0 else 1
        self._fold = fold if count % fold == 0 else 1
        row = start.repeat(1, self._fold) if self._fold > 1 else start
        self._wide = row[:, None].expand(tasks, count // self._fold, -1).contiguous()
        self.rows = self._wide.view(tasks, count, out)

    def add(self, rows: Tensor, factor: Tensor) -> None:
        """Add a product."""
        tasks, count, channels = rows.shape
        if self._fold > 1:
            identity = torch.eye(self._fold, dtype=rows.dtype)
            factor = torch.stack([torch.kron(identity, own.contiguous()) for own in factor])
            rows = rows.reshape(tasks, count // self._fold, channels * self._fold)
        self._wide.baddbmm_(rows, factor.expand(tasks, -1, -1))


def _statistics(rows: Sequence[Tensor], p: Tensor, eps: Sequence[float]) -> _Normals:
    """Return those of d Pᵀ for each d `[T, R, C]` and P `[1 or T, out, C]`.

    Cov(d) = ⟨d dᵀ⟩ − ⟨d⟩⟨d⟩ᵀ needs no centered copy of d, but loses digits where means are large, and
    P Cov(d) Pᵀ where P subtracts channels that are nearly equal. The rounding error of the variances is a
    fraction of P² ⟨d²⟩ + (P ⟨d⟩)².
    """
    count = rows[0].shape[1]
    mean = torch.stack([d.mean(1) for d in rows])
    moment = torch.stack([torch.bmm(d.mT, d) for d in rows]) / count
    mean_out = (p * mean[..., None, :]).sum(-1)
    covariance = moment - mean[..., None] * mean[..., None, :]
    least = torch.tensor(eps, dtype=mean.dtype)[:, None, None]
    variance = ((p @ covariance) * p).sum(-1)
    squares = (p.square() * moment.diagonal(dim1=-2, dim2=-1)[..., None, :]).sum(-1)
    lost = (variance + least < _CANCELLED * (squares + mean_out.square())).flatten(1).any(1)
    for i, of_source in enumerate(lost.tolist()):
        if of_source:
            centered = rows[i] - mean[i][:, None]
            covariance[i] = centered.mT @ centered / count
            variance[i] = (centered @ p[i].mT).square().mean(1)
    return _Normals(count, mean, covariance, mean_out, (variance + least).rsqrt())


def _gradients(
    gradient: Tensor,
    sources: Sequence[Tensor],
    kernels: Sequence[Tensor],
    scales: Sequence[Tensor],
    normals: _Normals,
) -> tuple[Tensor, ...]:
    """Return the gradients of sources, kernels and weights.

    With the normalized map x̂ = s (P d − μ), batch norm's gradient is w s (g − ⟨g⟩ − x̂ ⟨g x̂⟩), which is
    α g + β P d + γ, channel by channel.
    """
    count, mean, covariance, mean_out, inverse = normals
    tasks = mean.shape[1]
    g, rows = _rows(gradient, tasks), [_rows(d, tasks) for d in sources]
    p, total = _matrices(kernels), g.sum(1)
    both = torch.stack([torch.bmm(g.mT, d) for d in rows]) - total[..., None] * mean[..., None, :]
    along = inverse * (p * both).sum(-1)
    alpha = _scales(scales) * inverse
    beta = -alpha * inverse * along / count
    gamma = -alpha * total / count - beta * mean_out
    scaled = beta[..., None] * p
    starts, of_g, of_d = (gamma[..., None] * p).sum(-2), alpha[..., None] * p, p.mT @ scaled
    of_p = alpha[..., None] * both + count * (scaled @ covariance)
    of_sources = []
    for i, d in enumerate(rows):
        of_source = _Product(tasks, count, starts[i])
        of_source.add(g, of_g[i])
        of_source.add(d, of_d[i])
        of_sources.append(_shaped(of_source.rows, gradient))
    of_kernels = of_p.sum(1, keepdim=True) if p.shape[1] == 1 else of_p
    pairs = zip(of_kernels, kernels, strict=True)
    return *of_sources, *(own.view(kernel.shape) for own, kernel in pairs), *along.sum((1, 2))


def _differentiable(
    gradient: Tensor, inputs: Sequence[Tensor], needs: Sequence[bool], settings: Any
) -> list[Tensor | None]:
    """Return the gradients with a graph of their own: those of the sum, written out."""
    tasks, plain, eps, rectify = settings
    # Views, since one input may have been computed from another.
    fresh = [x.view_as(x) for x in inputs]
    maps, weights, sources, kernels, scales = _split(fresh, plain)
    total = [weight * x for weight, x in zip(weights, maps, strict=True)]
    for source, kernel, scale, e in zip(sources, kernels, scales, eps, strict=True):
        y = _rows(source, tasks) @ _matrix(kernel).mT
        centered = y - y.mean(1, keepdim=True)
        normalized = centered * (centered.square().mean(1, keepdim=True) + e).rsqrt()
        total.append(_shaped(scale * normalized, source))
    out = sum(total[1:], total[0])
    wanted = [x for x, need in zip(fresh, needs, strict=True) if need]
    found = iter(torch.autograd.grad(out.relu() if rectify else out, wanted, gradient, create_graph=True))
    return [next(found) if need else None for need in needs]


def _rows(x: Tensor, tasks: int) -> Tensor:
    """Return `[T·B, C, H, W]` as `[T, R, C]`: a view, where channels come last in memory."""
    return x.permute(0, 2, 3, 1).reshape(tasks, -1, x.shape[1])


def _shaped(rows: Tensor, like: Tensor) -> Tensor:
    """Return `[T, R, C]` as `[T·B, C, H, W]`."""
    return rows.view(len(like), *like.shape[2:], rows.shape[2]).permute(0, 3, 1, 2)


def _flat(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1)


def _matrix(kernel: Tensor) -> Tensor:
    """Return a pointwise kernel `[out, C, 1, 1]`, or one a task, as `[1 or T, out, C]`."""
    matrix = kernel[..., 0, 0]
    return matrix[None] if matrix.dim() == 2 else matrix


def _matrices(kernels: Sequence[Tensor]) -> Tensor:
    """Return K kernels as `[K, 1 or T, out, C]`."""
    return torch.stack([_matrix(kernel) for kernel in kernels])


def _scales(scales: Sequence[Tensor]) -> Tensor:
    """Return K scalars as `[K, 1, 1]`."""
    return torch.stack(list(scales))[:, None, None]
