"""Model-agnostic meta-learning: initial weights from which few gradient steps learn a task."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn

from nas.learners.base import Learner
from nas.learners.inner import InnerRate, InnerSteps, Order, TestSteps, held
from nas.learners.network import Network, fit, normalized, predict
from nas.learners.update import Sgd, Update
from nas.space import TaskShape
from nas.tasks.base import Episode


@final
class Maml(Learner):
    """MAML (Finn et al. 2017), or with `order` 1 its first-order approximation (section 5.2), FOMAML.

    φ is the initial weights of the backbone and of a linear head; all of them adapt, by gradient descent on
    the mean loss over the support. Batch norm takes its statistics from the support where the network adapts;
    `normalization` says from where it takes them where it predicts.
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
        update: Update = Sgd,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, shape, **settings)
        self.network = Network(normalized(backbone, self.normalization), shape.outputs)
        self.update = update(self.network.trainable, inner_lr)
        self.inner_steps = inner_steps
        self.test_steps = test_steps or inner_steps
        self.order: Order = order
        self.passes = 1 if order == 1 or self.update.constant else inner_steps
        self.held = held(self.update, self.network.trainable, inner_steps)

    def forward(self, episode: Episode) -> Tensor:
        """Adapt to each task's support, then predict its queries: `[T, Q, outputs]`."""
        steps = self.inner_steps if self.training else self.test_steps
        adapted = fit(self.network, episode, self.task_losses, self.update, steps, order=self.order)
        return predict(self.network, episode, self.normalization, adapted)
