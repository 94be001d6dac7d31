"""Rank correlations, as the pages of results state them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nas.comparison.ranks import spearman


def correlation(one: Sequence[float], other: Sequence[float]) -> str:
    """Return Spearman's ρ with its 95 % interval, by Fisher's z (Bonett & Wright 2000)."""
    rho = spearman(one, other)
    if rho is None:
        return ""
    if abs(rho) == 1:
        return f"{rho:.2f}"
    half = 1.96 * math.sqrt((1 + rho**2 / 2) / (len(one) - 3))
    low, high = (math.tanh(math.atanh(rho) + side * half) for side in (-1, 1))
    return f"{rho:.2f} ({low:.2f} to {high:.2f})"


def kendall(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Return Kendall's τ-b (1945) of pairs."""
    upper = np.triu_indices(len(one), 1)
    a, b = (np.sign(values[:, None] - values)[upper] for values in (one, other))
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
