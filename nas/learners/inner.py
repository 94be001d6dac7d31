"""The inner loop: from weights to weights adapted to each task, differentiable in where it began."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from nas.learners.folded import Weights

Order: TypeAlias = Annotated[Literal[1, 2], Field(description="2, or 1 to leave out second derivatives")]
"""Of the derivatives in the meta-gradient."""

InnerRate = Annotated[float, Field(gt=0, description="step size on a task's mean support loss")]
InnerSteps = Annotated[int, Field(ge=1, description="gradient steps on a task")]
TestSteps = Annotated[
    int | None, Field(ge=1, description="gradient steps in evaluation, if other than inner_steps")
]

UpdateRule: TypeAlias = Callable[[Weights, Weights], Weights]
"""From weights and their gradients to new weights; changes neither. One with a state serves one loop."""


def adapt(
    loss: Callable[[Weights], Tensor],
    weights: Weights,
    update: UpdateRule,
    steps: int,
    *,
    order: Order,
) -> Weights:
    """Take gradient steps on the loss of each task.

    Where gradients are recorded, the result is a function of `weights` and of what `update` holds: with
    order 2 through the inner gradients too, with order 1 taking these for constants. Under `torch.no_grad`
    (not `inference_mode`, which forbids it) it is plain numbers, and memory holds the graph of one step.

    Args:
        loss: the losses of the tasks on their supports, summed to a scalar; called once a step.
        weights: what to adapt (weights of a network, a latent code), `[T, …]` by name; each requires grad.
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


def sgd(lr: float | Mapping[str, Tensor]) -> UpdateRule:
    """Return gradient descent, with one rate or one for each weight, by name and in the weight's shape."""

    def update(weights: Weights, gradients: Weights) -> Weights:
        if isinstance(lr, Mapping):
            return {name: weight - lr[name] * gradients[name] for name, weight in weights.items()}
        return {name: torch.sub(weight, gradients[name], alpha=lr) for name, weight in weights.items()}

    return update


class Adam:
    """Adam (Kingma & Ba 2015) with β₁ = 0: the update rule of Reptile's inner loop.

    Nichol et al. (2018) keep the second moments from one task to the next; begin with those of before, and
    read them afterwards.
    """

    def __init__(self, lr: float, second: Weights, step: int, beta: float = 0.999, eps: float = 1e-8) -> None:
        self._lr = lr
        self.second = second
        """Moving averages of the squared gradients, `[T, …]`, not yet corrected for their start at zero."""
        self.step = step
        """How many gradients went into them."""
        self._beta = beta
        self._eps = eps

    def __call__(self, weights: Weights, gradients: Weights) -> Weights:
        """Take one step."""
        self.step += 1
        correction = 1 - self._beta**self.step
        squares = {name: gradient**2 for name, gradient in gradients.items()}
        self.second = {name: torch.lerp(self.second[name], s, 1 - self._beta) for name, s in squares.items()}
        # The root of 0 has no derivative; far below eps it makes no difference.
        roots = {name: (s / correction).clamp(min=_TINY).sqrt() for name, s in self.second.items()}
        return {
            name: weight - self._lr * gradients[name] / (roots[name] + self._eps)
            for name, weight in weights.items()
        }


_TINY = 1e-30
