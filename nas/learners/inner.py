"""The inner loop: from weights to weights adapted to each task, differentiable in where it began."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from nas.learners.folded import Weights
from nas.learners.update import State, UpdateRule

Order: TypeAlias = Annotated[Literal[1, 2], Field(description="2, or 1 to leave out second derivatives")]
"""Of the derivatives in the meta-gradient."""

InnerRate = Annotated[float, Field(gt=0, description="step size on a task's mean support loss")]
InnerSteps = Annotated[int, Field(ge=1, description="gradient steps on a task")]
TestSteps = Annotated[
    int | None, Field(ge=1, description="gradient steps in evaluation, if other than inner_steps")
]


class Adapted(NamedTuple):
    """Where an inner loop ended.

    Attributes:
        weights: `[T, …]` by name.
        state: of the update rule, after the last step.
    """

    weights: Weights
    state: State


def held(update: UpdateRule, weights: Mapping[str, Tensor], steps: int) -> int:
    """Return how many numbers the graph of a rule's steps holds of one task; see `Learner.held`."""
    return steps * update.held * sum(weight.numel() for weight in weights.values())


def adapt(
    loss: Callable[[Weights], Tensor],
    weights: Weights,
    update: UpdateRule,
    steps: int,
    *,
    order: Order,
    state: State = None,
) -> Adapted:
    """Take gradient steps on the loss of each task.

    Where gradients are recorded, the result is a function of `weights` and of what `update` holds: with
    order 2 through the inner gradients too, with order 1 taking these for constants. Under `torch.no_grad`
    (not `inference_mode`, which forbids it) it is plain numbers, and memory holds the graph of one step.

    Args:
        loss: the losses of the tasks on their supports, `[T]`; called once a step.
        weights: what to adapt (weights of a network, a latent code), `[T, …]` by name; each requires grad.
        update: takes each step.
        steps: how many.
        order: 2, or 1 to leave out second derivatives (Finn et al. 2017, section 5.2), as they are under a
            rule that takes gradients for constants.
        state: of the update rule, to go on from; by default it begins anew.
    """
    recording = torch.is_grad_enabled()
    second = recording and order == 2 and not update.constant
    device = next(iter(weights.values())).device.type
    autocasting = torch.is_autocast_enabled(device)
    state = update.init(weights) if state is None else state
    for _ in range(steps):
        # Autocast's cache would hold a low-precision copy of every step's leaves until autocast ends.
        with torch.enable_grad(), torch.autocast(device, enabled=autocasting, cache_enabled=False):
            if not recording:
                weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
            losses = loss(weights)
            gradients = torch.autograd.grad(
                losses.sum(),
                list(weights.values()),
                create_graph=second,
                materialize_grads=True,
            )
        losses = losses if second else losses.detach()
        state, weights = update.step(state, weights, dict(zip(weights, gradients, strict=True)), losses)
    return Adapted(weights, state)
