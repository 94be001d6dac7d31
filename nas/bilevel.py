"""Bilevel optimization: how φ changes an outer loss through a step that weights take on an inner one.

The inner loss moves the weights, w′(φ) = step(∇_w L_inner(w, φ)); the outer one judges, L_outer(w′(φ), φ).
DARTS (Liu et al. 2019) has α for φ, Meta-Weight-Net (Shu et al. 2019) and learning to reweight (Ren et al.
2018) have weights of examples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from nas.errors import Unsupported

Order = Literal[1, 2, "exact", "forward"]
"""Of the gradient of φ: 1, at the present weights; 2, after their step, the second derivative by a finite
difference; exact, the same by autograd; forward, exact as well, and cheaper where φ enters the inner loss
late: the loss is differentiated in forward mode, along the one direction that counts."""

RADIUS = 0.01
"""Length of the finite difference's step in weight space, ε‖d‖ (Liu et al. 2019, footnote 2)."""


class Loss(Protocol):
    """The loss of one batch as a function of φ: a scalar with a graph."""

    def __call__(self, view: Sequence[Tensor], weights: Mapping[str, Tensor] | None = None, /) -> Tensor:
        """Return the loss, of the same batch at every call.

        Args:
            view: what the loss reads of φ.
            weights: stand in for the present ones, by name; the others stay.
        """


class Judgement(NamedTuple):
    """What an outer loss says of a step, and of φ through it.

    Attributes:
        gradient: in φ.
        change: of the outer loss by what the inner gradient g has of the step, to first order:
            ⟨∇L_outer(w′), (∂w′/∂g) g⟩. An optimizer's momentum moves the weights whatever g is.
    """

    gradient: list[Tensor]
    change: float


