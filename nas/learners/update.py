"""Update rules: what an inner loop makes of weights and their gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, TypeAlias, final

import torch
from pydantic import Field
from torch import Tensor, nn

from nas.learners.folded import Weights
from nas.plugins import Slot

State: TypeAlias = Any
"""What a rule remembers from step to step: tensors and numbers, in tuples, lists and dicts."""


class UpdateRule(nn.Module, ABC):
    """One step of an inner loop. Its parameters, where it has any, belong to φ and get the meta-gradient.

    A concrete rule sets `name` and takes `(weights, lr, *, settings...)`: its keyword-only arguments are its
    settings. `weights` are those to adapt, by name and without the axis of the tasks; `lr` is the learner's
    `inner_lr`.

    A rule remembers nothing of a loop itself: `step` is given the state and returns the next one. It changes
    nothing that it is given, is differentiable, and treats each task by itself.
    """

    name: ClassVar[str]
    constant: bool = False
    """Whether it takes gradients and losses for constants: the loop then needs no second derivatives."""
    held: int = 0
    """Numbers for each weight, about, that the graph of a step holds besides that of the gradient."""

    @abstractmethod
    def __init__(self, weights: Mapping[str, Tensor], lr: float) -> None:
        super().__init__()

    def init(self, weights: Weights) -> State:
        """Return the state before the first step from these weights; by default there is none."""
        return ()

    @abstractmethod
    def step(
        self, state: State, weights: Weights, gradients: Weights, losses: Tensor
    ) -> tuple[State, Weights]:
        """Return the next state and the next weights.

        Args:
            state: before the step.
            weights: `[T, …]` by name.
            gradients: of each task's loss, like `weights`.
            losses: each task's loss at these weights, `[T]`.
        """


Make: TypeAlias = Callable[[Mapping[str, Tensor], float], UpdateRule]
"""From the weights to adapt, by name, and the learner's `inner_lr` to a rule."""

Update = Annotated[
    Make, Slot("update rule", UpdateRule), Field(description="rule of the inner steps, at the rate inner_lr")
]

Momentum = Annotated[float, Field(ge=0, lt=1, description="share of the last step's direction that stays")]


class Sgd(UpdateRule):
    """Gradient descent, with heavy-ball momentum where it is asked for (as `torch.optim.SGD`)."""

    name = "sgd"

    def __init__(self, weights: Mapping[str, Tensor], lr: float, *, momentum: Momentum = 0.0) -> None:
        super().__init__(weights, lr)
        self.lr = lr
        self.momentum = momentum

    def init(self, weights: Weights) -> State:
        """Return directions of zero."""
        return {name: torch.zeros_like(weight) for name, weight in weights.items()} if self.momentum else {}

    def step(
        self, state: State, weights: Weights, gradients: Weights, losses: Tensor
    ) -> tuple[State, Weights]:
        """Move the weights against the direction, which is the state."""
        if not self.momentum:
            return state, self._moved(weights, gradients)
        directions = {
            name: torch.add(gradient, state[name], alpha=self.momentum)
            for name, gradient in gradients.items()
        }
        return directions, self._moved(weights, directions)

    def _moved(self, weights: Weights, directions: Weights) -> Weights:
        return {name: torch.sub(weight, directions[name], alpha=self.lr) for name, weight in weights.items()}


@final
class LearnedRates(Sgd):
    """Gradient descent with a learned rate for each weight (Meta-SGD, Li et al. 2017).

    All rates begin at `inner_lr`. One may become negative: it learns the direction of the step too.
    """

    name = "meta_sgd"

    def __init__(self, weights: Mapping[str, Tensor], lr: float, *, momentum: Momentum = 0.0) -> None:
        super().__init__(weights, lr, momentum=momentum)
        self._names = list(weights)
        for number, weight in enumerate(weights.values()):
            self.register_parameter(str(number), nn.Parameter(torch.full_like(weight, lr)))

    def _moved(self, weights: Weights, directions: Weights) -> Weights:
        rates: Weights = {name: getattr(self, str(number)) for number, name in enumerate(self._names)}
        return {name: weight - rates[name] * directions[name] for name, weight in weights.items()}


@final
class Adam(UpdateRule):
    """Adam (Kingma & Ba 2015)."""

    name = "adam"

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        lr: float,
        *,
        beta1: Annotated[float, Field(ge=0, lt=1, description="decay of the mean gradient")] = 0.9,
        beta2: Annotated[float, Field(ge=0, lt=1, description="decay of the mean squared gradient")] = 0.999,
        eps: Annotated[float, Field(gt=0, description="added to the root of the mean square")] = 1e-8,
    ) -> None:
        super().__init__(weights, lr)
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps

    def init(self, weights: Weights) -> State:
        """Return moments of zero: `step`, how many went before; `second`; and `first`, where β₁ is not 0."""
        moments = ("first", "second") if self.beta1 else ("second",)
        zeros = {moment: {name: torch.zeros_like(w) for name, w in weights.items()} for moment in moments}
        return {"step": 0, **zeros}

    def step(
        self, state: State, weights: Weights, gradients: Weights, losses: Tensor
    ) -> tuple[State, Weights]:
        """Move each weight by the mean of its gradients over the root of the mean of their squares."""
        step = state["step"] + 1
        squares = {name: gradient**2 for name, gradient in gradients.items()}
        seconds = _averaged(state["second"], squares, self.beta2)
        following = {"step": step, "second": seconds}
        means = gradients
        if self.beta1:
            following["first"] = _averaged(state["first"], gradients, self.beta1)
            means = {name: first / (1 - self.beta1**step) for name, first in following["first"].items()}
        correction = 1 - self.beta2**step
        # The root of 0 has no derivative; far below eps it makes no difference.
        roots = {name: (s / correction).clamp(min=_TINY).sqrt() for name, s in seconds.items()}
        return following, {
            name: weight - self.lr * means[name] / (roots[name] + self.eps)
            for name, weight in weights.items()
        }


def _averaged(before: Weights, new: Weights, decay: float) -> Weights:
    return {name: torch.lerp(before[name], value, 1 - decay) for name, value in new.items()}


_TINY = 1e-30
