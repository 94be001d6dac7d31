"""Population-based training over settings."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from controllers.population import PopulationBased, Quantile, Resample
from nas.space import Architecture, Space


@final
class PBT(PopulationBased):
    """Population-based training (Jaderberg et al. 2017, arXiv 1711.09846): settings change while they train.

    See `PopulationBased`. Trainings begin with random settings. A copy explores as in Ray Tune: a setting is
    drawn anew with probability `resample`, otherwise a number moves to the next value above or below.
    """

    def __init__(
        self,
        space: Space[Any],
        seed: int,
        *,
        quantile: Quantile = 0.2,
        resample: Resample = 0.25,
        **settings: Any,
    ) -> None:
        super().__init__(space, seed, quantile=quantile, resample=resample, **settings)

    def begin(self, number: int, rng: np.random.Generator) -> Architecture:
        """Draw all uniformly."""
        return self._space.sample(rng)

    def shift(self, rng: np.random.Generator) -> int:
        """Move by one, up or down."""
        return 1 if rng.random() < 0.5 else -1
