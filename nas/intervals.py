"""Means and their 95 % intervals: over few training seeds, and over many test episodes."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence


def half_width_over_seeds(values: Sequence[float]) -> float | None:
    """Return the half width of Student's 95 % interval of a mean, t · s / √n; None for a single value."""
    n = len(values)
    return student_t(n - 1) * statistics.stdev(values) / math.sqrt(n) if n > 1 else None


def half_width_over_episodes(values: Sequence[float]) -> float:
    """Return the half width of the normal 95 % interval of a mean: 1.96 · s / √n, of at least 2 values."""
    return 1.96 * statistics.stdev(values) / math.sqrt(len(values))


def by_episode(runs: Sequence[Sequence[float]]) -> list[float]:
    """Return each episode's mean over runs of equal length."""
    return [statistics.fmean(scores) for scores in zip(*runs, strict=True)]


@functools.cache
def student_t(freedom: int, inside: float = 0.95) -> float:
    """Return the t within ± which Student's t lies with a probability; 12.706… at one degree of freedom."""
    low, high = 0.0, 13.0
    while student_within(high, freedom) < inside:
        high *= 2
    while high - low > 1e-12 * max(high, 1):
        middle = (low + high) / 2
        low, high = (middle, high) if student_within(middle, freedom) < inside else (low, middle)
    return (low + high) / 2


def student_cdf(t: float, freedom: int) -> float:
    """Return the probability that Student's t is at most `t`."""
    return (1 + math.copysign(student_within(abs(t), freedom), t)) / 2


def student_within(t: float, freedom: int) -> float:
    """Return the probability that Student's t lies in [−t, t] (Abramowitz & Stegun 1964, 26.7.3-4)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    if freedom == 1:
        return 2 * angle / math.pi
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
