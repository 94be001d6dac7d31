"""The learning algorithm as a module: its parameters are φ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.errors import ConfigError
from nas.space import TaskShape
from nas.tasks.base import Episode

Normalization = Literal["transductive", "support", "running"]
"""Where batch norm takes its statistics when a query is predicted: from the task's other queries too, from
the support set alone, or from running means kept in training."""


class Learner(nn.Module, ABC):
    """F_φ(support, queries) → predictions, differentiable in φ.

    A concrete learner sets `name`, `regression` (whether it can regress) and `normalization`, and takes
    `(backbone, shape, *, settings...)`: its keyword-only arguments are its settings. `backbone` maps
    `[batch, *shape.input]` to `[batch, backbone.out_features]`.
    """

    name: ClassVar[str]
    regression: ClassVar[bool] = False
    normalization: Normalization = "transductive"
    sensitive: ClassVar[bool] = False
    """Whether rounding harms the meta-gradient, as it does where it runs through an inner loop. Such a
    learner trains in float32 and torch's default memory format, whose batch norm on a CPU is more exact."""
    meta_batch: int = 1
    """Tasks per meta-step."""

    @abstractmethod
    def __init__(self, backbone: nn.Module, shape: TaskShape) -> None:
        super().__init__()

    @classmethod
    def check(cls, episode: Episode) -> None:
        """Refuse tasks that this algorithm cannot learn; any episode of their source will do.

        Raises:
            ConfigError: these are regression tasks, and the learner only classifies.
        """
        if episode.regression and not cls.regression:
            raise ConfigError(
                f"learner: '{cls.name}' only classifies, but these tasks are regression. "
                "Set a learner that can regress, such as 'maml'."
            )

    @abstractmethod
    def forward(self, episode: Episode) -> Tensor:
        """Predict the queries: logits `[T, Q, ways]`, or values `[T, Q, outputs]` in regression.

        A task's predictions do not depend on the other tasks of the batch.
        """

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer of φ."""

    def meta_loss(self, episode: Episode) -> Tensor:
        """Return L(φ) = the loss on the queries, a scalar: the mean over tasks."""
        return query_loss(self(episode), episode)

    def meta_backward(self, episode: Episode) -> float:
        """Add the meta-gradient of the mean loss over tasks to `.grad`; return that loss.

        Goes task by task, so that memory holds the graph of one. A learner whose update is no gradient
        (Reptile) replaces this.
        """
        total = 0.0
        for task in episode:
            loss = self.meta_loss(task) / len(episode)
            if loss.requires_grad:  # not so where the architecture's output is constant
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total


def adam(learner: Learner, lr: float) -> torch.optim.Optimizer:
    """Return Adam on φ, which may be empty: an architecture need not have weights."""
    return torch.optim.Adam([{"params": list(learner.parameters())}], lr=lr, fused=True)


def query_loss(predictions: Tensor, episode: Episode) -> Tensor:
    """Return the mean cross-entropy, or the mean squared error in regression, over tasks and queries."""
    return task_loss(predictions, episode.query_y)


def task_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of predictions `[..., outputs]` against labels `[...]` or values."""
    if targets.is_floating_point():
        return ((predictions - targets) ** 2).mean()
    return F.cross_entropy(predictions.flatten(0, -2), targets.flatten())


def query_scores(predictions: Tensor, episode: Episode) -> Tensor:
    """Return each task's score `[T]`, higher is better: accuracy, or −MSE in regression."""
    if episode.regression:
        return -((predictions - episode.query_y) ** 2).flatten(1).mean(1)
    return (predictions.argmax(-1) == episode.query_y).float().mean(1)
