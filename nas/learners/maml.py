"""Model-agnostic meta-learning: initial weights from which few gradient steps learn a task."""

from __future__ import annotations

from typing import Annotated, final

from pydantic import Field
from torch import Tensor, nn

from nas.learners.base import Learner, MetaBatch, Normalization
from nas.learners.inner import InnerRate, InnerSteps, Order, TestSteps
from nas.learners.network import Network, fit, normalized, predict
from nas.learners.schedule import Schedule, decay
from nas.learners.update import Sgd, Update
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
    heavy = ("order", "inner_steps")

    def __init__(
        self,
        backbone: nn.Module,
        shape: TaskShape,
        *,
        inner_lr: InnerRate = 0.4,
        inner_steps: InnerSteps = 1,
        test_steps: TestSteps = None,
        order: Order = 2,
        lr: Annotated[float, Field(gt=0, description="learning rate of Adam on the initial weights")] = 1e-3,
        schedule: Schedule = "constant",
        meta_batch: MetaBatch = 1,
        update: Update = Sgd,
        normalization: Normalization = "transductive",
    ) -> None:
        super().__init__(backbone, shape)
        self.network = Network(normalized(backbone, normalization), shape.outputs)
        self.update = update(self.network.trainable, inner_lr)
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
        steps = self.inner_steps if self.training else self.test_steps
        adapted = fit(self.network, episode, self.task_losses, self.update, steps, order=self.order)
        return predict(self.network, episode, self.normalization, adapted)
