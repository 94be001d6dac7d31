"""DrNAS: the mixture is drawn from a Dirichlet distribution that is learned (Chen et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Dirichlet

from controllers.derivation import likeliest
from controllers.one_shot import OneShot, descend
from controllers.relaxation import Alpha, AlphaDecay, PacedRate, paced, skips, weights_of
from nas.backbone import BackboneSpace
from nas.bilevel import gradient
from nas.controller import Derived, SupernetBudget
from nas.metrics import SKIPS
from nas.space import Architecture
from nas.strategy import Batches, Epoch, Strategy
from nas.supernet import Relaxation


@final
class DrawnMixture(Strategy):
    """DrNAS (Chen et al. 2021, arXiv 2006.10355, §3.2): every choice computed, mixed by a random draw.

    The weights of a decision are drawn from Dirichlet(β) with β = ELU(α) + 1. At the start β is one: every
    mixture is equally likely. α learns by the pathwise gradient of the draw, and its weight decay pulls β
    back to one. A step moves α along one draw by the outer batch, then the weights along another by the inner
    batch.

    The mean β / Σβ stands for what is learned: by it architectures are scored along the way, and derived. The
    paper's progressive pruning of operations, with ever more channels, is left out.
    """

    def __init__(
        self,
        space: BackboneSpace,
        relaxation: Relaxation,
        seed: int,
        *,
        alpha_rate: PacedRate = None,
        alpha_decay: AlphaDecay = 1e-3,
    ) -> None:
        super().__init__(space, relaxation, seed)
        self.alpha = Alpha(relaxation.decisions, self.rng, alpha_rate, alpha_decay)

    @classmethod
    def within(cls, settings: Mapping[str, Any], budget: SupernetBudget) -> dict[str, Any]:
        """Pace α by the budget."""
        return paced(settings, budget)

    def step(self, batches: Batches, optimizer: torch.optim.Optimizer, progress: float) -> float:
        """Step α along a draw by the outer batch, then the weights along another by the inner one."""
        self.alpha.step(gradient(batches.outer(self.draw()), list(self.alpha.logits)))
        return descend(batches.inner([weights.detach() for weights in self.draw()]), optimizer)

    def draw(self) -> list[Tensor]:
        """Draw the weights of each decision's choices, with their pathwise gradient in α."""
        return [dirichlet(logits, int(self.rng.integers(2**63))) for logits in self.alpha.logits]

    def mixture(self) -> list[Tensor]:
        """Return the mean of the draws."""
        with torch.no_grad():
            betas = [concentration(logits) for logits in self.alpha.logits]
            return [beta / beta.sum() for beta in betas]

    def end_epoch(self, batches: Batches) -> Epoch:
        """Return the mean of the draws, its entropy and the skip connections."""
        mean = self.mixture()
        architecture = self.relaxation.derive(mean)
        skipped = float(skips(self.space, architecture))
        return Epoch(architecture, {**weights_of(self.relaxation.decisions, mean), SKIPS: skipped})

    def derive(self, number: int, score: Callable[[Architecture], float]) -> Sequence[Derived]:
        """Return the architecture of the strongest choices, then the next most probable ones."""
        return likeliest(self.space, self.relaxation, self.mixture(), number, score)


@final
class DrNas(OneShot):
    """Trains a supernet by DrNAS, then evaluates what it derives."""

    strategy = "drnas"
    settings_of = DrawnMixture


def concentration(logits: Tensor) -> Tensor:
    """Return β = ELU(α) + 1, positive."""
    return F.elu(logits) + 1


def dirichlet(logits: Tensor, seed: int) -> Tensor:
    """Draw from Dirichlet(β) along the last axis, `[..., choices]`, with the pathwise gradient in α.

    The draw is made in float64, on the CPU: a float32 gamma variate of a small β is easily zero.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        drawn = Dirichlet(concentration(logits.to("cpu", torch.float64))).rsample()
    return drawn.to(logits)
