"""DARTS: a softmax over competing operations, learned by gradient descent like the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from controllers.collapse import StopEigenvalue, StopSkips, Watch
from controllers.curvature import largest_eigenvalue
from controllers.derivation import likeliest
from controllers.one_shot import OneShot, descend
from controllers.relaxation import Alpha, AlphaDecay, PacedRate, paced, skips
from controllers.unrolled import exact, second_order
from nas.backbone import BackboneSpace
from nas.controller import Derived, SupernetBudget
from nas.metrics import SKIPS
from nas.space import Architecture
from nas.strategy import Batches, Epoch, Strategy
from nas.supernet import Relaxation

Order = Annotated[
    Literal[1, 2, "exact"],
    Field(
        description="of the gradient of α: 1, at the present weights; 2, after their next step, the second "
        "derivative by a finite difference; exact, the same by autograd"
    ),
]


@final
class Softmax(Strategy):
    """DARTS (Liu et al. 2019, arXiv 1806.09055, Algorithm 1): every choice computed, mixed by softmax(α).

    A step first moves α by Adam down ∇_α L_val(w′(α), α), then the weights down ∇_w L_train(w, α). With order
    1 w′ is w; else it is where the weights' optimizer takes w next. By gradient descent that is the paper's
    w − ξ ∇_w L_train(w, α), with momentum and weight decay as in its code; by Adam it is Adam's step. L_train
    is the loss of the inner batch, L_val that of the outer one.

    By Adam α moves by about `alpha_rate` a step; the default is the paper's, for some 20,000 steps. Order 2
    takes a difference that crosses kinks of ReLU, and is rough where batches are small; `exact` takes about
    as long, and more memory.

    It derives the architecture of the strongest choices, then the next most probable ones. A collapse, where
    it is watched, ends the training, and takes α back to before.
    """

    heavy = ("order",)

    def __init__(
        self,
        space: BackboneSpace,
        relaxation: Relaxation,
        seed: int,
        *,
        order: Order = 1,
        alpha_rate: PacedRate = None,
        alpha_decay: AlphaDecay = 1e-3,
        stop_skips: StopSkips = None,
        stop_eigenvalue: StopEigenvalue = None,
    ) -> None:
        super().__init__(space, relaxation, seed)
        self.alpha = Alpha(relaxation.decisions, self.rng, alpha_rate, alpha_decay)
        self.watch = Watch(stop_skips, stop_eigenvalue)
        self._order, self._curved = order, stop_eigenvalue is not None

    @classmethod
    def within(cls, settings: Mapping[str, Any], budget: SupernetBudget) -> dict[str, Any]:
        """Pace α by the budget."""
        return paced(settings, budget)

    def step(self, batches: Batches, optimizer: torch.optim.Optimizer, progress: float) -> float:
        """Step α by the outer batch, then the weights by the inner one."""
        self.alpha.step(self._gradient(batches, optimizer))
        return descend(batches.inner(self.mixture()), optimizer)

    def _gradient(self, batches: Batches, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        match self._order:
            case 1:
                return self.alpha.gradient(batches.outer)
            case 2:
                return second_order(self.alpha, batches, optimizer)
            case "exact":
                return exact(self.alpha, batches, optimizer)

    def mixture(self) -> list[Tensor]:
        """Return softmax(α)."""
        return [weights.detach() for weights in self.alpha.mixture()]

    def end_epoch(self, batches: Batches) -> Epoch:
        """Return softmax(α), its entropy, the skip connections and, where it is watched, the eigenvalue.

        After a collapse they are of the α that collapsed; the architecture is that of the α gone back to.
        """
        skipped = skips(self.space, self.relaxation.derive(self.mixture()))
        measurements = {**self.alpha.measurements(), SKIPS: float(skipped)}
        eigenvalue = None
        if self._curved:
            eigenvalue = largest_eigenvalue(self.alpha, batches.outer, self.rng)
            measurements["alpha_eigenvalue"] = eigenvalue
        collapse = self.watch.observe(list(self.alpha.logits), skipped, eigenvalue)
        if collapse:
            self.alpha.restore(collapse.logits)
        reason = collapse.reason if collapse else None
        return Epoch(self.relaxation.derive(self.mixture()), measurements, reason)

    def derive(self, number: int, score: Callable[[Architecture], float]) -> Sequence[Derived]:
        """Return the architecture of the strongest choices, then the next most probable ones."""
        return likeliest(self.space, self.relaxation, self.mixture(), number, score)


@final
class Darts(OneShot):
    """Trains a supernet by DARTS, then evaluates what it derives."""

    strategy = "darts"
    settings_of = Softmax
