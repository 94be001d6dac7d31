"""The learning algorithm as a module: its parameters are φ."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nas.errors import ConfigError
from nas.learners import threads
from nas.learners.augmentation import Augmentation, Unchanged
from nas.learners.averages import Averages
from nas.learners.schedule import Schedule, decay
from nas.learners.virtual import VirtualStep
from nas.learners.weighting import Judged, Uniform, Weighting
from nas.plugins import Slot
from nas.space import TaskShape
from nas.tasks.base import Episode, Second

TENSORS = ("support_x", "support_y", "query_x", "query_y")
"""The fields of an episode that may be learned."""

HELD = 180 * 28 * 28
"""Numbers in the examples whose graph a meta-gradient holds at once, such as 180 images of Omniglot."""

NODES = 50
"""Numbers that such a graph holds for each number in the examples, about: those of Conv-4."""

Normalization = Annotated[
    Literal["transductive", "support", "running"],
    Field(description="where batch norm takes its statistics for a query"),
]
"""Where batch norm takes its statistics when a query is predicted: from the task's other queries too, from
the support set alone, or from running averages kept in training. Every pass of a meta-step moves those once,
by the mean over its tasks."""

Reduction = Literal["mean", "task", "example"]
"""Of losses: to their mean over all, to that of each task, or to that of each example."""

MetaBatch = Annotated[int, Field(ge=1, description="tasks per meta-step")]


Augment = Annotated[
    Callable[[TaskShape], Augmentation],
    Slot("augmentation", Augmentation),
    Field(description="of training tasks"),
]
Weigh = Annotated[
    Callable[[], Weighting],
    Slot("weighting", Weighting),
    Field(description="how much the loss of each example counts"),
]


class Learner(nn.Module, ABC):
    """F_φ(support, queries) → predictions, differentiable in φ.

    A concrete learner sets `name` and `regression` (whether it can regress), and takes `(backbone, shape, *,
    settings...)`: its keyword-only arguments are its settings, and so are those of `equip`. One that takes
    `**settings` as well, and passes them on, has those below, too. `backbone` maps `[batch, *shape.input]` to
    `[batch, backbone.out_features]`.
    """

    name: ClassVar[str]
    regression: ClassVar[bool] = False
    normalization: Normalization
    """Where batch norm takes its statistics for a query."""
    sensitive: ClassVar[bool] = False
    """Whether rounding falsifies what it learns, as it does where that comes from gradient steps on a task:
    such a learner trains in float32."""
    fixed_ways: ClassVar[bool] = False
    """Whether its network has an output for each class of a task."""
    ordinary: ClassVar[bool] = False
    """Whether it learns from ordinary data, whose tasks are minibatches without a support, and only that."""
    gradient: ClassVar[bool] = True
    """Whether `meta_backward` gives the gradient of `meta_loss`: what an architecture can learn from."""
    heavy: ClassVar[tuple[str, ...]] = ()
    """The settings that the memory of a meta-gradient grows with, besides `meta_batch`; it is least at 1."""
    rates: ClassVar[tuple[str, ...]] = ("lr",)
    """The settings to lower where training diverges."""
    protocol_settings: ClassVar[tuple[str, ...]] = ("normalization",)
    """The settings whose values make scores that do not compare: no search chooses among them."""
    lr: float
    """Learning rate of φ, at the start."""
    meta_batch: int
    """Tasks per meta-step."""
    passes: int = 1
    """How often a task's support passes through the network before its memory is freed: steps of an inner
    loop that the meta-gradient runs through."""
    held: int = 0
    """Numbers that the graph of a task holds besides those of passes through the network."""
    decay: Callable[[float], float]
    """From the share of the training done, in [0, 1), to a factor on the learning rate."""

    @abstractmethod
    def __init__(
        self,
        backbone: nn.Module,
        shape: TaskShape,
        *,
        lr: Annotated[float, Field(gt=0, description="learning rate of Adam on φ")] = 1e-3,
        schedule: Schedule = "constant",
        meta_batch: MetaBatch = 1,
        normalization: Normalization = "transductive",
    ) -> None:
        super().__init__()
        self.lr = lr
        self.decay = decay(schedule)
        self.meta_batch = meta_batch
        self.normalization = normalization
        self._shape = shape
        self.augmentation: Augmentation = Unchanged(shape)
        self.weighting: Weighting = Uniform()

    def equip(self, *, augmentation: Augment = Unchanged, weighting: Weigh = Uniform) -> Self:
        """Fill the slots that every learner has, and return the learner: call it before `optimizer`.

        Args:
            augmentation: makes what training tasks pass through, from their shape.
            weighting: makes what weighs the losses of examples.
        """
        self.augmentation, self.weighting = augmentation(self._shape), weighting()
        return self

    @classmethod
    def check(cls, episode: Episode, training: Episode | None = None) -> None:
        """Refuse tasks that this algorithm cannot learn.

        Args:
            episode: any of those to be scored on.
            training: any of those to be trained on.

        Raises:
            ConfigError: these are regression tasks, and the learner only classifies; or its network has an
                output for each class of a task, and training tasks have another number of classes; or the
                learner needs a support and there is none, or the other way round.
        """
        if cls.ordinary != (episode.shots == 0):
            raise ConfigError(
                f"learner: '{cls.name}' learns ordinary data, but these are few-shot tasks. Set a learner of "
                "such tasks, as 'prototypical' is, or ordinary data, as the tasks 'supervised' are."
                if cls.ordinary
                else f"learner: '{cls.name}' learns from a task's support, but these are minibatches of "
                "ordinary data, which have none. Set the learner 'classifier'."
            )
        if episode.regression and not cls.regression:
            raise ConfigError(
                f"learner: '{cls.name}' only classifies, but these tasks are regression. "
                "Set a learner that can regress, such as 'maml'."
            )
        if cls.fixed_ways and training is not None and training.ways != episode.ways:
            raise ConfigError(
                f"tasks.train_ways: '{cls.name}' has an output for each of the {episode.ways} classes of a "
                f"task, so it cannot train on tasks of {training.ways}. Leave it out, or set a learner that "
                "compares, such as 'prototypical'."
            )

    @abstractmethod
    def forward(self, episode: Episode) -> Tensor:
        """Predict the queries: logits `[T, Q, ways]`, or values `[T, Q, outputs]` in regression.

        A task's predictions do not depend on the other tasks of the batch.
        """

    def optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer of φ, which may be empty: by default Adam at the rate `lr`."""
        return torch.optim.Adam([{"params": list(self.parameters())}], lr=self.lr, fused=True)

    def criterion(self, predictions: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Return the loss of predictions `[T, B, outputs]` against labels `[T, B]` or values.

        A learner with another loss (relation networks) replaces this.
        """
        return task_loss(predictions, targets, reduction)

    def mean_loss(self, predictions: Tensor, targets: Tensor, second: Second | None = None) -> Tensor:
        """Return the mean over tasks and examples of each one's loss times its weight: what φ minimizes.

        Weights are constants here: a learned weighting would lower the loss by lowering them. One that clean
        examples judge weighs no queries of few-shot tasks: these are what it learns by, and must be right.
        """
        plain = isinstance(self.weighting, Uniform | Judged)
        if plain and second is None:
            return self.criterion(predictions, targets)
        losses = self.query_losses(predictions, targets, second)
        if plain:
            return losses.mean()
        weights: Tensor = self.weighting(losses.detach(), targets)
        return (weights.detach() * losses).mean()

    def task_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the same mean for each task, `[T]`: what an inner loop minimizes.

        It is differentiable in the weights of the examples, through which a learned weighting learns.
        """
        if isinstance(self.weighting, Uniform):
            return self.criterion(predictions, targets, "task")
        losses = self.criterion(predictions, targets, "example")
        weights: Tensor = self.weighting(losses.detach(), targets)
        return (weights * losses).mean(1)

    def query_losses(self, predictions: Tensor, targets: Tensor, second: Second | None) -> Tensor:
        """Return the loss of each example, `[T, B]`; that of a mixture is shared between its two labels."""
        losses = self.criterion(predictions, targets, "example")
        if second is None:
            return losses
        return second.share * losses + (1 - second.share) * self.criterion(
            predictions, second.labels, "example"
        )

    def meta_loss(self, episode: Episode) -> Tensor:
        """Return L(φ) = the loss on the queries, a scalar: the mean over tasks."""
        return self.mean_loss(self(episode), episode.query_y, episode.second)

    def augmented(self, episode: Episode, generator: torch.Generator) -> Episode:
        """Return training tasks after their augmentation, which is never in a lower precision."""
        with torch.autocast(episode.query_x.device.type, enabled=False):
            found: Episode = self.augmentation(episode, generator)
        return found

    def learn_from(
        self, episode: Episode, generator: torch.Generator, optimizer: torch.optim.Optimizer | None = None
    ) -> float:
        """Augment training tasks and add their meta-gradient, as `meta_backward` does; return the loss.

        Where clean examples come with them, and the weighting is one that these judge, it learns first.

        Args:
            episode: as drawn; clean examples are not augmented.
            generator: of the augmentation.
            optimizer: whose rates of the moment the virtual step of a weighting takes; None: a new one.
        """
        augmented = self.augmented(episode, generator)
        learned = {name: x for name in TENSORS if (x := getattr(augmented, name)).requires_grad}
        leaves = {name: x.detach().requires_grad_() for name, x in learned.items()}
        given = replace(augmented, **leaves)
        if isinstance(self.weighting, Judged) and episode.clean is not None:
            loss = self._judged_backward(self.weighting, given, episode.clean, optimizer)
        else:
            loss = self.meta_backward(given)
        reached = [name for name, leaf in leaves.items() if leaf.grad is not None]
        if reached:
            torch.autograd.backward([learned[n] for n in reached], [leaves[n].grad for n in reached])
        return loss

    def _judged_backward(
        self,
        weighting: Judged,
        episode: Episode,
        clean: Episode,
        optimizer: torch.optim.Optimizer | None,
    ) -> float:
        """Add the gradient of the mean of weights times losses to `.grad`; return that mean."""
        step = VirtualStep(Losses(self), episode, clean, optimizer or self.optimizer())
        weights = weighting.weigh(step.losses.detach(), episode.query_y, step)
        weighting.note(weights)
        loss = (weights * step.losses).mean()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def measurements(self) -> Mapping[str, float]:
        """Return what is to be told in the course of a training, by the name of a metric."""
        return self.weighting.measurements()

    def size(self, episode: Episode) -> float:
        """Return how large the graph of a task is, in numbers of examples that pass through the network."""
        passing = self.passes * episode.support_x[0].numel() + episode.query_x[0].numel()
        return passing + self.held / NODES

    def meta_backward(self, episode: Episode) -> float:
        """Add the meta-gradient of the mean loss over tasks to `.grad`; return that loss.

        Goes by few tasks at a time, which bounds the memory of their graphs, each of torch's threads by its
        own. A learner whose update is no gradient (Reptile) replaces this.
        """
        size = self.size(episode)
        # Examples that are learned get their gradient from all parts.
        workers = 1 if any(getattr(episode, name).requires_grad for name in TENSORS) else threads.usable(self)
        rounds = math.ceil(len(episode) / (workers * max(1, round(HELD / workers / size))))
        parts = list(episode.chunks(math.ceil(len(episode) / (workers * rounds))))

        averages = Averages(self)

        def step(learner: Learner, tasks: Episode) -> float:
            share = len(tasks) / len(episode)
            loss = learner.meta_loss(tasks) * share
            if loss.requires_grad:  # not so where the architecture's output is constant
                loss.backward()  # type: ignore[no-untyped-call]
            averages.passed(share)
            return float(loss.detach())

        loss = threads.backward(self, parts, step, workers)
        averages.settle()
        return loss


class Losses(nn.Module):
    """A learner's losses of the queries as a module, so that its parameters can be replaced."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, episode: Episode) -> Tensor:
        """Return them, `[T, B]`."""
        return self.learner.query_losses(self.learner(episode), episode.query_y, episode.second)


def remedy(learner: Learner) -> str:
    """Return what to do where a loss or a prediction is no number."""
    return f"Lower {' or '.join(f'`learner.{setting}`' for setting in learner.rates)}."


def task_loss(predictions: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return the cross-entropy of predictions `[T, B, outputs]` against labels `[T, B]`.

    Of values, `[T, B, outputs]`, it is the squared error.
    """
    if targets.is_floating_point():
        return reduced((predictions - targets) ** 2, reduction)
    rows, labels = predictions.flatten(0, -2), targets.flatten()
    if reduction == "mean":
        return F.cross_entropy(rows, labels)
    return reduced(F.cross_entropy(rows, labels, reduction="none").view_as(targets), reduction)


def reduced(losses: Tensor, reduction: Reduction) -> Tensor:
    """Return the mean of losses `[T, B, …]`, over all, or of each task `[T]` or example `[T, B]`."""
    match reduction:
        case "mean":
            return losses.mean()
        case "task":
            return losses.flatten(1).mean(1)
        case "example":
            return losses if losses.dim() == 2 else losses.flatten(2).mean(2)


def query_scores(predictions: Tensor, episode: Episode) -> Tensor:
    """Return each task's score `[T]`, higher is better: accuracy, or −MSE in regression.

    A query of which a logit is not finite counts as answered wrongly.
    """
    if episode.regression:
        return -((predictions - episode.query_y) ** 2).flatten(1).mean(1)
    right = (predictions.argmax(-1) == episode.query_y) & predictions.isfinite().all(-1)
    return right.float().mean(1)
