"""A supernet, the learner around it and the strategy that trains both: built from one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from nas import plugins
from nas.backbone import BackboneSpace, check_backbone, width_of
from nas.controller import Controller, TrainSupernet
from nas.errors import PluginError, Unsupported
from nas.evaluator import Context
from nas.learners.augmentation import Relaxed
from nas.learners.base import Learner
from nas.learners.weighting import Judged
from nas.precision import Arithmetic, choose
from nas.product import MAIN, Product, backbone_of
from nas.settings_space import Settings
from nas.space import Space, TaskShape
from nas.strategy import Strategy
from nas.supernet import Joint, Mixture, Relaxation, Sole, Supernet

LEARNER, AUGMENTATION = "learner", "augmentation"
"""The slot, and the setting in it, whose choices a gradient can lead to."""


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
        space: of what is derived: of networks, or the search's where other slots are relaxed, too.
        relaxation: all that is mixed.
        backbone: holds the supernet and the mixture.
        learner: around the backbone, in training mode; its parameters are the weights.
        strategy: decides the mixtures, and learns α.
        optimizer: of the weights.
        arithmetic: where and in which precision.
    """

    space: Space[Any]
    relaxation: Relaxation
    backbone: Mixed
    learner: Learner
    strategy: Strategy
    optimizer: torch.optim.Optimizer
    arithmetic: Arithmetic

    @property
    def augments(self) -> bool:
        """Whether an augmentation is relaxed: it changes what the weights learn from, and nothing else."""
        return isinstance(self.learner.augmentation, Relaxed)

    def mix(self, mixture: Mixture) -> None:
        """Set the mixture of the moment in all that is relaxed."""
        if not isinstance(self.relaxation, Joint):
            self.backbone.mixture = mixture
            return
        parts = self.relaxation.split(mixture)
        self.backbone.mixture = parts[MAIN]
        if isinstance(self.learner.augmentation, Relaxed):
            self.learner.augmentation.mixture = parts[LEARNER]

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

    What a search chooses besides networks is at its default, but for an augmentation under a strategy that
    unrolls. With precision `auto` it computes in float32: a strategy may take differences of gradients.

    Raises:
        Unsupported: the space has no supernet, or the learner's update is no gradient; or the strategy
            unrolls, and no augmentation is chosen in a way that can be relaxed.
        Infeasible: the space has no network for these tasks.
        ConfigError: no such strategy, or settings that it does not take.
    """
    cls = method(proposal.strategy)
    whole, context = context.space, context.networks()
    torch.manual_seed(seed)
    network, shape = backbone_of(context.space), context.tasks.shape
    supernet = _supernet(network, shape, cls)
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
    space, relaxation = _relaxed(whole, supernet, learner) if cls.unrolls else (network, supernet)
    settings = plugins.resolve(cls, dict(proposal.settings), "controller")
    strategy = cls(space, relaxation, seed, **plugins.arguments(cls, settings)).to(arithmetic.device)
    return Assembly(space, relaxation, backbone, learner, strategy, learner.optimizer(), arithmetic)


def _supernet(space: BackboneSpace, shape: TaskShape, strategy: type[Strategy]) -> Supernet:
    """Return the supernet of a space, or the one network beside which a strategy has others to learn."""
    if strategy.unrolls and type(space).supernet is BackboneSpace.supernet:
        return Sole(space, shape)
    return space.supernet(shape)


def _relaxed(space: Space[Any], supernet: Supernet, learner: Learner) -> tuple[Product, Joint]:
    """Put the relaxation of its augmentation into a learner; return all that is relaxed.

    Raises:
        Unsupported: nothing of an augmentation is to be chosen, or no gradient leads there.
    """
    own = space.slots.get(LEARNER) if isinstance(space, Product) else None
    names = {decision.name.partition(".")[0] for decision in own.decisions} if own else set()
    if not (isinstance(space, Product) and isinstance(own, Settings) and AUGMENTATION in names):
        raise Unsupported(
            "controller: it learns a policy of augmentation, and the search chooses none. Add --slot "
            f'\'{LEARNER}.{AUGMENTATION}={{name="autoaugment", policy="any"}}\', or choose another one-shot '
            "controller, such as 'darts'."
        )
    relaxed = learner.augmentation.relax(own, AUGMENTATION)
    learner.augmentation = relaxed
    return space, Joint(space, {MAIN: supernet, LEARNER: relaxed})
