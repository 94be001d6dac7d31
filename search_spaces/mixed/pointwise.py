"""Pointwise convolution and batch norm in one product of matrices, forward and backward.

Both are linear once the statistics are known, and these follow from the mean and the covariance of the map
that goes in: y = P d has mean P ⟨d⟩ and covariance P Cov(d) Pᵀ. So neither the convolved nor the normalized
map ever exists. What concerns channels alone is computed for several maps at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.supernet import tasks_of

_CANCELLED = 0.1
"""A variance below so much of the numbers whose difference it is, is computed anew."""

_LANES = 16
"""Numbers that a product of matrices takes at once."""

_LINE = 1024
"""Numbers that are added at once."""


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

    def by_modules(self) -> Tensor:
        """Return the result of torch's own operations."""
        y = torch.conv2d(self.x, self.kernel)
        scale = None if self.weight is None else self.weight.expand(y.shape[1])
        return F.batch_norm(y, None, None, scale, None, True, 0.0, self.eps)


class Gradients(NamedTuple):
    """Of K maps `[B, C, H, W]`, of their kernels, and of their weights `[K]`."""

    sources: list[Tensor]
    kernels: list[Tensor]
    weights: Tensor


@final
class Pointwise:
    """K maps on their way through a convolution, a batch norm and a weight each.

    Args:
        tasks: T.
        sources: K maps `[T·B, C, H, W]`.
        kernels: as of `Convolved`, all or none one a task.
        weights: K scalars; none: all 1.
        eps: K numbers.
    """

    def __init__(
        self,
        tasks: int,
        sources: Sequence[Tensor],
        kernels: Sequence[Tensor],
        weights: Sequence[Tensor],
        eps: Sequence[float],
    ) -> None:
        self._tasks = tasks
        self._kernel = kernels[0].shape
        self._p = torch.stack([_matrix(kernel) for kernel in kernels])
        rows = [by_task(d, tasks) for d in sources]
        self._count = rows[0].shape[1]
        self._mean, self._covariance, self._mean_out, self._inverse = _statistics(rows, self._p, eps)
        self._alpha = self._inverse
        if weights:
            self._alpha = torch.stack(list(weights))[:, None, None] * self._inverse
        self._scaled = self._alpha[..., None] * self._p

    def shifts(self) -> Tensor:
        """Return what is added to the K products with d: `[K, T, out]`."""
        return -self._alpha * self._mean_out

    def factors(self) -> Tensor:
        """Return the matrices that the K rows d are multiplied by: `[K, T, C, out]`."""
        return self._scaled.mT

    def gradients(self, above: Sequence[Tensor], sources: Sequence[Tensor]) -> Gradients:
        """Return the gradients, given those of the K results; a single one stands for all.

        With the normalized map x̂ = s (P d − μ), batch norm's gradient is w s (g − ⟨g⟩ − x̂ ⟨g x̂⟩), which is
        α g + β P d + γ, channel by channel.
        """
        p, mean, count = self._p, self._mean, self._count
        rows = [by_task(d, self._tasks) for d in sources]
        seen = [by_task(g, self._tasks) for g in above]
        total = torch.stack([g.sum(1) for g in seen])
        seen = seen if len(seen) > 1 else seen * len(rows)
        both = torch.stack([torch.bmm(g.mT, d) for g, d in zip(seen, rows, strict=True)])
        both.addcmul_(total[..., None], mean[..., None, :], value=-1)
        along = self._inverse * (p * both).sum(-1)
        beta = self._alpha * self._inverse * along / -count
        gamma = self._alpha * total / -count - beta * self._mean_out
        scaled = beta[..., None] * p
        of_p = self._alpha[..., None] * both + count * (scaled @ self._covariance)
        starts = (gamma[..., None] * p).sum(-2)
        product = MatrixProduct(count, p.shape[-1], starts)
        of_g, of_d = product.factors(self._scaled), product.factors(p.mT @ scaled)
        of_sources = []
        for i, (g, d) in enumerate(zip(seen, rows, strict=True)):
            of_sources.append(as_map(product.sum(i, [(g, of_g[i]), (d, of_d[i])]), sources[i]))
        of_kernels = of_p.sum(1) if p.shape[1] == 1 else of_p
        return Gradients(of_sources, [own.view(self._kernel) for own in of_kernels], along.sum((1, 2)))


