"""Which candidate to recommend: the one that is best once the luck of each draw is taken off.

A score is the candidate's own level plus the luck of its training seed. The best of many scores owes part of
its place to luck, and the more so the larger the luck is compared with how much candidates differ. So each
mean is shrunk towards the middle of all candidates (empirical Bayes: Robbins 1956; Efron & Morris 1975), and
what is recommended is the candidate with the best shrunk mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median, variance

from nas.intervals import student_cdf

FEW = 4
"""With fewer candidates their spread is not estimated, and nothing is shrunk."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is known of a candidate's level.

    Attributes:
        mean: of the level, given all scores.
        variance: of the level, given all scores.
        observed: the mean of its own scores.
        seeds: how many scores there are.
    """

    mean: float
    variance: float
    observed: float
    seeds: int


@dataclass(frozen=True, slots=True)
class Levels:
    """The levels of all candidates.

    Attributes:
        candidates: in the order given.
        noise: standard deviation of a score under another seed; NaN: nothing is known of it.
        freedom: the degrees of freedom behind the noise; None: it is that over tasks, and the part of the
            training seed is not known.
        center, spread: mean and standard deviation of the levels of candidates; the spread is infinite where
            it is not known.
    """

    candidates: tuple[Candidate, ...]
    noise: float
    freedom: int | None
    center: float
    spread: float

    def beats(self, one: Candidate, other: Candidate) -> float | None:
        """Return the probability that the level of one is above that of the other; None: it is not known."""
        if math.isnan(self.noise):
            return None
        ahead, spread = one.mean - other.mean, math.sqrt(one.variance + other.variance)
        if spread == 0:
            return 0.5 if ahead == 0 else float(ahead > 0)
        if self.freedom is None:
            return NormalDist().cdf(ahead / spread)
        return student_cdf(ahead / spread, self.freedom)

    def alone(self, scores: Sequence[float]) -> Candidate:
        """Return the level of a candidate of another kind, such as a baseline: nothing is shrunk."""
        mean = fmean(scores)
        return Candidate(mean, self.noise**2 / len(scores), mean, len(scores))


def levels(scores: Sequence[Sequence[float]], widths: Sequence[float]) -> Levels:
    """Estimate the levels of candidates from their scores.

    The noise is pooled over candidates with several seeds; without any, it is taken from the widths of the
    intervals over tasks. The levels are taken to be normal, and their spread is fitted to the better half of
    the candidates: how bad the bad ones are says nothing of how the good ones differ.

    Args:
        scores: of each candidate, one for each seed.
        widths: half widths of the scores' 95 % intervals over tasks; those that are not known are left out.
    """
    freedom = sum(len(own) - 1 for own in scores)
    if freedom:
        noise2 = sum((len(own) - 1) * variance(own) for own in scores if len(own) > 1) / freedom
    else:
        known = [(width / 1.96) ** 2 for width in widths if math.isfinite(width)]
        noise2 = fmean(known) if known else math.nan
    means = [fmean(own) for own in scores]
    errors = [noise2 / len(own) for own in scores]
    center = median(means) if means else math.nan
    shrinks = len(means) >= FEW and not math.isnan(noise2)
    spread2 = _spread(means, errors, center) if shrinks else math.inf
    found = [
        Candidate(*_shrunk(mean, error, center, spread2), mean, len(own))
        for mean, error, own in zip(means, errors, scores, strict=True)
    ]
    return Levels(tuple(found), math.sqrt(noise2), freedom or None, center, math.sqrt(spread2))


def _spread(means: Sequence[float], errors: Sequence[float], center: float) -> float:
    """Return the variance of levels at which the better half is as far from the center as it should be.

    This is the estimate of Paule & Mandel (1982), with the center given.
    """
    upper = [(mean, error) for mean, error in zip(means, errors, strict=True) if mean > center]

    def excess(spread2: float) -> float:
        return sum((mean - center) ** 2 / (error + spread2) for mean, error in upper) - len(upper)

    if not upper or any(error == 0 for _, error in upper):
        return fmean([(mean - center) ** 2 for mean, _ in upper]) if upper else 0.0
    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, max((mean - center) ** 2 for mean, _ in upper)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2


def _shrunk(mean: float, error: float, center: float, spread2: float) -> tuple[float, float]:
    """Return mean and variance of a level, given the mean of its scores with its variance."""
    if math.isinf(spread2) or math.isnan(error):
        return mean, error
    weight = spread2 / (spread2 + error) if spread2 + error > 0 else 1.0
    return center + weight * (mean - center), weight * error
