"""How a supernet is trained: which mixture each pass takes, and what is learned besides its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nas.controller import Derived, SupernetBudget
from nas.space import Architecture, Space
from nas.supernet import Mixture, Relaxation


class MixtureLoss(Protocol):
    """The loss of one batch as a function of the mixture: a scalar with a graph."""

    def __call__(self, mixture: Mixture, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the loss, of the same batch at every call.

        Args:
            mixture: what the supernet mixes its choices by.
            weights: stand in for parameters of the learner, by their names in `Batches.weights`.
        """


class Batches(NamedTuple):
    """What one step learns from: the weights from `inner`, the architecture from `outer`.

    Attributes:
        inner, outer: two batches, drawn apart: few-shot tasks each afresh, ordinary data from two halves.
        weights: the learner's parameters by name, the supernet's among them.
    """

    inner: MixtureLoss
    outer: MixtureLoss
    weights: Mapping[str, Tensor]


class Epoch(NamedTuple):
    """What a strategy has to say after an epoch.

    Attributes:
        architecture: what it would derive now; None: it cannot tell without scoring.
        measurements: what to record, such as `alpha_entropy`; where a strategy that stops goes back to an
            earlier state, they are of the state that made it stop, and `architecture` is of the one it took.
        stop: why the training should end here; None: go on.
    """

    architecture: Architecture | None
    measurements: Mapping[str, float]
    stop: str | None = None


class Strategy(nn.Module, ABC):
    """One method of training a supernet: which mixture each pass takes, and what is learned besides weights.

    A concrete strategy takes `(space, relaxation, seed, *, settings...)`: its keyword-only arguments are its
    settings. It registers all that it learns as parameters, buffers or modules with an extra state, so that
    its `state_dict` continues it to the same bits.

    Attributes:
        space: of the architectures.
        relaxation: of the space, which is the supernet that is trained; it belongs to the learner and is no
            submodule, nor part of the state.
        rng: the only source of chance, part of the state.
        heavy: the settings that the memory of a step grows with; it is least at 1.
        unrolls: whether it learns from where a step leads the weights, as what only changes training data
            must be learned; such relaxations are for these strategies alone.
    """

    heavy: ClassVar[tuple[str, ...]] = ()
    unrolls: ClassVar[bool] = False
    space: Space[Any]
    relaxation: Relaxation
    rng: np.random.Generator

    @abstractmethod
    def __init__(self, space: Space[Any], relaxation: Relaxation, seed: int) -> None:
        super().__init__()
        self.space = space
        self.__dict__["relaxation"] = relaxation  # an attribute, but not registered
        self.rng = np.random.default_rng(seed)

    @classmethod
    def within(cls, settings: Mapping[str, Any], budget: SupernetBudget) -> dict[str, Any]:
        """Return settings, with a value for those whose default depends on the length of the training."""
        return dict(settings)

    @abstractmethod
    def step(self, batches: Batches, optimizer: torch.optim.Optimizer, progress: float) -> float:
        """Take one step of the weights, or of what else is learned, or of both; return the loss.

        The weights are stepped by `optimizer` alone, so that clipping may depend on its step as a pre-hook.
        On return no parameter's `.grad` matters.

        Args:
            batches: to learn from; what is not called costs nothing.
            optimizer: of the weights.
            progress: share of the training done, 0 at the first step.
        """

    @abstractmethod
    def mixture(self) -> list[Tensor]:
        """Return what the supernet is scored with along the way; it draws nothing."""

    @abstractmethod
    def end_epoch(self, batches: Batches) -> Epoch:
        """Look at what was learned after an epoch; called after each, on batches of its own."""

    @abstractmethod
    def derive(self, number: int, score: Callable[[Architecture], float]) -> Sequence[Derived]:
        """Return the `number` best architectures, best first; fewer where the space has no more.

        Args:
            number: how many, distinct by canonical key.
            score: of an architecture with the shared weights, on validation data.
        """

    def get_extra_state(self) -> Any:
        """Return the state of `rng`, for `state_dict`."""
        return self.rng.bit_generator.state

    def set_extra_state(self, state: Any) -> None:
        """Restore the state of `rng`."""
        self.rng.bit_generator.state = state
