"""Plain training of a classifier on minibatches: what ordinary data is learned by."""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from nas.learners.base import Learner
from nas.learners.folded import run
from nas.learners.network import Network, normalized
from nas.learners.schedule import Schedule
from nas.space import TaskShape
from nas.tasks.base import Episode


@final
class Classifier(Learner):
    """A backbone and a linear head, trained on minibatches by stochastic gradient descent with momentum.

    It learns ordinary data (`tasks = supervised`), where an episode is one minibatch: nothing is adapted to a
    support. The defaults are those of the weights in Liu et al. (2019, appendix A.1.1), without its clipping.
    """

    name = "classifier"
    ordinary = True
    fixed_ways = True

    def __init__(
        self,
        backbone: nn.Module,
        shape: TaskShape,
        *,
        lr: Annotated[float, Field(gt=0, description="learning rate at the start")] = 0.025,
        momentum: Annotated[float, Field(ge=0, lt=1, description="of the gradients")] = 0.9,
        weight_decay: Annotated[float, Field(ge=0, description="L2 penalty on the weights")] = 3e-4,
        schedule: Schedule = "cosine",
        normalization: Annotated[
            Literal["transductive", "running"],
            Field(description="whether batch norm takes its statistics from the minibatch or from averages"),
        ] = "running",
    ) -> None:
        super().__init__(backbone, shape, lr=lr, schedule=schedule, normalization=normalization)
        self.network = Network(normalized(backbone, normalization), shape.outputs)
        self.momentum, self.weight_decay = momentum, weight_decay

    def forward(self, episode: Episode) -> Tensor:
        """Predict each minibatch: `[T, Q, classes]`."""
        return run(self.network, episode.query_x)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return gradient descent with momentum and weight decay."""
        groups = [{"params": list(self.parameters())}]
        return torch.optim.SGD(groups, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
