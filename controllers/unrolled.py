"""How α changes the validation loss through the next step of the weights (Liu et al. 2019, §2.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from controllers.relaxation import Alpha, gradient
from nas.errors import Unsupported
from nas.strategy import Batches

RADIUS = 0.01
"""Length of the finite difference's step in weight space, ε‖d‖ (Liu et al. 2019, footnote 2)."""


def exact(alpha: Alpha, batches: Batches, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the gradient in α of L_val(w′(α), α) by autograd.

    w′ is where the optimizer's next step down ∇L_train(w, α) takes the weights; see `stepped`.

    Raises:
        Unsupported: the optimizer's step cannot be differentiated.
    """
    mixture = alpha.mixture()
    slopes = _slopes(batches.inner(mixture), _learned(optimizer, batches), create_graph=True)
    after = stepped(optimizer, batches.weights, slopes)
    return gradient(batches.outer(mixture, after), list(alpha.logits))


def second_order(
    alpha: Alpha, batches: Batches, optimizer: torch.optim.Optimizer, radius: float = RADIUS
) -> list[Tensor]:
    """Return what `exact` does by the paper's finite difference, without a second derivative of a loss.

    Let d be what a step's gradient g must be multiplied by: d = (∂w′/∂g)ᵀ ∇L_val(w′), which is −ξ ∇L_val(w′)
    for gradient descent at rate ξ. Then the change of g with α brings in the difference of two α-gradients
    of L_train at w ± ε d, divided by 2ε, with ε = `radius` / ‖d‖.

    Raises:
        Unsupported: the optimizer's step cannot be differentiated.
    """
    logits = list(alpha.logits)
    slopes = _slopes(batches.inner(_detached(alpha.mixture())), _learned(optimizer, batches))
    after = stepped(optimizer, batches.weights, {name: g.requires_grad_() for name, g in slopes.items()})
    unrolled = {name: weight.detach().requires_grad_() for name, weight in after.items()}
    found = gradient(batches.outer(alpha.mixture(), unrolled), [*logits, *unrolled.values()])
    direct, vector = found[: len(logits)], found[len(logits) :]
    if not slopes:
        return direct
    pulled = torch.autograd.grad(list(after.values()), list(slopes.values()), vector)
    direction = dict(zip(slopes, pulled, strict=True))
    norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(d) for d in pulled])))
    if not norm:
        return direct
    epsilon = radius / norm

    def at(offset: float) -> list[Tensor]:
        moved = {
            # A learner with an inner loop adapts what requires a gradient.
            name: (batches.weights[name].detach() + offset * d).requires_grad_()
            for name, d in direction.items()
        }
        return alpha.gradient(lambda mixture: batches.inner(mixture, moved))

    pairs = zip(direct, at(epsilon), at(-epsilon), strict=True)
    return [own + (ahead - behind) / (2 * epsilon) for own, ahead, behind in pairs]


def stepped(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor], slopes: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return where the optimizer's next step down these gradients takes the weights that have one.

    It is torch's own step, with momentum, moments, weight decay and learning rates of the moment, taken by
    copies and differentiable in the gradients; the weights and the optimizer stay as they are. Hooks of the
    optimizer are left out. Adam's first step of a weight is its rate, up or down, whatever the gradient's
    size: its derivative is taken as zero.

    Raises:
        Unsupported: the optimizer has no differentiable step.
    """
    after, groups, states = dict[str, Tensor](), list[dict[str, Any]](), dict[Tensor, dict[str, Any]]()
    names = {weights[name]: name for name in slopes}
    for group in optimizer.param_groups:
        copies = []
        for weight in group["params"]:
            if weight in names:
                after[names[weight]] = copy = weight.detach().clone()
                states[copy] = state = _copied(optimizer.state.get(weight, {}))
                copy.grad = _felt(slopes[names[weight]], group, state)
                if group.get("momentum") and not state:
                    # torch detaches the gradient that begins a buffer; one of zeros takes the same step
                    state["momentum_buffer"] = torch.zeros_like(copy)
                copies.append(copy)
        groups.append(group | {"params": copies, "differentiable": True, "foreach": False, "fused": False})
    try:
        twin = type(optimizer)(groups, differentiable=True)  # type: ignore[call-arg]
    except TypeError:
        raise Unsupported(
            f"controller.order: the step of the optimizer {type(optimizer).__name__} cannot be "
            "differentiated, which order 2 and 'exact' need. Set controller.order=1."
        ) from None
    twin.state.update(states)
    twin.step()
    return {name: after[name] for name in slopes}


def _learned(optimizer: torch.optim.Optimizer, batches: Batches) -> dict[str, Tensor]:
    """Return the weights that the optimizer steps."""
    owned = {weight for group in optimizer.param_groups for weight in group["params"]}
    return {name: w for name, w in batches.weights.items() if w.requires_grad and w in owned}


def _slopes(loss: Tensor, weights: Mapping[str, Tensor], create_graph: bool = False) -> dict[str, Tensor]:
    """Return the gradient in the weights that a loss depends on: an optimizer steps no others."""
    if not loss.requires_grad or not weights:
        return {}
    found = torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph, allow_unused=True)
    return {name: g for name, g in zip(weights, found, strict=True) if g is not None}


def _felt(slope: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Tensor:
    """Return a gradient that is a constant where Adam has no second moment yet."""
    if "eps" not in group or (state and "exp_avg_sq" not in state):
        return slope
    moment = state.get("exp_avg_sq", torch.zeros_like(slope))
    return torch.where(moment > 0, slope, slope.detach())


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state of one weight; counts in float64, where powers of β keep their digits."""
    copied = {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}
    return copied | {key: value.double() for key, value in copied.items() if key == "step"}


def _detached(mixture: Sequence[Tensor]) -> list[Tensor]:
    return [weights.detach() for weights in mixture]
