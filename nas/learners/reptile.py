"""Reptile: initial weights that lie close to the weights adapted to every task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, final

import torch
from pydantic import Field
from torch import Tensor, nn

from nas.errors import ConfigError
from nas.learners.base import Learner, MetaBatch
from nas.learners.folded import Weights, run, stacked
from nas.learners.inner import Adapted, adapt
from nas.learners.network import Network, normalized, predict
from nas.learners.schedule import Schedule
from nas.learners.update import Adam
from nas.space import TaskShape
from nas.tasks.base import Episode


@final
class Reptile(Learner):
    """Reptile (Nichol et al. 2018): φ moves towards the weights that a task's own training arrives at.

    φ ← φ + ε (mean over tasks of φ_k − φ), where φ_k is what `inner_steps` steps of Adam with β₁ = 0 on
    minibatches of the support make of φ. With a `meta_batch` of 1 this is serial Reptile, with more it is
    the batched one. Training uses no queries: give it more shots than the test has (`tasks.train_shots`).
    As in the paper's code, Adam's second moments go on from task to task, and ε falls to zero.

    Several tasks of a meta-step share the rows of their minibatches, and begin with the same second moments.
    """

    name = "reptile"
    regression = True
    gradient = False
    sensitive = True
    fixed_ways = True
    rates = ("inner_lr", "lr")

    def __init__(
        self,
        backbone: nn.Module,
        shape: TaskShape,
        *,
        inner_lr: Annotated[float, Field(gt=0, description="learning rate of Adam within a task")] = 1e-3,
        inner_steps: Annotated[int, Field(ge=1, description="minibatches of a task")] = 5,
        test_steps: Annotated[int, Field(ge=1, description="minibatches of a task in evaluation")] = 50,
        inner_batch: Annotated[int, Field(ge=1, description="examples of a minibatch")] = 10,
        test_batch: Annotated[int, Field(ge=1, description="examples of a minibatch in evaluation")] = 5,
        lr: Annotated[float, Field(gt=0, description="share ε of the way to the adapted weights")] = 1.0,
        schedule: Schedule = "linear",
        meta_batch: MetaBatch = 5,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, shape, lr=lr, schedule=schedule, meta_batch=meta_batch, **settings)
        self.network = Network(normalized(backbone, self.normalization), shape.outputs)
        for number, weight in enumerate(self.network.trainable.values()):
            self.register_buffer(f"second{number}", torch.zeros_like(weight))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.update = Adam(self.network.trainable, inner_lr, beta1=0.0)
        self.inner_steps = inner_steps
        self.test_steps = test_steps
        self.inner_batch = inner_batch
        self.test_batch = test_batch

    def forward(self, episode: Episode) -> Tensor:
        """Adapt to each task's support, then predict its queries: `[T, Q, outputs]`.

        First-order: differentiable in φ, the inner gradients taken for constants.
        """
        adapted = self._adapt(episode).weights
        return predict(self.network, episode, self.normalization, adapted)

    def meta_backward(self, episode: Episode) -> float:
        """Add φ − mean(φ_k) to `.grad`, and carry on Adam's moments; return the loss on the queries.

        Raises:
            ConfigError: queries are mixed, from which nothing learns here.
        """
        if episode.second is not None:
            raise ConfigError(
                "learner.augmentation: 'reptile' learns from the support alone, so that mixed queries change "
                "nothing. Set another augmentation, such as 'mixed_classes'."
            )
        with torch.no_grad():
            adapted, state = self._adapt(episode)
            predictions = predict(self.network, episode, self.normalization, adapted)
            loss = self.mean_loss(predictions, episode.query_y)
        moments = self._moments()
        for name, weight in self.network.trainable.items():
            towards = weight.detach() - adapted[name].mean(0)
            weight.grad = towards if weight.grad is None else weight.grad + towards
            moments[name].copy_(state["second"][name].mean(0))
        self.get_buffer("step").fill_(state["step"])
        return float(loss)

    def _adapt(self, episode: Episode) -> Adapted:
        tasks, weights = len(episode), self.network.trainable
        batches = self._minibatches(episode.support_x.shape[1])

        def loss(weights: Weights) -> Tensor:
            rows = next(batches)
            predictions = run(self.network, episode.support_x[:, rows], weights)
            return self.task_losses(predictions, episode.support_y[:, rows])

        state = {"step": int(self.get_buffer("step")), "second": stacked(self._moments(), tasks)}
        steps = self.inner_steps if self.training else self.test_steps
        return adapt(loss, stacked(weights, tasks), self.update, steps, order=1, state=state)

    def _moments(self) -> Weights:
        return {n: self.get_buffer(f"second{i}") for i, n in enumerate(self.network.trainable)}

    def _minibatches(self, examples: int) -> Iterator[Tensor]:
        """Yield rows of minibatches that go through the support in a random order, over and over.

        In evaluation the order is always the same.
        """
        generator = None if self.training else torch.Generator().manual_seed(0)
        size = min(self.inner_batch if self.training else self.test_batch, examples)
        queue = torch.empty(0, dtype=torch.int64)
        while True:
            if len(queue) < size:
                queue = torch.cat([queue, torch.randperm(examples, generator=generator)])
            rows, queue = queue[:size], queue[size:]
            yield rows

    def optimizer(self) -> torch.optim.Optimizer:
        """Return gradient descent: its step of size ε is Reptile's."""
        return torch.optim.SGD(self.network.parameters(), lr=self.lr)
