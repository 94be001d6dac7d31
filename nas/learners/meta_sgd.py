"""Meta-SGD: initial weights, and a learned step size for each of them."""

from __future__ import annotations

from typing import Annotated, Any, final

from pydantic import Field
from torch import Tensor, nn

from nas.learners.base import Learner
from nas.learners.inner import InnerSteps, Order, TestSteps
from nas.learners.network import Network, fit, normalized, predict
from nas.learners.update import LearnedRates
from nas.space import TaskShape
from nas.tasks.base import Episode


@final
class MetaSgd(Learner):
    """Meta-SGD (Li et al. 2017): φ is the initial weights and a rate per weight, all learned.

    A rate may become negative: it learns the direction of the step, too. All begin at `inner_lr`, and are of
    steps on the mean loss over the support.
    """

    name = "meta_sgd"
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
        inner_lr: Annotated[
            float, Field(gt=0, description="initial step size on a task's mean support loss")
        ] = 0.4,
        inner_steps: InnerSteps = 1,
        test_steps: TestSteps = None,
        order: Order = 2,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, shape, **settings)
        self.network = Network(normalized(backbone, self.normalization), shape.outputs)
        self.inner_rates = LearnedRates(self.network.trainable, inner_lr)
        self.inner_steps = inner_steps
        self.test_steps = test_steps or inner_steps
        self.order: Order = order
        self.passes = inner_steps if order == 2 else 1

    def forward(self, episode: Episode) -> Tensor:
        """Adapt to each task's support, then predict its queries: `[T, Q, outputs]`."""
        steps = self.inner_steps if self.training else self.test_steps
        adapted = fit(self.network, episode, self.task_losses, self.inner_rates, steps, order=self.order)
        return predict(self.network, episode, self.normalization, adapted)
