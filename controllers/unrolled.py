"""How α changes the validation loss through the next step of the weights (Liu et al. 2019, §2.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from controllers.relaxation import Alpha, gradient
from nas.strategy import Batches

RADIUS = 0.01
"""Length of the finite difference's step in weight space, ε‖v‖ (Liu et al. 2019, footnote 2)."""


class Step(NamedTuple):
    """What makes one weight's step of a gradient: `w − rate · (drift + gradient)`."""

    weight: Tensor
    rate: float
    drift: Tensor

    def taken(self, gradient: Tensor) -> Tensor:
        """Return the weight after the step."""
        return self.weight - self.rate * (self.drift + gradient)


def steps(optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor]) -> dict[str, Step]:
    """Return the next step of each weight that learns: gradient descent with momentum and weight decay.

    That is what `torch.optim.SGD` does, without Nesterov's rule or dampening. Of another optimizer its
    learning rate and L2 weight decay are taken: the step is that of the paper's equation, not Adam's.
    """
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    made = dict[str, Step]()
    for name, weight in weights.items():
        if weight.requires_grad and weight in groups:
            group, w = groups[weight], weight.detach()
            drift = group.get("weight_decay", 0.0) * w
            buffer = optimizer.state[weight].get("momentum_buffer") if weight in optimizer.state else None
            if buffer is not None:
                drift = drift + group["momentum"] * buffer
            made[name] = Step(weight, float(group["lr"]), drift)
    return made


def exact(alpha: Alpha, batches: Batches, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the gradient in α of L_val(w′(α), α) by autograd.

    w′ = w − ξ (∇L_train(w, α) + momentum and weight decay), ξ the weights' learning rate.
    """
    next_steps, mixture = steps(optimizer, batches.weights), alpha.mixture()
    weights = [step.weight for step in next_steps.values()]
    gradients = gradient(batches.inner(mixture), weights, create_graph=True)
    unrolled = {
        name: step._replace(weight=step.weight.detach()).taken(g)
        for (name, step), g in zip(next_steps.items(), gradients, strict=True)
    }
    return gradient(batches.outer(mixture, unrolled), list(alpha.logits))


def second_order(
    alpha: Alpha, batches: Batches, optimizer: torch.optim.Optimizer, radius: float = RADIUS
) -> list[Tensor]:
    """Return what `exact` does by the paper's finite difference, without a second derivative.

    ∇²L_train · v is the difference of two α-gradients at w ± ε v, divided by 2ε, with ε = `radius` / ‖v‖ and
    v = ∇L_val(w′). Where weights learn at several rates, v is scaled by each one's rate over the largest.
    """
    next_steps, logits = steps(optimizer, batches.weights), list(alpha.logits)
    weights = [step.weight for step in next_steps.values()]
    gradients = gradient(batches.inner(_detached(alpha.mixture())), weights)
    unrolled = {
        name: step.taken(g).detach().requires_grad_()
        for (name, step), g in zip(next_steps.items(), gradients, strict=True)
    }
    found = gradient(batches.outer(alpha.mixture(), unrolled), [*logits, *unrolled.values()])
    direct, vector = found[: len(logits)], found[len(logits) :]
    rate = max((step.rate for step in next_steps.values()), default=0.0)
    if not rate:
        return direct
    direction = [v * (step.rate / rate) for v, step in zip(vector, next_steps.values(), strict=True)]
    norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(d) for d in direction])))
    if not norm:
        return direct
    epsilon = radius / norm

    def at(offset: float) -> list[Tensor]:
        moved = {
            # A learner with an inner loop adapts what requires a gradient.
            name: (step.weight.detach() + offset * d).requires_grad_()
            for (name, step), d in zip(next_steps.items(), direction, strict=True)
        }
        return alpha.gradient(lambda mixture: batches.inner(mixture, moved))

    pairs = zip(direct, at(epsilon), at(-epsilon), strict=True)
    return [own - rate * (ahead - behind) / (2 * epsilon) for own, ahead, behind in pairs]


def _detached(mixture: Sequence[Tensor]) -> list[Tensor]:
    return [weights.detach() for weights in mixture]
