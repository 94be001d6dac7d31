"""Scores of architectures, predicted from those of others by how many decisions they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt

REACHES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""In how many decisions two architectures may differ until their correlation has fallen to 1/e."""
NOISES = (0.01, 0.1, 0.3, 1.0, 3.0)
"""Variances of the noise of a score, in shares of that of what is predicted."""


@final
class Prediction:
    """Kriging (a Gaussian process's mean) with the kernel exp(−d/ℓ), where d is the Hamming distance.

    The reach ℓ and the noise are those under which each score is best predicted from the others, by the mean
    square of the leave-one-out residuals α_i / (K⁻¹)_ii (Rasmussen & Williams 2006, §5.4.2).

    Args:
        choices: of known architectures, `[N, decisions]`.
        scores: of these, `[N]`, finite, two or more that are not all equal.
    """

    def __init__(self, choices: Sequence[Sequence[int]], scores: Sequence[float]) -> None:
        self._choices = np.asarray(choices)
        values = np.asarray(scores, dtype=np.float64)
        self._mean, self._scale = float(values.mean()), float(values.std())
        targets = (values - self._mean) / self._scale
        distances = self._distances(self._choices)
        least = np.inf
        for reach in REACHES:
            kernel = np.exp(-distances / reach)
            for noise in NOISES:
                inverse = np.linalg.inv(kernel + noise * np.eye(len(values)))
                residuals = inverse @ targets / inverse.diagonal()
                error = float((residuals**2).mean())
                if error < least:
                    least, self._reach, self._weights = error, reach, inverse @ targets

    def __call__(self, choices: Sequence[int]) -> float:
        """Return the predicted score of an architecture."""
        similarity = np.exp(-self._distances(np.asarray([choices]))[0] / self._reach)
        return self._mean + self._scale * float(similarity @ self._weights)

    def _distances(self, others: npt.NDArray[np.int_]) -> npt.NDArray[np.int_]:
        distances: npt.NDArray[np.int_] = (others[:, None] != self._choices[None]).sum(-1)
        return distances
