"""Model-agnostic meta-learning: initial weights from which few gradient steps learn a task."""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from nas.learners.base import Learner, adam, task_loss
from nas.learners.inner import Weights, adapt, sgd
from nas.learners.network import Network, batch_statistics
from nas.space import TaskShape
from nas.tasks.base import Episode


@final
class Maml(Learner):
    """MAML (Finn et al. 2017), or with `order` 1 its first-order approximation (section 5.2).

    φ is the initial weights of the backbone and of a linear head; all of them adapt, by gradient descent on
    the mean loss over the support. Finn's code steps on that loss times the number of classes, so its rate
    of 0.4 for 5-way Omniglot and of 0.1 for 20-way are both an `inner_lr` of 2.0; from random weights a
    smaller one learns faster. Regression wants far smaller steps: 0.01 for the sinusoids. Batch norm takes
    its statistics from the support where the network adapts, from the queries where it predicts them.
    """

    name = "maml"
    regression = True
    sensitive = True
    normalization = "transductive"

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
        order: Annotated[Literal[1, 2], Field(description="2, or 1 to leave out second derivatives")] = 2,
        lr: Annotated[float, Field(gt=0, description="learning rate of Adam on the initial weights")] = 1e-3,
        meta_batch: Annotated[int, Field(ge=1, description="tasks per meta-step")] = 1,
    ) -> None:
        super().__init__(backbone, shape)
        self.network = Network(batch_statistics(backbone), shape.outputs)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.test_steps = test_steps or inner_steps
        self.order: Literal[1, 2] = order
        self.lr = lr
        self.meta_batch = meta_batch

    def forward(self, episode: Episode) -> Tensor:
        """Adapt to each task's support, then predict its queries: `[T, Q, outputs]`."""
        return torch.stack([self._predict(task) for task in episode])

    def _predict(self, task: Episode) -> Tensor:
        def support_loss(weights: Weights) -> Tensor:
            return task_loss(functional_call(self.network, weights, task.support_x[0]), task.support_y[0])

        initial: Weights = {name: w for name, w in self.network.named_parameters() if w.requires_grad}
        steps = self.inner_steps if self.training else self.test_steps
        adapted = adapt(support_loss, initial, sgd(self.inner_lr), steps, order=self.order)
        return functional_call(self.network, adapted, task.query_x[0])  # type: ignore[no-any-return]

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return adam(self, self.lr)
