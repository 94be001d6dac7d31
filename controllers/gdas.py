"""GDAS: one operation at a time, drawn so that the draw has a gradient (Dong & Yang 2019)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from controllers.derivation import likeliest
from controllers.one_shot import OneShot, descend
from controllers.relaxation import Alpha, AlphaDecay, PacedRate, paced, skips
from nas.backbone import BackboneSpace
from nas.bilevel import gradient
from nas.controller import Derived, SupernetBudget
from nas.metrics import SKIPS
from nas.space import Architecture
from nas.strategy import Batches, Epoch, Strategy
from nas.supernet import Relaxation

Hot = Annotated[float, Field(gt=0, description="temperature of the Gumbel-softmax at the first step")]
Cold = Annotated[
    float, Field(gt=0, description="temperature at the end of the training, approached linearly")
]


@final
class HardGumbel(Strategy):
    """GDAS (Dong & Yang 2019, arXiv 1910.04465, §3.2): each pass computes one choice of each decision.

    The choice is the largest of α plus Gumbel noise, so that it is drawn from softmax(α). Its weight is one,
    the others' zero, with the gradient of softmax((α + noise) / τ) in place of their own: a straight-through
    estimate, of which only the part through the drawn choice is computed (the paper's acceleration). It is
    biased. τ falls linearly over the training.

    A step moves the weights along one draw by the inner batch, then α along another by the outer batch.
    """

    def __init__(
        self,
        space: BackboneSpace,
        relaxation: Relaxation,
        seed: int,
        *,
        hot: Hot = 10.0,
        cold: Cold = 0.1,
        alpha_rate: PacedRate = None,
        alpha_decay: AlphaDecay = 1e-3,
    ) -> None:
        super().__init__(space, relaxation, seed)
        self.alpha = Alpha(relaxation.decisions, self.rng, alpha_rate, alpha_decay)
        self._hot, self._cold = hot, cold

    @classmethod
    def within(cls, settings: Mapping[str, Any], budget: SupernetBudget) -> dict[str, Any]:
        """Pace α by the budget."""
        return paced(settings, budget)

    def step(self, batches: Batches, optimizer: torch.optim.Optimizer, progress: float) -> float:
        """Step the weights along a draw by the inner batch, then α along another by the outer one."""
        temperature = self._hot + progress * (self._cold - self._hot)
        loss = descend(batches.inner([weights.detach() for weights in self.draw(temperature)]), optimizer)
        self.alpha.step(gradient(batches.outer(self.draw(temperature)), list(self.alpha.logits)))
        return loss

    def draw(self, temperature: float) -> list[Tensor]:
        """Draw a one-hot for each decision, its gradient that of the softmax at this temperature."""
        return [
            straight_through(logits, torch.as_tensor(noise).to(logits), temperature)
            for logits in self.alpha.logits
            for noise in [self.rng.gumbel(size=len(logits))]
        ]

    def mixture(self) -> list[Tensor]:
        """Return the path of the strongest choices."""
        return self.relaxation.mixture_of(self._strongest())

    def _strongest(self) -> Architecture:
        with torch.no_grad():
            return self.relaxation.derive(self.alpha.mixture())

    def end_epoch(self, batches: Batches) -> Epoch:
        """Return softmax(α), its entropy and the skip connections."""
        architecture = self._strongest()
        skipped = float(skips(self.space, architecture))
        return Epoch(architecture, {**self.alpha.measurements(), SKIPS: skipped})

    def derive(self, number: int, score: Callable[[Architecture], float]) -> Sequence[Derived]:
        """Return the architecture of the strongest choices, then the next most probable ones."""
        return likeliest(self.space, self.relaxation, self.alpha.mixture(), number, score)


@final
class Gdas(OneShot):
    """Trains a supernet by GDAS, then evaluates what it derives."""

    strategy = "gdas"
    settings_of = HardGumbel


def straight_through(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Return the one-hot of the largest of `logits + noise`, with the gradient of the tempered softmax.

    All work along the last axis: `[..., choices]`.
    """
    noisy = logits + noise
    soft = (noisy / temperature).softmax(-1)
    hard = F.one_hot(noisy.argmax(-1), noisy.shape[-1]).to(soft)
    return hard + (soft - soft.detach())
