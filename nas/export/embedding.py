"""The trained network by itself: from inputs to features, normalised as where it was scored."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nas.learners.base import Normalization

Statistics = tuple[Tensor, Tensor]
"""Variance and mean, each `[C]`."""


@final
class Embedding(nn.Module):
    """A backbone, and the linear head where the learner has one, as one pass over the inputs of one task.

    Under `transductive` normalization the batch is normalised by its own statistics: it has to be all of a
    task's images that are predicted together, and of that task alone. Under `support` the statistics are
    those of the support images, the second argument. Under `running` they are constants.

    Args:
        backbone: `[B, *input]` to `[B, out_features]`.
        head: from features to logits or values, if there is one.
        normalization: where batch norm takes its statistics.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module | None, normalization: Normalization) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.normalization = normalization

    def forward(self, inputs: Tensor, support: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return features `[B, out_features]` and, if there is a head, its outputs `[B, outputs]`.

        Args:
            inputs: `[B, *input]`.
            support: the task's support `[S, *input]`, under `support` normalization alone.

        Raises:
            TypeError: the support is missing, or is not wanted.
        """
        if (support is not None) != (self.normalization == "support"):
            expected = "(inputs, support)" if support is None else "(inputs)"
            raise TypeError(f"Normalization is '{self.normalization}': the network takes {expected}.")
        features = self._features(inputs, support)
        return (features,) if self.head is None else (features, self.head(features))

    def _features(self, inputs: Tensor, support: Tensor | None) -> Tensor:
        if self.normalization == "running":
            return self.backbone(inputs)  # type: ignore[no-any-return]
        seen: deque[Statistics] = deque()
        with _BatchNorm(write=seen):
            features: Tensor = self.backbone(inputs if support is None else support)
        if support is not None:
            with _BatchNorm(read=seen):
                features = self.backbone(inputs)
        return features


class _BatchNorm(TorchFunctionMode):
    """Batch norm by the statistics of its batch, or by those that an earlier pass wrote, call by call."""

    def __init__(
        self, *, read: deque[Statistics] | None = None, write: deque[Statistics] | None = None
    ) -> None:
        super().__init__()
        self._read, self._write = read, write

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if function is F.batch_norm:
            return self._normalize(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _normalize(
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
        if self._read is not None:
            variance, mean = self._read.popleft()
        else:
            variance, mean = torch.var_mean(x, [axis for axis in range(x.dim()) if axis != 1], correction=0)
        if self._write is not None:
            self._write.append((variance, mean))
        column = (1, -1, *(1,) * (x.dim() - 2))
        out = (x - mean.view(column)) * (variance + eps).rsqrt().view(column)
        if weight is not None:
            out = out * weight.view(column)
        return out if bias is None else out + bias.view(column)
