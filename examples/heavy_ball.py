"""An update rule of one's own: momentum whose rate and share are learned with the initial weights."""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from nas.learners.update import UpdateRule

Share = Annotated[float, Field(gt=0, lt=1, description="share of the last direction, at the start")]


class HeavyBall(UpdateRule):
    """v ← β v + g, w ← w − α v: α and β, one each for all weights, get the meta-gradient."""

    name = "heavy_ball"

    def __init__(self, weights, lr, *, momentum: Share = 0.5):
        super().__init__(weights, lr)
        self.log_rate = nn.Parameter(torch.tensor(lr).log())
        self.logit = nn.Parameter(torch.tensor(momentum).logit())

    def init(self, weights):
        """Return directions of zero."""
        return {name: torch.zeros_like(weight) for name, weight in weights.items()}

    def step(self, state, weights, gradients, losses):
        """Return the next directions and weights."""
        rate, share = self.log_rate.exp(), self.logit.sigmoid()
        state = {name: share * state[name] + gradient for name, gradient in gradients.items()}
        return state, {name: weight - rate * state[name] for name, weight in weights.items()}
