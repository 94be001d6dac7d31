"""Learning to learn by gradient descent: an update rule learns to train networks from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from nas.errors import ConfigError
from nas.learners.base import Learner
from nas.learners.folded import Weights, run
from nas.learners.inner import Order, TestSteps, adapt
from nas.learners.learned_optimizer import LearnedOptimizer
from nas.learners.network import Network, normalized, predict
from nas.learners.update import Update
from nas.space import TaskShape
from nas.tasks.base import Episode


@final
class LearningToOptimize(Learner):
    """Learns an update rule by how fast networks get better under it (Andrychowicz et al. 2016).

    φ is the rule alone. A task is an optimizee: a network begins anew, and is trained on the support. The
    loss of φ is the mean, over the trajectory, of the loss on the queries, that of the first weights and of
    the last included. The trajectory is differentiated in parts of `truncation` steps; weights and the
    rule's state go on from part to part. After each of them φ takes a step, so that memory holds one part
    alone.

    An initial weight is drawn from the normal distribution with the mean and the deviation of its tensor in
    a network that was just built. In evaluation it is always the same draw.

    Raises:
        ConfigError: there are fewer steps than a part of the trajectory has.
    """

    name = "learning_to_optimize"
    regression = True
    gradient = False
    sensitive = True
    fixed_ways = True
    rates = ("inner_lr", "lr")
    heavy = ("truncation",)

    def __init__(
        self,
        backbone: nn.Module,
        shape: TaskShape,
        *,
        inner_lr: Annotated[float, Field(gt=0, description="scale or rate of the rule's steps")] = 0.1,
        inner_steps: Annotated[int, Field(ge=1, description="steps of a trajectory")] = 100,
        truncation: Annotated[int, Field(ge=1, description="steps that are differentiated together")] = 20,
        test_steps: TestSteps = None,
        curriculum: Annotated[
            int,
            Field(
                ge=0,
                description="meta-steps after which trajectories, one part long at first, get one longer; "
                "0: they have their length from the start",
            ),
        ] = 0,
        batch: Annotated[
            int | None, Field(ge=1, description="support examples that a step sees; None: all of them")
        ] = None,
        deviation: Annotated[
            float | None, Field(ge=0, description="of all initial weights, around 0; None: as the network's")
        ] = None,
        order: Order = 1,
        update: Update = LearnedOptimizer,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, shape, **settings)
        if truncation > inner_steps:
            raise ConfigError(
                f"learner.truncation: a trajectory of {inner_steps} steps has no part of {truncation}. Lower "
                f"learner.truncation to {inner_steps}, or raise learner.inner_steps to {truncation}."
            )
        self.network = Network(normalized(backbone, self.normalization), shape.outputs)
        self.update = update(self.network.trainable, inner_lr)
        self.inner_steps, self.truncation = inner_steps, truncation
        self.test_steps = test_steps or inner_steps
        self.curriculum, self.batch, self.deviation = curriculum, batch, deviation
        self.order: Order = order
        self.register_buffer("meta_steps", torch.zeros((), dtype=torch.int64))

    @property
    def length(self) -> int:
        """The steps of a training trajectory now."""
        if not self.curriculum:
            return self.inner_steps
        parts = 1 + int(self.get_buffer("meta_steps")) // self.curriculum
        return min(self.inner_steps, self.truncation * parts)

    def forward(self, episode: Episode) -> Tensor:
        """Train a network on each support, then predict the queries: `[T, Q, outputs]`."""
        for weights in self.trajectory(episode, self.length if self.training else self.test_steps):
            last = weights
        return predict(self.network, episode, self.normalization, last)

    def trajectory(self, episode: Episode, steps: int) -> Iterator[Weights]:
        """Yield the weights `[T, …]` of the tasks' networks, from the first ones to those after `steps`.

        There is a graph to φ from those of the same part; one begins with the step after its end.
        """
        generator = None if self.training else torch.Generator().manual_seed(0)
        weights, state = self._begin(len(episode), generator), None
        yield weights
        for step in range(steps):
            if step and step % self.truncation == 0:
                state = tree_map_only(Tensor, lambda x: x.detach(), state)
                weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
            x, y = self._minibatch(episode, generator)

            def loss(weights: Weights, x: Tensor = x, y: Tensor = y) -> Tensor:
                return self.task_losses(run(self.network, x, weights), y)

            weights, state = adapt(loss, weights, self.update, 1, order=self.order, state=state)
            yield weights

    def meta_loss(self, episode: Episode) -> Tensor:
        """Return the mean loss on the queries along the trajectory."""
        return torch.stack(list(self._parts(episode))).sum()

    def meta_backward(self, episode: Episode) -> float:
        """Add the gradients of all parts of the trajectory to `.grad`; return the loss along it."""
        return self._learn(episode, None)

    def learn_from(
        self, episode: Episode, generator: torch.Generator, optimizer: torch.optim.Optimizer | None = None
    ) -> float:
        """Take a step of the optimizer after each part but the last, and leave the gradient of that one.

        Without an optimizer all parts add their gradients.
        """
        return self._learn(self.augmented(episode, generator), optimizer)

    def _learn(self, episode: Episode, optimizer: torch.optim.Optimizer | None) -> float:
        total, last = 0.0, (self.length - 1) // self.truncation
        for number, loss in enumerate(self._parts(episode)):
            if loss.requires_grad:  # not so under a rule that has nothing to learn
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            if optimizer is not None and number < last:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        if self.training:
            self.get_buffer("meta_steps").add_(1)
        return total

    def _parts(self, episode: Episode) -> Iterator[Tensor]:
        """Yield the share of each part of the trajectory in the loss along it."""
        steps, losses = self.length, list[Tensor]()
        for step, weights in enumerate(self.trajectory(episode, steps)):
            predictions = predict(self.network, episode, self.normalization, weights)
            losses.append(self.mean_loss(predictions, episode.query_y, episode.second) / (steps + 1))
            if step == steps or (step and step % self.truncation == 0):
                yield torch.stack(losses).sum()
                losses = []

    def _begin(self, tasks: int, generator: torch.Generator | None) -> Weights:
        """Draw initial weights; all tasks have the same where a generator is given."""
        drawn = Weights()
        for name, weight in self.network.trainable.items():
            size = weight.shape if generator else (tasks, *weight.shape)
            noise = torch.randn(size, generator=generator, dtype=weight.dtype).to(weight.device)
            if self.deviation is not None:
                first = self.deviation * noise
            else:
                first = weight.detach().mean() + weight.detach().std(correction=0) * noise
            drawn[name] = first.expand(tasks, *weight.shape).clone().requires_grad_()
        return drawn

    def _minibatch(self, episode: Episode, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return support examples that all tasks take the same rows of, and their labels."""
        examples = episode.support_x.shape[1]
        if self.batch is None or self.batch >= examples:
            return episode.support_x, episode.support_y
        rows = torch.randperm(examples, generator=generator)[: self.batch].to(episode.support_x.device)
        return episode.support_x[:, rows], episode.support_y[:, rows]

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Adam over the rule."""
        return torch.optim.Adam([{"params": list(self.update.parameters())}], lr=self.lr, fused=True)
