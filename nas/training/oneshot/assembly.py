"""A supernet, the learner around it and the strategy that trains both: built from one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from nas import plugins
from nas.backbone import check_backbone, width_of
from nas.controller import Controller, TrainSupernet
from nas.errors import PluginError, Unsupported
from nas.evaluator import Context
from nas.learners.base import Learner
from nas.learners.weighting import Judged
from nas.precision import Arithmetic, choose
from nas.product import backbone_of
from nas.strategy import Strategy
from nas.supernet import Mixture, Supernet


@final
class Mixed(nn.Module):
    """A supernet under the mixture of the moment: the backbone of a learner.

    Attributes:
        supernet: what is mixed.
        mixture: the weights of its choices. They are no parameters of this module, so that the learner's
            optimizer leaves them alone; gradients reach them through the learner's loss.
        out_features: width of the output.
    """

    def __init__(self, supernet: Supernet) -> None:
        super().__init__()
        self.supernet = supernet
        self.mixture: Mixture = ()
        self.out_features = width_of(supernet)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a batch under the current mixture.

        Raises:
            PluginError: they are no tensor of shape `[batch, out_features]`.
        """
        out: Tensor = self.supernet(x, [weights.to(x.device) for weights in self.mixture])
        check_backbone(self.supernet, out, len(x))
        return out


@dataclass(frozen=True, slots=True)
class Assembly:
    """What one supernet training consists of.

    Attributes:
        backbone: holds the supernet and the mixture.
        learner: around the backbone, in training mode; its parameters are the weights.
        strategy: decides the mixtures, and learns α.
        optimizer: of the weights.
        arithmetic: where and in which precision.
    """

    backbone: Mixed
    learner: Learner
    strategy: Strategy
    optimizer: torch.optim.Optimizer
    arithmetic: Arithmetic

    @property
    def parameters(self) -> int:
        """Trainable weights of the supernet."""
        return sum(weight.numel() for weight in self.backbone.parameters() if weight.requires_grad)


def method(name: str) -> type[Strategy]:
    """Return a strategy, by the registered name of its controller or by a `module:Class` path.

    Raises:
        UnknownName: no such controller.
        PluginError: it has no strategy, or the path points at none.
    """
    if ":" in name:
        return plugins.load("strategy", name, Strategy)
    strategy = getattr(plugins.load("controller", name, Controller), "settings_of", None)
    if not (isinstance(strategy, type) and issubclass(strategy, Strategy)):
        raise PluginError(f"The controller '{name}' has no strategy that trains a supernet.")
    return strategy


def assemble(context: Context, proposal: TrainSupernet, seed: int) -> Assembly:
    """Build what trains a supernet; sets torch's global seed.

    What a search chooses besides networks is at its default. With precision `auto` it computes in float32: a
    strategy may take differences of gradients.

    Raises:
        Unsupported: the space has no supernet, or the learner's update is no gradient.
        Infeasible: the space has no network for these tasks.
        ConfigError: no such strategy, or settings that it does not take.
    """
    context = context.networks()
    torch.manual_seed(seed)
    space, shape = backbone_of(context.space), context.tasks.shape
    supernet = space.supernet(shape)
    backbone = Mixed(supernet)
    learner = context.learner(backbone, shape)
    if not learner.gradient:
        raise Unsupported(
            f"learner: the update of '{learner.name}' is no gradient of a loss, so an architecture cannot "
            "learn from it. Set another learner, such as 'maml' or 'prototypical'."
        )
    if learner.ordinary and isinstance(learner.weighting, Judged):
        raise Unsupported(
            f"learner.weighting: clean examples judge '{learner.weighting.name}' at each step of a training, "
            "which that of a supernet does not do. Set another weighting, or a controller that trains each "
            "network by itself."
        )
    arithmetic = choose(context.precision, images=len(shape.input) == 3, sensitive=True)
    learner = arithmetic.prepare(learner).train()
    cls = method(proposal.strategy)
    settings = plugins.resolve(cls, dict(proposal.settings), "controller")
    strategy = cls(space, supernet, seed, **plugins.arguments(cls, settings))
    return Assembly(backbone, learner, strategy.to(arithmetic.device), learner.optimizer(), arithmetic)
