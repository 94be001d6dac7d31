"""Running averages of batch norm through a meta-step that goes by a few tasks at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Averages:
    """Moves a network's running averages as if all tasks had passed through it at once.

    Each share of the tasks begins with the averages of before, and in the end they lie at the mean, over
    tasks, of where the shares moved them. A pass moves them by a linear map, in training they are not read,
    and a pass of several tasks takes the mean of their statistics; so the division makes no difference.

    Args:
        module: whose averages; without any, nothing happens.
    """

    def __init__(self, module: nn.Module) -> None:
        self._buffers = [buffer for part in module.modules() for buffer in _tracked(part)]
        self._before = [buffer.clone() for buffer in self._buffers]
        self._after = [torch.zeros_like(buffer, dtype=torch.float64) for buffer in self._buffers]

    def passed(self, share: float) -> None:
        """Take note of where a share of the tasks moved the averages, and move them back."""
        for buffer, before, after in zip(self._buffers, self._before, self._after, strict=True):
            after.add_(buffer, alpha=share)
            buffer.copy_(before)

    def settle(self) -> None:
        """Move the averages to where all tasks moved them together."""
        for buffer, after in zip(self._buffers, self._after, strict=True):
            buffer.copy_(after if buffer.is_floating_point() else after.round())


def _tracked(part: nn.Module) -> list[Tensor]:
    """Return the running mean and variance of batch norm, and how often they were moved."""
    tracks = isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats
    return list(part.buffers(recurse=False)) if tracks else []
