"""Population-based augmentation: a schedule of a policy."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from controllers.population import PopulationBased, Quantile, Resample
from nas.product import MAIN
from nas.space import Architecture, Space

FARTHEST = 3
"""Places that a number moves at most."""


@final
class PBA(PopulationBased):
    """Population-based augmentation (Ho et al. 2019, arXiv 1905.05393): PBT with rules for policies.

    See `PopulationBased`. The first training begins with the default of each setting, which for the
    augmentation `pba` is to do nothing. The others begin near it: with equal weights and tasks, equal
    settings would be one training. A copy explores as in the paper: a setting is drawn anew with probability
    `resample`, otherwise a number moves by 0 to 3 places, up or down.
    """

    def __init__(
        self,
        space: Space[Any],
        seed: int,
        *,
        quantile: Quantile = 0.25,
        resample: Resample = 0.2,
        **settings: Any,
    ) -> None:
        super().__init__(space, seed, quantile=quantile, resample=resample, **settings)

    def begin(self, number: int, rng: np.random.Generator) -> Architecture:
        """Draw a network, with settings at their default or near it."""
        network = self._space.parts(self._space.sample(rng))[MAIN]
        drawn = self._space.join({MAIN: network})
        return drawn if number == 0 else self.explore(drawn, rng)

    def shift(self, rng: np.random.Generator) -> int:
        """Move by up to three places."""
        far = int(rng.integers(FARTHEST + 1))
        return far if rng.random() < 0.5 else -far
