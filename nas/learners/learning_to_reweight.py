"""Learning to reweight: an example counts as much as its gradient agrees with that of clean examples."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from nas.errors import ConfigError
from nas.learners.weighting import Judge, Judged
from nas.tasks.base import Episode


@final
class LearningToReweight(Judged):
    """Weighs afresh at every step, by the closed form of Ren et al. (2018, algorithm 1).

    u_i = −∂/∂ε_i L_clean(w − α ∇ Σ ε_j l_j) at ε = 0, that is α ⟨∇l_i(w), ∇L_clean(w)⟩; the weights are the
    positive parts of u over their sum, times the number of examples. α cancels. Where no u is positive, all
    weights are zero.
    """

    name = "learning_to_reweight"

    def forward(self, losses: Tensor, targets: Tensor) -> Tensor:
        """Refuse: losses alone do not tell the weights.

        Raises:
            ConfigError: always.
        """
        raise _lacking(self.name)

    def check(self, training: Episode) -> None:
        """Refuse training tasks without clean examples."""
        if training.clean is None:
            raise _lacking(self.name)

    def weigh(self, losses: Tensor, targets: Tensor, judge: Judge) -> Tensor:
        """Return the weights `[T, B]`, of mean 1 or 0 in each minibatch."""
        useful = (-judge(torch.zeros_like(losses))).clamp(min=0)
        total = useful.sum(1, keepdim=True)
        return useful / torch.where(total > 0, total, 1) * losses.shape[1]


def _lacking(name: str) -> ConfigError:
    return ConfigError(
        f"learner.weighting: '{name}' weighs the examples of ordinary data by clean ones, and here are none. "
        "Set tasks.clean of the tasks 'supervised' to a number of examples a class, or another weighting."
    )
