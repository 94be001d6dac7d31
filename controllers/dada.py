"""DADA: a policy of augmentation learned by gradients, with the network that it augments for or alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from controllers.derivation import likeliest
from controllers.one_shot import OneShot
from controllers.relax import ControlVariate, Draws, draw, relax
from controllers.relaxation import (
    BETAS,
    INITIAL,
    RATE,
    AlphaDecay,
    PacedRate,
    paced,
    skips,
    weights_of,
)
from nas.bilevel import Problem, gradient, owned, stepped
from nas.controller import Derived, SupernetBudget
from nas.metrics import SKIPS
from nas.space import Architecture, Space
from nas.strategy import Batches, Epoch, Strategy
from nas.supernet import Relaxation

CONTROL_RATE = 1e-2
"""Learning rate of the control variate, by Adam."""

MEMORY = 0.99
"""Of the mean square of the losses that draws are judged by, step after step."""


@final
class JudgedSteps(Strategy):
    """DADA (Li et al. 2020, arXiv 2003.03780): each step of the weights judges what was drawn for it.

    A step draws one choice of each decision that is drawn: one sub-policy, and which of its operations happen
    to the whole inner batch. Down g, the gradient of that batch's loss, goes the step of the weights, w′. The
    outer batch, which no policy touches, judges it by ⟨∇L_outer(w′), (∂w′/∂g) g⟩: how much g changed the
    outer loss by the step. What momentum adds, no draw decides. The gradient of its mean in the logits of
    what was drawn is estimated by RELAX, with a control variate that learns to make the estimate's square
    small. What has a gradient of its own, α of a network and the magnitudes of a policy, learns down
    L_outer(w′(φ), φ), the second derivative by a finite difference. The weights then take the step that was
    judged.

    In the authors' code RELAX is applied to L_inner at two weights, and the control variate cancels in the
    difference of the two. Here it is applied once, to what the difference stands for.

    All logits learn by Adam at one rate. What is judged is taken in units of its recent size, which falls by
    orders of magnitude while the weights learn; what is seldom drawn moves further, see `_rarity`. It derives
    the choices of the largest weights.
    """

    unrolls = True
    size: Tensor

    def __init__(
        self,
        space: Space[Any],
        relaxation: Relaxation,
        seed: int,
        *,
        alpha_rate: PacedRate = None,
        alpha_decay: AlphaDecay = 1e-3,
    ) -> None:
        super().__init__(space, relaxation, seed)
        decisions = relaxation.decisions
        self._sizes = [len(decision.choices) for decision in decisions]
        self._places = {i: place for place, i in enumerate(sorted(relaxation.drawn))}
        self._free = [i for i in range(len(decisions)) if i not in relaxation.conditions]
        self._bound = dict[tuple[int, int], list[int]]()
        for i, condition in sorted(relaxation.conditions.items()):
            self._bound.setdefault(condition, []).append(i)
        self._idle = [torch.full((n,), 1 / n) for n in self._sizes]
        beginning = self.rng.normal(0, INITIAL, sum(self._sizes))
        self.learned = nn.Parameter(torch.tensor(beginning, dtype=torch.float32))
        self._paces = torch.tensor(self._rarity()).repeat_interleave(torch.tensor(self._sizes))
        adam = torch.optim.Adam([self.learned], alpha_rate or RATE, BETAS, weight_decay=alpha_decay)
        sizes = [self._sizes[i] for i in sorted(relaxation.drawn)]
        self.control = ControlVariate(sizes, self.rng) if sizes else None
        self._adams = [adam]
        if self.control is not None:
            self._adams.append(torch.optim.Adam(self.control.parameters(), CONTROL_RATE, fused=True))
        self.register_buffer("size", torch.zeros((), dtype=torch.float64))

    def _rarity(self) -> list[float]:
        """Return how much further the logits of each decision move than what Adam learns.

        A choice of n that is drawn, of a decision that matters in a share q of the steps, has the root mean
        square of its gradients lowered to √(q (n − 1)) / n of what it is where all matters, and their mean by
        the square of that. Adam divides the one by the other, so that what is seldom drawn would move less
        by the same effect. As a measure serve two choices of which one is always drawn.
        """
        found, reached = list[float](), list[float]()
        for i, size in enumerate(self._sizes):
            other = self.relaxation.conditions.get(i)
            reached.append(1.0 if other is None else reached[other[0]] / self._sizes[other[0]])
            spread = 2 * (size - 1) ** 0.5 / size if i in self._places and size > 1 else 1.0
            found.append(1 / (spread * reached[i] ** 0.5))
        return found

    @property
    def _logits(self) -> list[Tensor]:
        """The logits of each decision."""
        return list(torch.split(self._paces.to(self.learned) * self.learned.detach(), self._sizes))

    @classmethod
    def within(cls, settings: Mapping[str, Any], budget: SupernetBudget) -> dict[str, Any]:
        """Pace the logits by the budget."""
        return paced(settings, budget)

    def step(self, batches: Batches, optimizer: torch.optim.Optimizer, progress: float) -> float:
        """Draw, judge the step of the weights, teach the logits, and take the step."""
        logits = dict(enumerate(self._logits))
        drawn, reached = self._draw(logits)
        own = {i: logits[i].clone().requires_grad_() for i in reached if i not in drawn}
        read = partial(self._view, drawn, own)
        weights = owned(optimizer, batches.weights)
        loss = batches.inner(read())
        count = len(own)
        found = gradient(loss, [*own.values(), *weights.values()])
        slopes = dict(zip(weights, found[count:], strict=True))
        problem = Problem(
            [*own.values()],
            read,
            batches.inner,
            batches.outer,
            weights,
            partial(stepped, optimizer, weights),
            slopes,
            found[:count],
        )
        judged = problem.judged()
        gradients = dict(zip(own, judged.gradient, strict=True)) | self._relaxed(drawn, judged.change)
        slope = torch.cat([gradients.get(i, torch.zeros_like(own_)) for i, own_ in logits.items()])
        self.learned.grad = self._paces.to(slope) * slope
        self._adams[0].step()
        for name, weight in weights.items():
            weight.grad = slopes[name]
        optimizer.step()
        return float(loss.detach())

    def _draw(self, logits: Mapping[int, Tensor]) -> tuple[dict[int, Draws], list[int]]:
        """Draw; return what was drawn, and the decisions that matter then."""
        drawn, reached = dict[int, Draws](), list[int]()
        waiting = list(self._free)
        while waiting:
            i = waiting.pop(0)
            reached.append(i)
            if i in self._places:
                drawn[i] = draw(logits[i], 1, self.rng)
                waiting += self._bound.get((i, int(drawn[i].choices)), [])
        return drawn, reached

    def _view(self, drawn: Mapping[int, Draws], own: Mapping[int, Tensor]) -> list[Tensor]:
        """Return the mixture: what was drawn has weight 1; what does not matter, any weights."""
        mixture = list(self._idle)
        for i, each in drawn.items():
            mixture[i] = each.one_hot[0]
        for i, logits in own.items():
            mixture[i] = logits.softmax(0)
        return mixture

    def _relaxed(self, drawn: Mapping[int, Draws], change: float) -> dict[int, Tensor]:
        """Return the gradients in the logits of what was drawn; teach the control variate."""
        if self.control is None:
            return {}
        square = torch.tensor(change, dtype=torch.float64) ** 2
        self.size.copy_(torch.where(self.size > 0, self.size.lerp(square, 1 - MEMORY), square))
        size = max(float(self.size.sqrt()), torch.finfo(torch.float32).tiny)
        losses = self.learned.new_tensor([change / size])
        found = relax(losses, [(self._places[i], each) for i, each in drawn.items()], self.control)
        spread = torch.cat([slope.flatten() for slope in found]).square().mean()
        parameters = list(self.control.parameters())
        for parameter, slope in zip(parameters, gradient(spread, parameters), strict=True):
            parameter.grad = slope
        self._adams[1].step()
        return {i: slope[0].detach() for i, slope in zip(drawn, found, strict=True)}

    def mixture(self) -> list[Tensor]:
        """Return the softmax of all logits."""
        return [logits.softmax(0) for logits in self._logits]

    def end_epoch(self, batches: Batches) -> Epoch:
        """Return the weights by which choices are added up or drawn, their entropy, and skip connections."""
        mixture, decisions = self.mixture(), self.relaxation.decisions
        told = [i for i in range(len(decisions)) if i not in self.relaxation.graded]
        measurements = weights_of([decisions[i] for i in told], [mixture[i] for i in told])
        architecture = self.relaxation.derive(mixture)
        return Epoch(architecture, {**measurements, SKIPS: float(skips(self.space, architecture))})

    def derive(self, number: int, score: Callable[[Architecture], float]) -> Sequence[Derived]:
        """Return the architecture of the largest weights, then the next most probable ones."""
        return likeliest(self.space, self.relaxation, self.mixture(), number, score)

    def get_extra_state(self) -> Any:
        """Return the states of `rng` and of both optimizers."""
        return {"rng": super().get_extra_state(), "adams": [adam.state_dict() for adam in self._adams]}

    def set_extra_state(self, state: Any) -> None:
        """Restore them."""
        super().set_extra_state(state["rng"])
        for adam, saved in zip(self._adams, state["adams"], strict=True):
            adam.load_state_dict(saved)


@final
class Dada(OneShot):
    """Learns a policy of augmentation, and a network if the space has a supernet; evaluates both anew.

    The policy is that of `autoaugment`, which must be left to be chosen: in the slot `learner.augmentation`,
    `{name="autoaugment", policy="any"}`. A space without a supernet keeps its default network.
    """

    strategy = "dada"
    settings_of = JudgedSteps
