"""Meta-gradients against central differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


def holds(module: nn.Module, loss: Callable[[], Tensor], seed: int = 0) -> None:
    """Check the gradient of a loss along a random direction in a float64 module's parameters.

    Args:
        module: whose parameters get small steps, and are put back.
        loss: a function of these alone: what it draws, it draws anew from an equal seed each time.
        seed: of the direction.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss(), parameters, materialize_grads=True)
    generator = torch.Generator().manual_seed(seed)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    start = [p.detach().clone() for p in parameters]
    step = 1e-5

    def at(offset: float) -> float:
        with torch.no_grad():
            for parameter, begin, along in zip(parameters, start, direction, strict=True):
                parameter.copy_(begin + offset * along)
        return float(loss().detach())

    slope = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
    at(0.0)
    along = sum(float((g * d).sum()) for g, d in zip(found, direction, strict=True))
    assert along == pytest.approx(slope, rel=1e-6, abs=1e-9)
