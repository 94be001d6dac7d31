"""One step of the weights that all architectures share."""

from __future__ import annotations

import torch
from torch import Tensor


def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """Step the weights down a loss's gradient, and return the loss.

    A network without a path from its input, whose loss no weight changes, is no step.
    """
    optimizer.zero_grad(set_to_none=True)
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return float(loss.detach())
