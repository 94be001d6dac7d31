"""Running a network on many tasks at once, each with its own weights and its own batch statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from nas.bilevel import dual, parted
from nas.learners.batch_norm import normalize, scale_and_shift, statistics
from nas.learners.convolution import convolve
from nas.supernet import tasks_of

Weights: TypeAlias = dict[str, Tensor]
"""Parameters of a network (or a latent code) by name, with the tasks along the first axis: `[T, …]`."""


CACHED = 80 * 28 * 28
"""Numbers that enter a network at once, such as 80 images of Omniglot: more overflow the caches of a CPU."""


def run(
    module: nn.Module, x: Tensor, weights: Mapping[str, Tensor] | None = None, *, reference: int | None = None
) -> Tensor:
    """Apply a network to each task's rows: `[T, B, *in]` to `[T, B, *out]`.

    The rows of all tasks pass through the module as one batch. Operations that mix rows or carry weights
    are replaced on the way by their counterparts per task: convolution, linear layers, batch norm. A module
    that has weights in others, which `foldable` tells, runs task by task instead.

    Args:
        module: maps `[batch, *in]` to `[batch, *out]`, each row by itself but for batch norm.
        x: the tasks' rows.
        weights: those of the module's parameters that differ between tasks, `[T, *shape]`.
        reference: batch norm normalizes by the statistics of each task's leading rows, so many; default:
            by those of all. Batch norm with running statistics uses these in evaluation.
    """
    if weights and not foldable(module):
        each = ({name: weight[t] for name, weight in weights.items()} for t in range(len(x)))
        return torch.cat([_run(module, x[t : t + 1], own, reference) for t, own in enumerate(each)])
    weights = _by_layer(module, weights, len(x)) if weights else {}
    size = max(1, CACHED // max(1, x[0].numel()))
    if len(x) <= size or (module.training and _keeps_averages(module)):
        return _run(module, x, weights, reference)
    starts = range(0, len(x), size)
    shares = ({name: weight[t : t + size] for name, weight in weights.items()} for t in starts)
    return torch.cat(
        [_run(module, x[t : t + size], own, reference) for t, own in zip(starts, shares, strict=True)]
    )


def stacked(weights: Mapping[str, Tensor], tasks: int) -> Weights:
    """Return weights that all tasks share as `[T, …]`, a view: where an inner loop begins."""
    return {name: weight.expand(tasks, *weight.shape) for name, weight in weights.items()}


def _by_layer(module: nn.Module, weights: Mapping[str, Tensor], tasks: int) -> Weights:
    """Return the weights, completed for each layer that has any: a layer takes all of its own by task."""
    layers = {name.rpartition(".")[0] for name in weights}
    whole = {name: w for name, w in module.named_parameters() if name.rpartition(".")[0] in layers}
    return {**stacked(whole, tasks), **weights}


def _run(module: nn.Module, x: Tensor, weights: Mapping[str, Tensor], reference: int | None) -> Tensor:
    with _Folded(len(x), reference, adapted=bool(weights)):
        out: Tensor = functional_call(module, dict(weights), (_channels_last(x.flatten(0, 1)),))
    return out.view(*x.shape[:2], *out.shape[1:])


def _keeps_averages(module: nn.Module) -> bool:
    """Whether batch norm has running statistics, which see all tasks of a call as one batch."""
    return any(name.endswith("running_mean") for name, _ in module.named_buffers())


def _channels_last(x: Tensor) -> Tensor:
    """Return images of one channel, whose memory format is open, with strides that say channels last.

    Otherwise the first convolution of a channels-last network takes them for the other format, and what
    follows it mixes both, which is slow.
    """
    if x.dim() != 4 or x.shape[1] != 1:
        return x
    height, width = x.shape[2:]
    return x.contiguous().as_strided(x.shape, (height * width, 1, width, 1))


def foldable(module: nn.Module) -> bool:
    """Return whether every weight belongs to a layer that `run` knows how to give a weight per task."""
    return all(
        type(part) in (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
        for part in module.modules()
        if next(part.parameters(recurse=False), None) is not None
    )


class _Folded(TorchFunctionMode):
    """Replaces the operations that must know which rows and weights belong to which task."""

    def __init__(self, tasks: int, reference: int | None, *, adapted: bool) -> None:
        super().__init__()
        self._tasks = tasks
        self._adapted = adapted
        self._reference = reference

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if function is torch.conv2d and len(args) > 1 and args[1].dim() == 5:
            return convolve(*_cast(*args[:3]), *args[3:], **(kwargs or {}))
        if function is torch.conv2d and len(args) > 2 and not _moves(args[0]) and _moves(args[1]):
            return self._first(function, *args, **(kwargs or {}))
        if function is F.linear and len(args) > 1 and args[1].dim() == 3:
            return self._linear(*_cast(*args), **(kwargs or {}))
        if function is tasks_of:
            return self._tasks if self._reference is None else None
        if function is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _first(
        self,
        function: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *geometry: Any,
        **more: Any,
    ) -> Tensor:
        """Convolve what does not move with what does: torch would convolve a direction of zeros, too."""
        weight, along = parted(weight)
        bias, shift = (None, None) if bias is None else parted(bias)
        return dual(
            function(x, weight, bias, *geometry, **more), function(x, along, shift, *geometry, **more)
        )

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = x.reshape(self._tasks, -1, x.shape[-1])
        out = rows @ weight.mT if bias is None else torch.baddbmm(bias[:, None], rows, weight.mT)
        return out.view(*x.shape[:-1], -1)

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        tasks, reference, shared = self._tasks, self._reference, weight is None or weight.dim() == 1
        own = running_mean is None or training
        # torch's is the faster, but its second derivative loses digits, and its third is wrong: not for
        # what runs through an inner loop. In forward mode it is the slower one.
        moves = _moves(x) or _moves(weight)
        if shared and not (own and (tasks > 1 or reference is not None or self._adapted or moves)):
            return F.batch_norm(x, running_mean, running_var, weight, bias, own, momentum, eps)
        channels = x.shape[1]
        weight = x.new_ones(1, channels) if weight is None else weight.view(-1, channels)
        bias = x.new_zeros(1, channels) if bias is None else bias.view(-1, channels)
        if running_mean is not None and running_var is not None:
            if not own:
                scale = weight * (running_var + eps).rsqrt()
                return scale_and_shift(x, scale, bias - running_mean * scale).to(x.dtype)
            if not moves:  # a pass in forward mode is apart from that of the step: averages stay
                mean, variance = statistics(x.detach(), tasks, reference)
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_(variance.to(running_var.dtype), momentum)
        return normalize(x.to(weight.dtype), weight, bias, eps, tasks, reference).to(x.dtype)


def _moves(x: Tensor | None) -> bool:
    """Return whether a tensor has a direction in forward mode."""
    return x is not None and parted(x)[1] is not None


def _cast(*tensors: Any) -> Any:
    """Return tensors in autocast's precision, where it is on: it does not see inside our kernels."""
    device = next(t.device.type for t in tensors if t is not None)
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t is None else t.to(dtype) for t in tensors)
