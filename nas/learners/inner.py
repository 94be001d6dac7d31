"""The inner loop: from weights to weights adapted to one task, differentiable in where it began."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Weights: TypeAlias = dict[str, Tensor]
"""Parameters of a network (or a latent code) by name, as `torch.func.functional_call` takes them."""

UpdateRule: TypeAlias = Callable[[Weights, Weights], Weights]
"""From weights and their gradients to new weights; changes neither. One with a state serves one task."""


def adapt(
    loss: Callable[[Weights], Tensor],
    weights: Weights,
    update: UpdateRule,
    steps: int,
    *,
    order: Literal[1, 2],
) -> Weights:
    """Take gradient steps on one task's loss.

    Where gradients are recorded, the result is a function of `weights` and of what `update` holds: with
    order 2 through the inner gradients too, with order 1 taking these for constants. Under `torch.no_grad`
    (not `inference_mode`, which forbids it) it is plain numbers, and memory holds the graph of one step.

    Args:
        loss: the loss on the support, a scalar; called once a step.
        weights: what to adapt; each must require grad.
        update: makes one step of the gradients.
        steps: how many.
        order: 2, or 1 to leave out second derivatives (Finn et al. 2017, section 5.2).
    """
    recording = torch.is_grad_enabled()
    device = next(iter(weights.values())).device.type
    autocasting = torch.is_autocast_enabled(device)
    for _ in range(steps):
        # Autocast's cache would hold a low-precision copy of every step's leaves until autocast ends.
        with torch.enable_grad(), torch.autocast(device, enabled=autocasting, cache_enabled=False):
            if not recording:
                weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
            gradients = torch.autograd.grad(
                loss(weights),
                list(weights.values()),
                create_graph=recording and order == 2,
                materialize_grads=True,
            )
        weights = update(weights, dict(zip(weights, gradients, strict=True)))
    return weights


def sgd(lr: float) -> UpdateRule:
    """Return plain gradient descent."""

    def update(weights: Weights, gradients: Weights) -> Weights:
        return {name: weight - lr * gradients[name] for name, weight in weights.items()}

    return update
