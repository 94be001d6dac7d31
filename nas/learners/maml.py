"""Model-agnostic meta-learning: initial weights from which few gradient steps learn a task."""

from __future__ import annotations

from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn

from nas.learners.base import Learner, Normalization, adam
from nas.learners.folded import Weights, run, stacked
from nas.learners.inner import Order, adapt, sgd
from nas.learners.network import Network, normalized, predict, support_loss
from nas.learners.schedule import Schedule, decay
from nas.space import TaskShape
from nas.tasks.base import Episode


@final
class Maml(Learner):
    """MAML (Finn et al. 2017), or with `order` 1 its first-order approximation (section 5.2), FOMAML.

    φ is the initial weights of the backbone and of a linear head; all of them adapt, by gradient descent on
    the mean loss over the support. Finn's code steps on that loss times the number of classes, so its rate
    of 0.4 for 5-way Omniglot and of 0.1 for 20-way are both an `inner_lr` of 2.0; from random weights a
    smaller one learns faster. Regression wants far smaller steps: 0.01 for the sinusoids. Batch norm takes
    its statistics from the support where the network adapts; `normalization` says from where it takes them
    where it predicts.
    """

    name = "maml"
    regression = True
    sensitive = True
    fixed_ways = True
    rates = ("inner_lr", "lr")

    def __init__(
        self,
        backbone: nn.Module,
        shape: TaskShape,
        *,
        inner_lr: Annotated[float, Field(gt=0, description="step size on a task's mean support loss")] = 0.4,
        inner_steps: Annotated[int, Field(ge=1, description="gradient steps on a task")] = 1,
        test_steps: Annotated[
            int | None, Field(ge=1, description="gradient steps in evaluation, if other than inner_steps")
        ] = None,
        order: Annotated[Order, Field(description="2, or 1 to leave out second derivatives")] = 2,
        lr: Annotated[float, Field(gt=0, description="learning rate of Adam on the initial weights")] = 1e-3,
        schedule: Schedule = "constant",
        meta_batch: Annotated[int, Field(ge=1, description="tasks per meta-step")] = 1,
        normalization: Normalization = "transductive",
    ) -> None:
        super().__init__(backbone, shape)
        self.network = Network(normalized(backbone, normalization), shape.outputs)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.test_steps = test_steps or inner_steps
        self.order: Order = order
        self.lr = lr
        self.decay = decay(schedule)
        self.meta_batch = meta_batch
        self.passes = inner_steps if order == 2 else 1
        self.normalization = normalization

    def forward(self, episode: Episode) -> Tensor:
        """Adapt to each task's support, then predict its queries: `[T, Q, outputs]`."""

        def loss(weights: Weights) -> Tensor:
            return support_loss(run(self.network, episode.support_x, weights), episode)

        initial = stacked(self.network.trainable, len(episode))
        steps = self.inner_steps if self.training else self.test_steps
        adapted = adapt(loss, initial, sgd(self.inner_lr), steps, order=self.order)
        return predict(self.network, episode, self.normalization, adapted)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return adam(self, self.lr)
