"""Almost no inner loop: only the head adapts to a task."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from nas.learners.base import Learner
from nas.learners.folded import Weights, stacked
from nas.learners.inner import InnerRate, InnerSteps, Order, TestSteps, adapt, held
from nas.learners.network import Network, embed, normalized
from nas.learners.update import Sgd, Update
from nas.space import TaskShape
from nas.tasks.base import Episode


@final
class Anil(Learner):
    """ANIL (Raghu et al. 2020): MAML whose inner loop adapts the linear head alone.

    φ is the weights of the backbone, which no task changes, and the initial ones of the head. A task's
    examples pass through the backbone once, however many steps the head takes.
    """

    name = "anil"
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
        inner_steps: InnerSteps = 5,
        test_steps: TestSteps = None,
        order: Order = 2,
        update: Update = Sgd,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, shape, **settings)
        self.network = Network(normalized(backbone, self.normalization), shape.outputs)
        head = dict(self.network.head.named_parameters())
        self.update = update(head, inner_lr)
        self.held = held(self.update, head, inner_steps)
        self.inner_steps = inner_steps
        self.test_steps = test_steps or inner_steps
        self.order: Order = order

    def forward(self, episode: Episode) -> Tensor:
        """Adapt the head to each task's support, then predict its queries: `[T, Q, outputs]`."""
        features = embed(self.network.backbone, episode, self.normalization, joint=False)
        support, queries = (f.to(self.network.head.weight.dtype) for f in features)

        def loss(head: Weights) -> Tensor:
            return self.task_losses(_linear(support, head), episode.support_y)

        initial = stacked(dict(self.network.head.named_parameters()), len(episode))
        steps = self.inner_steps if self.training else self.test_steps
        return _linear(queries, adapt(loss, initial, self.update, steps, order=self.order).weights)


def _linear(features: Tensor, head: Weights) -> Tensor:
    """Apply each task's head: `[T, B, F]` to `[T, B, outputs]`, in its precision under autocast too."""
    with torch.autocast(features.device.type, enabled=False):
        return torch.baddbmm(head["bias"][:, None], features, head["weight"].mT)
