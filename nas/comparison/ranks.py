"""Statistics of ranks: whether one of two samples tends to be larger, and whether two orders agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

EXACT = 50
"""Up to so many values in all the test is exact, ties included; beyond, normal."""


def midranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return each value's rank from 1, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


def mann_whitney(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the Mann-Whitney U test (1947); None if a sample is empty.

    Small samples are compared with every division of their values into two such samples: the share in which
    the rank sum lies at least as far from its mean. Large ones with the normal distribution, its variance
    corrected for ties and the rank sum moved by half a rank towards its mean.
    """
    if not a or not b:
        return None
    ranks = midranks(np.concatenate([np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)]))
    total, first = len(ranks), len(a)
    distance = abs(ranks[:first].sum() - first * (total + 1) / 2)
    if total <= EXACT:
        return _exact(ranks, first, float(distance))
    _, ties = np.unique(ranks, return_counts=True)
    spread = total + 1 - (ties.astype(np.float64) ** 3 - ties).sum() / (total * (total - 1))
    variance = first * len(b) / 12 * spread
    if variance <= 0:
        return 1.0
    return math.erfc(max(float(distance) - 0.5, 0.0) / math.sqrt(2 * variance))


def least(first: int, second: int) -> float:
    """Return the smallest p-value that the test can give two samples of such sizes: they do not overlap."""
    return 2 / math.comb(first + second, first)


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation (1904) of pairs, ties at their midranks.

    None where it is not defined: for fewer than two pairs, or where all values of a side are equal.
    """
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    one, other = (midranks(np.asarray(values, dtype=np.float64)) for values in (a, b))
    return float(np.corrcoef(one, other)[0, 1])


def _exact(ranks: npt.NDArray[np.float64], first: int, distance: float) -> float:
    """Count the divisions by size and rank sum, value by value; midranks are doubled to be whole."""
    doubled = np.rint(2 * ranks).astype(np.int64)
    ways = np.zeros((first + 1, int(doubled.sum()) + 1))
    ways[0, 0] = 1.0
    for rank in doubled:
        # From the largest size down, so that no value is taken twice.
        for size in range(first, 0, -1):
            ways[size, rank:] += ways[size - 1, : ways.shape[1] - rank]
    sums = np.arange(ways.shape[1]) / 2
    far = np.abs(sums - first * (len(ranks) + 1) / 2) >= distance - 1e-9
    return float(ways[first, far].sum() / ways[first].sum())
