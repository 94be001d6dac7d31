"""Scores as a function of what a network is made of, fitted to trainings of some networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, final

import numpy as np
import numpy.typing as npt

from nas.errors import ConfigError

Floats: TypeAlias = npt.NDArray[np.float64]


@final
class Regression:
    """A Bayesian ridge regression (MacKay 1992) on features, their squares and their products.

    How far the coefficients shrink follows from the evidence of the data, so that there is nothing to tune.

    Args:
        features: of each training's network, `[trainings, features]`.
        targets: such as the scores at several lengths, `[trainings, targets]`.

    Raises:
        ConfigError: scikit-learn is not installed.
    """

    def __init__(self, features: npt.ArrayLike, targets: npt.ArrayLike) -> None:
        try:
            from sklearn.linear_model import BayesianRidge
        except ImportError:
            raise ConfigError(
                "A surrogate needs scikit-learn; run `pip install 'nas-service[surrogate]'`."
            ) from None
        x, y = expanded(features), np.asarray(targets, dtype=np.float64)
        self._mean, spread = x.mean(0), x.std(0)
        self._scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
        fits = [BayesianRidge().fit((x - self._mean) * self._scale, column) for column in y.T]
        self._weights = np.stack([fit.coef_ for fit in fits], 1)
        self._constant = np.array([fit.intercept_ for fit in fits])

    def __call__(self, features: npt.ArrayLike) -> Floats:
        """Return the mean targets of networks, `[…, features]` to `[…, targets]`."""
        found: Floats = (expanded(features) - self._mean) * self._scale @ self._weights + self._constant
        return found


def expanded(features: npt.ArrayLike) -> Floats:
    """Return features with all their squares and products: `[…, F]` to `[…, F + F(F + 1)/2]`."""
    x = np.asarray(features, dtype=np.float64)
    one, other = np.triu_indices(x.shape[-1])
    return np.concatenate([x, x[..., one] * x[..., other]], -1)


def seed_covariance(targets: npt.ArrayLike, networks: Sequence[object]) -> Floats | None:
    """Return the covariance of trainings of one network that differ in their seed, `[targets, targets]`.

    It is pooled over the networks that were trained several times; None where none was.

    Args:
        targets: of each training, `[trainings, targets]`.
        networks: what was trained, by any name.
    """
    y, places = np.asarray(targets, dtype=np.float64), dict[object, list[int]]()
    for place, network in enumerate(networks):
        places.setdefault(network, []).append(place)
    repeated = [y[own] - y[own].mean(0) for own in places.values() if len(own) > 1]
    if not repeated:
        return None
    freedom = sum(len(own) - 1 for own in repeated)
    found: Floats = sum(own.T @ own for own in repeated) / freedom
    return found