@final
class MatrixProduct:
    """Sums of products `[T, R, C] @ [1 or T, C, out]` and of a row that is added to all R.

    Products with fewer than `_LANES` columns are slow. So several rows are taken for one, and the factor is
    repeated along a diagonal.

    Args:
        count: R.
        out: columns.
        starts: the rows `[N, T, out]`, one a sum.
    """

    def __init__(self, count: int, out: int, starts: Tensor) -> None:
        fold = _LANES // out if out < _LANES and _LANES % out == 0 else 1
        self._fold = fold if count % fold == 0 else 1
        line = math.gcd(count, max(1, _LINE // out))
        self._lines = starts.repeat(1, 1, line)
        self._shape = starts.shape[1], count, out

    def factors(self, factors: Tensor) -> Tensor:
        """Return factors `[…, C, out]` as `sum` takes them."""
        if self._fold == 1:
            return factors
        return torch.kron(torch.eye(self._fold, dtype=factors.dtype), factors.contiguous())

    def sum(self, i: int, terms: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Return sum i, `[T, R, out]`, of products of rows and one of `factors` each."""
        total = None
        for rows, factor in terms:
            tasks, count, channels = rows.shape
            rows = rows.reshape(tasks, count // self._fold, channels * self._fold)
            factor = factor.expand(tasks, -1, -1)
            total = torch.bmm(rows, factor) if total is None else total.baddbmm_(rows, factor)
        assert total is not None
        line = self._lines[i][:, None]
        return total.view(len(line), -1, line.shape[2]).add_(line).view(self._shape)


def usable(x: Tensor) -> int | None:
    """Return the number of tasks in x, or None where torch's own operations must do."""
    tasks = tasks_of(x)
    return None if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") else tasks


def _statistics(
    rows: Sequence[Tensor], p: Tensor, eps: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean and covariance of each d `[T, R, C]`, mean and inverse deviation of d Pᵀ: `[K, T, …]`.

    Cov(d) = ⟨d dᵀ⟩ − ⟨d⟩⟨d⟩ᵀ needs no centered copy of d, but loses digits where means are large, and
    P Cov(d) Pᵀ where P subtracts channels that are nearly equal. The rounding error of the variances is a
    fraction of P² ⟨d²⟩ + (P ⟨d⟩)².
    """
    count = rows[0].shape[1]
    mean = torch.stack([d.mean(1) for d in rows])
    moment = torch.stack([torch.bmm(d.mT, d) for d in rows]).div_(count)
    mean_out = (p * mean[..., None, :]).sum(-1)
    covariance = torch.addcmul(moment, mean[..., None], mean[..., None, :], value=-1)
    variance = ((p @ covariance) * p).sum(-1)
    squares = (p.square() * moment.diagonal(dim1=-2, dim2=-1)[..., None, :]).sum(-1)
    least = eps[0] if len({*eps}) == 1 else torch.tensor(eps, dtype=mean.dtype)[:, None, None]
    lost = variance + least < _CANCELLED * squares.addcmul_(mean_out, mean_out)
    if lost.any():
        for i in lost.flatten(1).any(1).nonzero()[:, 0].tolist():
            centered = rows[i] - mean[i][:, None]
            covariance[i] = centered.mT @ centered / count
            variance[i] = (centered @ p[i].mT).square().mean(1)
    return mean, covariance, mean_out, (variance + least).rsqrt()


def by_task(x: Tensor, tasks: int) -> Tensor:
    """Return `[T·B, C, H, W]` as `[T, R, C]`: a view, where channels come last in memory."""
    return x.permute(0, 2, 3, 1).reshape(tasks, -1, x.shape[1])


def as_map(rows: Tensor, like: Tensor) -> Tensor:
    """Return `[T, R, C]` as `[T·B, C, H, W]`."""
    return rows.view(len(like), *like.shape[2:], rows.shape[2]).permute(0, 3, 1, 2)


def normalized(x: Tensor, kernel: Tensor, eps: float, tasks: int) -> Tensor:
    """Return the convolved and normalized map by operations that are differentiable as often as wanted."""
    y = by_task(x, tasks) @ _matrix(kernel).mT
    centered = y - y.mean(1, keepdim=True)
    return as_map(centered * (centered.square().mean(1, keepdim=True) + eps).rsqrt(), x)


def differentiable(
    compute: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    inputs: Sequence[Tensor],
    needs: Sequence[bool],
    gradients: Sequence[Tensor],
) -> list[Tensor | None]:
    """Return the gradients of the inputs that need one, with a graph of their own.

    Args:
        compute: from inputs to results, by operations that are differentiable as often as wanted.
        inputs: of a function whose backward pass is to be differentiated itself.
        needs: which of them need a gradient.
        gradients: of the results.
    """
    # Views, since one input may have been computed from another.
    fresh = [x.view_as(x) for x in inputs]
    wanted = [x for x, need in zip(fresh, needs, strict=True) if need]
    found = iter(torch.autograd.grad(compute(fresh), wanted, gradients, create_graph=True))
    return [next(found) if need else None for need in needs]


def _matrix(kernel: Tensor) -> Tensor:
    """Return a pointwise kernel `[out, C, 1, 1]`, or one a task, as `[1 or T, out, C]`."""
    return kernel.view(-1, *kernel.shape[-4:-2])