@dataclass(frozen=True, slots=True)
class Problem:
    """An inner and an outer loss, and the step between them.

    Attributes:
        parameters: φ.
        read: what the losses read of φ, with a graph of its own at each call, such as softmax(α).
        inner: moves the weights.
        outer: judges φ and the weights.
        weights: those that the step moves, by name.
        step: from the gradients of those weights that the inner loss depends on to where they go, such as
            `stepped`; differentiable in the gradients.
        slopes: these gradients at the present weights and φ, where they are known. Orders 2 and forward then
            do without a pass of the inner loss.
        known: the gradient of the inner loss in φ, likewise. Order 2 then does without another one, and
            takes a difference to one side.
    """

    parameters: Sequence[Tensor]
    read: Callable[[], Sequence[Tensor]]
    inner: Loss
    outer: Loss
    weights: Mapping[str, Tensor]
    step: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    slopes: Mapping[str, Tensor] | None = None
    known: Sequence[Tensor] | None = None

    def gradient(self, order: Order, radius: float = RADIUS) -> list[Tensor]:
        """Return the gradient of the outer loss in φ; weights and φ stay as they are.

        Args:
            order: how far it goes through the step.
            radius: of the finite difference, for order 2.
        """
        match order:
            case 1:
                return self._slopes(self.outer)
            case 2:
                return self.judged(radius).gradient
            case "exact":
                return self._exact()
            case "forward":
                return self._forward()

    def _exact(self) -> list[Tensor]:
        view = self.read()
        slopes = self._descent(self.inner(view), create_graph=True)
        return gradient(self.outer(view, self.step(slopes)), self.parameters)

    def judged(self, radius: float = RADIUS) -> Judgement:
        """Return what `gradient` does with order 2, and what the step does to the outer loss.

        There is no second derivative of a loss: the change of the inner gradient with φ, along the direction
        d of `_pulled`, is the difference of two φ-gradients of L_inner at w ± ε d, divided by 2ε, with
        ε = `radius` / ‖d‖.
        """
        direct, direction, change = self._pulled()
        norm = _norm(direction)
        if not norm or not self.parameters:
            return Judgement(direct, change)
        epsilon = radius / norm
        after = self._slopes(self.inner, self._moved(direction, epsilon))
        before = (
            self._slopes(self.inner, self._moved(direction, -epsilon)) if self.known is None else self.known
        )
        span = epsilon if self.known is not None else 2 * epsilon
        further = [(a - b) / span for a, b in zip(after, before, strict=True)]
        return Judgement([own + more for own, more in zip(direct, further, strict=True)], change)

    def _forward(self) -> list[Tensor]:
        """Return the same as `_exact`: the φ-gradient of the inner loss's derivative along `_pulled`'s d."""
        direct, direction, _ = self._pulled()
        if not direction:
            return direct
        load_forward_mode()
        with forward_ad.dual_level():
            moving = {name: dual(self.weights[name].detach(), d) for name, d in direction.items()}
            _, change = parted(self.inner(self.read(), moving))
        if change is None:
            return direct
        through = gradient(change, self.parameters)
        return [own + further for own, further in zip(direct, through, strict=True)]

    def _pulled(self) -> tuple[list[Tensor], dict[str, Tensor], float]:
        """Return the outer gradient of φ after the step, and what a change of the step's gradient counts.

        That is d = (∂w′/∂g)ᵀ ∇L_outer(w′), by weight, where the step's gradient is g: −ξ ∇L_outer(w′) for
        gradient descent at rate ξ. Last, ⟨d, g⟩.
        """
        slopes = self.slopes
        if slopes is None:
            slopes = self._descent(self.inner([part.detach() for part in self.read()]))
        slopes = {name: slope.detach().requires_grad_() for name, slope in slopes.items()}
        after = self.step(slopes)
        unrolled = {name: weight.detach().requires_grad_() for name, weight in after.items()}
        count = len(self.parameters)
        found = gradient(self.outer(self.read(), unrolled), [*self.parameters, *unrolled.values()])
        direct, vector = found[:count], found[count:]
        if not slopes:
            return direct, {}, 0.0
        pulled = torch.autograd.grad(list(after.values()), list(slopes.values()), vector)
        change = sum(
            torch.vdot(d.flatten(), slope.detach().flatten())
            for d, slope in zip(pulled, slopes.values(), strict=True)
        )
        return direct, dict(zip(slopes, pulled, strict=True)), float(change)

    def _moved(self, direction: Mapping[str, Tensor], offset: float) -> dict[str, Tensor]:
        # A learner with an inner loop adapts what requires a gradient.
        return {
            name: (self.weights[name].detach() + offset * d).requires_grad_() for name, d in direction.items()
        }

    def _slopes(self, loss: Loss, weights: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        return gradient(loss(self.read(), weights), self.parameters)

    def _descent(self, loss: Tensor, create_graph: bool = False) -> dict[str, Tensor]:
        """Return the gradient in the weights that a loss depends on: a step moves no others."""
        if not loss.requires_grad or not self.weights:
            return {}
        weights = list(self.weights.values())
        found = torch.autograd.grad(loss, weights, create_graph=create_graph, allow_unused=True)
        return {name: slope for name, slope in zip(self.weights, found, strict=True) if slope is not None}


@cache
def load_forward_mode() -> None:
    """Let torch compile what its first dual tensor needs, without its warning of its own old compiler."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        dual(torch.zeros(()), torch.zeros(()))


def dual(x: Tensor, along: Tensor) -> Tensor:
    """Return a tensor that moves along a direction, within `torch.autograd.forward_ad.dual_level`."""
    moving: Tensor = forward_ad.make_dual(x, along)  # type: ignore[no-untyped-call]
    return moving


def parted(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return a tensor and the direction that it moves along; None: it does not move."""
    found, along = forward_ad.unpack_dual(x)  # type: ignore[no-untyped-call]
    return found, along


def _norm(direction: Mapping[str, Tensor]) -> float:
    if not direction:
        return 0.0
    norms = [torch.linalg.vector_norm(part) for part in direction.values()]
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def gradient(loss: Tensor, inputs: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Return the gradient of a scalar; it is zero in inputs that the loss does not depend on."""
    if not loss.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(loss, inputs, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def owned(optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that an optimizer steps."""
    held = {weight for group in optimizer.param_groups for weight in group["params"]}
    return {name: weight for name, weight in weights.items() if weight.requires_grad and weight in held}


def descended(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor], slopes: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return where plain gradient descent, at the optimizer's rates of the moment, takes the weights.

    Neither momentum nor weight decay count, whatever the optimizer's own step has.
    """
    rates = {weight: group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    return {name: weights[name].detach() - rates[weights[name]] * slope for name, slope in slopes.items()}


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
            f"The step of the optimizer {type(optimizer).__name__} cannot be differentiated, which order 2 "
            "and 'exact' need. Choose order 1."
        ) from None
    twin.state.update(states)
    twin.step()
    return {name: after[name] for name in slopes}


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
