"""Random search with weight sharing: no choice is learned, only the weights that all share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from controllers.derivation import best_sampled
from controllers.one_shot import OneShot
from controllers.relaxation import skips
from nas.backbone import BackboneSpace
from nas.controller import Derived
from nas.errors import ConfigError
from nas.metrics import SKIPS
from nas.space import Architecture
from nas.strategy import Batches, Epoch, Strategy
from nas.supernet import Relaxation

Samples = Annotated[int, Field(ge=1, description="architectures drawn and scored with the shared weights")]
Fair = Annotated[
    bool, Field(description="each step trains as many architectures as there are choices, each choice once")
]
Sandwich = Annotated[
    bool,
    Field(
        description="each step trains the largest, the smallest and two random architectures; for spaces "
        "whose choices are in the order of their size, such as `mobile`"
    ),
]


class UniformPaths(Strategy):
    """Each step trains the weights of one architecture, drawn uniformly (RS-WS, Li & Talwalkar 2019, §3.3).

    With `fair` a step adds up the gradients of m architectures on one batch, m the most choices there are.
    Each choice of a decision is in as many of them as any other (FairNAS, Chu et al. 2021, §3.2); where m is
    no multiple of the number of choices, in one more or less.

    With `sandwich` it adds up those of four: the last choice of every decision, the first, and two that are
    drawn (Yu & Huang 2019, §3.2, without distillation).

    It derives the best of a sample by the shared weights. Along the way one architecture is scored, the same
    all the time, so that its scores compare; the best of ten draws, by their loss on one outer batch, stands
    for what would be derived.
    """

    def __init__(
        self,
        space: BackboneSpace,
        relaxation: Relaxation,
        seed: int,
        *,
        samples: Samples = 100,
        fair: Fair = False,
        sandwich: Sandwich = False,
    ) -> None:
        if fair and sandwich:
            raise ConfigError("controller.sandwich: leave controller.fair at false with it, or it at false.")
        super().__init__(space, relaxation, seed)
        self._samples, self._fair, self._reference = samples, fair, space.sample(self.rng)
        self._sandwich = sandwich

    def step(self, batches: Batches, optimizer: torch.optim.Optimizer, progress: float) -> float:
        """Step the weights of an architecture drawn uniformly, or of several whose choices differ."""
        optimizer.zero_grad(set_to_none=True)
        drawn = self.drawn()
        losses = []
        for architecture in drawn:
            loss = batches.inner(self.relaxation.mixture_of(architecture)) / len(drawn)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            losses.append(float(loss.detach()))
        optimizer.step()
        return sum(losses)

    def drawn(self) -> list[Architecture]:
        """Draw the architectures of a step."""
        if self._sandwich:
            ends = [0] * len(self.space.decisions), [len(d.choices) - 1 for d in self.space.decisions]
            smallest, largest = (Architecture(self.space.name, tuple(end)) for end in ends)
            return [largest, smallest, *(self.space.sample(self.rng) for _ in range(2))]
        return self._differing() if self._fair else [self.space.sample(self.rng)]

    def _differing(self) -> list[Architecture]:
        """Draw architectures in which each choice of a decision comes equally often."""
        number = max(len(decision.choices) for decision in self.space.decisions)
        columns = []
        for choices in (len(decision.choices) for decision in self.space.decisions):
            rounds = [self.rng.permutation(choices) for _ in range(-(-number // choices))]
            columns.append(np.concatenate(rounds)[:number].tolist())
        return [Architecture(self.space.name, row) for row in zip(*columns, strict=True)]

    def mixture(self) -> list[Tensor]:
        """Return the path of the architecture that stands for all."""
        return self.relaxation.mixture_of(self._reference)

    def end_epoch(self, batches: Batches) -> Epoch:
        """Return the architecture whose loss is least among ten draws, and its skip connections."""
        drawn = [self.space.sample(self.rng) for _ in range(10)]
        with torch.no_grad():
            losses = [float(batches.outer(self.relaxation.mixture_of(own))) for own in drawn]
        best = drawn[int(np.argmin(np.nan_to_num(losses, nan=np.inf)))]
        return Epoch(best, {SKIPS: float(skips(self.space, best))})

    def derive(self, number: int, score: Callable[[Architecture], float]) -> Sequence[Derived]:
        """Return the best of `samples` uniform draws."""
        draw = partial(self.space.sample, self.rng)
        return best_sampled(self.space, draw, self._samples, number, score)


@final
class RandomSharing(OneShot):
    """Trains a supernet along single paths, then evaluates the best of a sample."""

    strategy = "random_sharing"
    settings_of = UniformPaths
