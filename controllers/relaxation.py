"""α, the logits of a relaxed choice: what DARTS and GDAS learn besides the supernet's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from nas.bilevel import gradient
from nas.controller import SupernetBudget
from nas.metrics import alpha_metric
from nas.space import Architecture, Decision, Role, Space

PacedRate = Annotated[
    float | None,
    Field(
        gt=0,
        description="learning rate of α, by Adam; by default 6 / steps of the whole training: α moves as far "
        "as by 3e-4 in the 20,000 steps of the paper",
    ),
]
AlphaDecay = Annotated[float, Field(ge=0, description="weight decay of α")]

BETAS = (0.5, 0.999)
"""Of the Adam that learns α (Liu et al. 2019, §A.1.1; Dong & Yang 2019, §4.2)."""

RATE = 3e-4
"""Learning rate of α in the papers (Liu et al. 2019, §A.1.1; Dong & Yang 2019, §4.2)."""

TRAVEL = 6.0
"""How far α can move in the training of Liu et al. (2019, §A.1.1): 3e-4 in each of some 20,000 steps."""

INITIAL = 1e-3
"""Standard deviation of α at the beginning, as in the code of DARTS."""


def paced(settings: Mapping[str, Any], budget: SupernetBudget) -> dict[str, Any]:
    """Return settings with an `alpha_rate`; by default α can move by `TRAVEL` in the whole training."""
    rate = TRAVEL / (budget.epochs * budget.steps)
    return {**settings, "alpha_rate": rate if settings["alpha_rate"] is None else settings["alpha_rate"]}


@final
class Alpha(nn.Module):
    """A logit for each choice of each decision of a supernet, learned by Adam.

    Args:
        decisions: the supernet's.
        rng: draws the beginning.
        rate: Adam's learning rate; None: `RATE`.
        decay: Adam's L2 weight decay.
    """

    def __init__(
        self, decisions: Sequence[Decision], rng: np.random.Generator, rate: float | None, decay: float
    ) -> None:
        super().__init__()
        self._decisions = tuple(decisions)
        self.logits = nn.ParameterList(
            nn.Parameter(torch.tensor(rng.normal(0, INITIAL, len(decision.choices)), dtype=torch.float32))
            for decision in decisions
        )
        self._adam = torch.optim.Adam(self.logits, rate or RATE, BETAS, weight_decay=decay)

    def mixture(self) -> list[Tensor]:
        """Return the softmax of each decision's logits, with a graph."""
        return [logits.softmax(0) for logits in self.logits]

    def gradient(self, loss: Callable[[list[Tensor]], Tensor]) -> list[Tensor]:
        """Return the gradient of a loss of the mixture in the logits."""
        return gradient(loss(self.mixture()), list(self.logits))

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Take a step of Adam down these gradients."""
        for logits, slope in zip(self.logits, gradients, strict=True):
            logits.grad = slope.detach()
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def restore(self, logits: Sequence[Tensor]) -> None:
        """Go back to these logits; Adam's moments stay."""
        with torch.no_grad():
            for own, other in zip(self.logits, logits, strict=True):
                own.copy_(other)

    def measurements(self) -> dict[str, float]:
        """Return the softmax, choice by choice, and its entropy in nats, on average over the decisions."""
        with torch.no_grad():
            return weights_of(self._decisions, self.mixture())

    def get_extra_state(self) -> Any:
        """Return Adam's moments, for `state_dict`."""
        return self._adam.state_dict()

    def set_extra_state(self, state: Any) -> None:
        """Restore Adam's moments."""
        self._adam.load_state_dict(state)


def weights_of(decisions: Sequence[Decision], mixture: Sequence[Tensor]) -> dict[str, float]:
    """Return a mixture's weights by metric, and `alpha_entropy`, in nats, on average over the decisions."""
    entropies = torch.stack([torch.special.entr(weights).sum() for weights in mixture])
    by_choice = {
        alpha_metric(decision.name, choice): weight
        for decision, weights in zip(decisions, mixture, strict=True)
        for choice, weight in zip(decision.choices, weights.tolist(), strict=True)
    }
    return {"alpha_entropy": float(entropies.mean()), **by_choice}


def skips(space: Space[Any], architecture: Architecture) -> int:
    """Return how many of an architecture's choices are skip connections."""
    chosen = zip(space.decisions, architecture.choices, strict=True)
    return sum(decision.role(choice) is Role.IDENTITY for decision, choice in chosen)
