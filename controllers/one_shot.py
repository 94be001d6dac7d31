"""What all one-shot controllers do: one supernet, then what it derived, from scratch."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from nas.controller import (
    Controller,
    Evaluate,
    Finish,
    Inherited,
    Outcome,
    SupernetBudget,
    TrainSupernet,
    settled,
)
from nas.space import Architecture, Space
from nas.strategy import Strategy

Derive = Annotated[int, Field(ge=1, description="architectures to derive, and to evaluate from scratch")]

BUDGET = SupernetBudget()


class OneShot(Controller):
    """Trial 0 trains the supernet, the rest evaluate what it derived.

    The search ends after the last derived architecture, or at once if the supernet derived none. Besides its
    own settings it has those of its strategy.

    Attributes:
        strategy: how the supernet is trained: the registered name of this controller.
        settings_of: the strategy's class.
    """

    one_shot = True
    strategy: ClassVar[str]
    settings_of: ClassVar[type[Strategy]]

    def __init__(
        self,
        space: Space[object],
        seed: int,
        *,
        derive: Derive = 3,
        budget: SupernetBudget = BUDGET,
        **settings: Any,
    ) -> None:
        given = inspect.signature(self.settings_of).bind_partial(**settings)
        given.apply_defaults()
        method = self.settings_of.within(given.kwargs, budget)
        self._supernet = TrainSupernet(self.strategy, method, derive, budget)
        self._derived: tuple[Architecture, ...] | None = None

    def inherit(self, outcomes: Sequence[Inherited]) -> None:
        """Refuse: what is tried is what the supernet derives.

        Raises:
            Unsupported: always.
        """
        raise settled(self.strategy)

    def propose(
        self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator
    ) -> TrainSupernet | Evaluate | Finish | None:
        """Propose trial `number`; None while the supernet is trained."""
        if number == 0:
            return self._supernet
        if self._derived is None:
            return None
        return Evaluate(self._derived[number - 1]) if number <= len(self._derived) else Finish()

    def observe(self, number: int, outcome: Outcome) -> None:
        """Take over what the supernet derived."""
        if number == 0:
            self._derived = tuple(derived.architecture for derived in outcome.derived)


def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """Step the shared weights down a loss's gradient, and return the loss.

    A network without a path from its input, whose loss no weight changes, is no step.
    """
    optimizer.zero_grad(set_to_none=True)
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return float(loss.detach())
