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
from controllers.one_shot import OneShot, descend
from controllers.relaxation import skips
from nas.backbone import BackboneSpace
from nas.controller import Derived
from nas.metrics import SKIPS
from nas.space import Architecture
from nas.strategy import Batches, Epoch, Strategy
from nas.supernet import Relaxation

Samples = Annotated[int, Field(ge=1, description="architectures drawn and scored with the shared weights")]


@final
class UniformPaths(Strategy):
    """Each step trains the weights of one architecture, drawn uniformly (RS-WS, Li & Talwalkar 2019, §3.3).

    It derives the best of a sample by the shared weights. Along the way one architecture is scored, the same
    all the time, so that its scores compare; the best of ten draws, by their loss on one outer batch, stands
    for what would be derived.
    """

    def __init__(
        self, space: BackboneSpace, relaxation: Relaxation, seed: int, *, samples: Samples = 100
    ) -> None:
        super().__init__(space, relaxation, seed)
        self._samples, self._reference = samples, space.sample(self.rng)

    def step(self, batches: Batches, optimizer: torch.optim.Optimizer, progress: float) -> float:
        """Step the weights of an architecture drawn uniformly."""
        return descend(batches.inner(self.relaxation.mixture_of(self.space.sample(self.rng))), optimizer)

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
