"""Meta-Weight-Net: the weight of an example as a learned function of its loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn

from nas.errors import ConfigError
from nas.learners.weighting import Judge, Judged
from nas.tasks.base import Episode

SHOWN = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
"""The losses whose weights are told in the course of a training."""


@final
class MetaWeightNet(Judged):
    """V_Θ(l), a perceptron with one hidden layer and a sigmoid (Shu et al. 2019).

    On ordinary data, each step of training moves Θ first, by Adam, down the loss of clean examples after a
    virtual step of gradient descent on mean(V_Θ(l) l); then the network, by its own optimizer, on the weights
    of the new Θ. On few-shot tasks Θ is a part of φ, learns with the rest of it through an inner loop, where
    it weighs the support; the queries, by whose loss it learns, count alike. `lr` and `weight_decay` are not
    used.

    The weights of a minibatch are divided by their mean, as in the authors' first code. As they are, their
    mean is a factor on the learning rate, which `weight_mean` tells. Then Θ raises all weights alike while
    the network learns fast, to where the sigmoid is flat, before losses tell right labels from wrong ones.
    """

    name = "meta_weight_net"
    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        *,
        hidden: Annotated[int, Field(ge=1, description="width of the hidden layer")] = 100,
        normalized: Annotated[
            bool, Field(description="divide the weights of a minibatch, or a support, by their mean")
        ] = True,
        lr: Annotated[
            float,
            Field(
                gt=0,
                description="learning rate of Adam, on ordinary data; the paper's 60,000 steps take 1e-3",
            ),
        ] = 1e-4,
        weight_decay: Annotated[float, Field(ge=0, description="L2 penalty, on ordinary data")] = 1e-4,
    ) -> None:
        super().__init__()
        self.normalized = normalized
        self.layers = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())
        self.optimizer = torch.optim.Adam(self.layers.parameters(), lr, weight_decay=weight_decay)

    def forward(self, losses: Tensor, targets: Tensor) -> Tensor:
        """Return V_Θ of each loss, divided by its mean over the task."""
        weights = self.function(losses)
        if not self.normalized:
            return weights
        mean = weights.mean(1, keepdim=True)
        return weights / torch.where(mean > 0, mean, 1)

    def function(self, losses: Tensor) -> Tensor:
        """Return V_Θ of each loss."""
        with torch.autocast(losses.device.type, enabled=False):
            weights: Tensor = self.layers(losses[..., None].to(self.mean.dtype))
        return weights[..., 0]

    def check(self, training: Episode) -> None:
        """Refuse ordinary data without clean examples."""
        if training.shots == 0 and training.clean is None:
            raise ConfigError(
                f"learner.weighting: '{self.name}' learns from clean examples of ordinary data, and here are "
                "none. Set tasks.clean to a number of examples a class, or set another weighting."
            )

    def weigh(self, losses: Tensor, targets: Tensor, judge: Judge) -> Tensor:
        """Take a step of Θ; return the weights under the new one."""
        weights = self(losses, targets)
        parameters = list(self.layers.parameters())
        slopes = torch.autograd.grad(weights, parameters, judge(weights.detach()).to(weights))
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.grad = slope
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            return self(losses, targets)  # type: ignore[no-any-return]

    def measurements(self) -> Mapping[str, float]:
        """Return the mean of weights, and the function: `weight_at_1` is V of a loss of 1."""
        with torch.no_grad():
            weights = self.function(self.mean.new_tensor(SHOWN)).tolist()
        function = {f"weight_at_{loss:g}": weight for loss, weight in zip(SHOWN, weights, strict=True)}
        return {**super().measurements(), **function}
