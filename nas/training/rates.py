"""The learning rates of an optimizer in the course of a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch


@final
class Rates:
    """An optimizer's initial learning rates, times a factor that depends on the progress.

    Args:
        optimizer: with its initial rates.
        decay: from the share of the training done, in [0, 1), to the factor.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, decay: Callable[[float], float]) -> None:
        self._optimizer, self._decay = optimizer, decay
        self._initial = [group["lr"] for group in optimizer.param_groups]

    def set(self, progress: float) -> None:
        """Set the rates for the next step."""
        decay = self._decay(progress)
        for group, rate in zip(self._optimizer.param_groups, self._initial, strict=True):
            group["lr"] = rate * decay
