"""What a zero-cost proxy is, and what it looks at."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nas.backbone import Cost
from nas.chance import forked
from nas.errors import Infeasible
from nas.learners.base import Learner
from nas.tasks.base import Episode


@dataclass(frozen=True, slots=True)
class Subject:
    """An untrained network in its learner, and tasks that it has not seen.

    Attributes:
        learner: with fresh weights, in training mode.
        backbone: the network, a part of the learner.
        episode: training tasks, on the device of the learner.
        cost: of the backbone.
    """

    learner: Learner
    backbone: nn.Module
    episode: Episode
    cost: Cost

    @property
    def images(self) -> Tensor:
        """The inputs of all tasks as one batch, the supports and the queries: `[N, *input]`."""
        return torch.cat([self.episode.support_x, self.episode.query_x], 1).flatten(0, 1)

    @property
    def weights(self) -> list[nn.Parameter]:
        """The backbone's weights of convolutions and linear layers: not scales, nor biases."""
        return [p for p in self.backbone.parameters() if p.requires_grad and p.dim() > 1]


class Proxy(ABC):
    """A number that an untrained network has: the higher, the better the network is said to be.

    A concrete proxy sets `name`, and its keyword-only arguments are its settings. It draws nothing. What it
    does to the learner is undone by `measured`.

    Attributes:
        counts: the cost in `nas.costs.COUNTED` that it is, and that needs no network; None: it looks at one.
    """

    name: ClassVar[str]
    counts: ClassVar[str | None] = None

    @abstractmethod
    def measure(self, subject: Subject) -> float:
        """Return the number; one that is not finite is a refusal.

        Raises:
            Infeasible: the network has none; says why.
        """


def measured(proxy: Proxy, subject: Subject) -> float:
    """Return a proxy of a network, and leave the network, its gradients and torch's generator as they were.

    What the learner draws on the way, such as dropout, is the same each time.

    Raises:
        Infeasible: the network has no such number, or it is not finite.
    """
    modules = (subject.learner, subject.backbone)
    parameters = {id(p): p for module in modules for p in module.parameters()}.values()
    buffers = {id(b): b for module in modules for b in module.buffers()}.values()
    state = [(tensor, tensor.detach().clone()) for tensor in (*parameters, *buffers)]
    gradients = [(parameter, parameter.grad) for parameter in parameters]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        with forked(), torch.enable_grad():
            torch.manual_seed(0)
            value = float(proxy.measure(subject))
    finally:
        with torch.no_grad():
            for tensor, before in state:
                tensor.copy_(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for part, training in modes:
            part.training = training
    if not math.isfinite(value):
        raise Infeasible(f"The proxy '{proxy.name}' of this network is {value}, and ranks nothing.")
    return value


def loss_gradients(subject: Subject, *, graph: bool) -> list[Tensor]:
    """Return the gradients of the learner's loss on the episode, in `subject.weights`.

    Zeros stand for weights that the loss does not depend on.

    Args:
        subject: the network.
        graph: whether the gradients have a graph, to be differentiated again.

    Raises:
        Infeasible: the loss depends on no weight.
    """
    loss, weights = subject.learner.meta_loss(subject.episode), subject.weights
    if not weights or not loss.requires_grad:
        raise Infeasible("The loss depends on no weight of this network.")
    found = torch.autograd.grad(loss, weights, create_graph=graph, allow_unused=True)
    return [
        torch.zeros_like(weight) if gradient is None else gradient
        for weight, gradient in zip(weights, found, strict=True)
    ]
