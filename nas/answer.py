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
from statistics import NormalDist, fmean, variance

from nas.intervals import student_cdf

FEW = 4
"""With fewer candidates their spread is not estimated, and nothing is shrunk."""

STEP, STEPS = 1.25, 60
"""Ratios of the variance of levels to that of the noise, to look for the best among: from 1.5e-6 to 6.5e5."""


@dataclass(frozen=True, slots=True)
class Level:
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
class Singles:
    """Candidates that have one score each, as far as the levels of all depend on them.

    Attributes:
        count: how many there are.
        better: how many scores are above the center of all candidates.
        squares: the sum of the squares by which these are above it.
        widths2: mean square of the half widths of the scores' 95 % intervals over tasks; NaN: not known.
    """

    count: int
    better: int
    squares: float
    widths2: float


@dataclass(frozen=True, slots=True)
class Levels:
    """How the levels of candidates are spread, and the luck of a score around each.

    Attributes:
        noise: standard deviation of a score under another seed; NaN: nothing is known of it.
        freedom: the degrees of freedom behind the noise; None: it is that over tasks, and the part of the
            training seed is not known.
        center, spread: mean and standard deviation of the levels of candidates; the spread is infinite where
            it is not known.
    """

    noise: float
    freedom: int | None
    center: float
    spread: float

    def level(self, scores: Sequence[float]) -> Level:
        """Return the level of one of the candidates, given its scores."""
        mean, error = fmean(scores), self.noise**2 / len(scores)
        return Level(*_shrunk(mean, error, self.center, self.spread**2), mean, len(scores))

    def alone(self, scores: Sequence[float]) -> Level:
        """Return the level of a candidate of another kind, such as a baseline: nothing is shrunk."""
        mean = fmean(scores)
        return Level(mean, self.noise**2 / len(scores), mean, len(scores))

    def beats(self, one: Level, other: Level) -> float | None:
        """Return the probability that the level of one is above that of the other; None: it is not known."""
        if math.isnan(self.noise):
            return None
        ahead, spread = one.mean - other.mean, math.sqrt(one.variance + other.variance)
        if spread == 0:
            return 0.5 if ahead == 0 else float(ahead > 0)
        if self.freedom is None:
            return NormalDist().cdf(ahead / spread)
        return student_cdf(ahead / spread, self.freedom)


def levels(several: Sequence[Sequence[float]], singles: Singles, center: float) -> Levels:
    """Estimate how the levels of candidates are spread, from their scores.

    Levels and noise are taken to be normal, and their variances are fitted to the candidates whose first
    score is in the better half: how bad the bad ones are says nothing of how the good ones differ. Where no
    candidate has several seeds, the noise is taken from the widths of the intervals over tasks.

    Args:
        several: scores of candidates, one for each seed. Whether there are further ones may depend on the
            first.
        singles: all other candidates.
        center: the median of the first scores of all candidates.
    """
    freedom = sum(len(own) - 1 for own in several)
    if freedom:
        noise2 = sum((len(own) - 1) * variance(own) for own in several if len(own) > 1) / freedom
    else:
        noise2 = singles.widths2 / 1.96**2
    spread2 = math.inf
    if singles.count + len(several) >= FEW and not math.isnan(noise2):
        if freedom and noise2:
            noise2, spread2 = _variances(several, singles, center, noise2)
        else:
            distances = [(own[0] - center) ** 2 for own in several if own[0] > center]
            better = len(distances) + singles.better
            squares = math.fsum([*distances, singles.squares])
            spread2 = max(0.0, squares / better - noise2) if better else 0.0
    return Levels(math.sqrt(noise2), freedom or None, center, math.sqrt(spread2))


def _variances(
    several: Sequence[Sequence[float]], singles: Singles, center: float, pooled: float
) -> tuple[float, float]:
    """Return the variances of the noise and of levels that are most likely.

    The likelihood is that of the better half, by the first scores, with the center given, and of how the
    scores of each of the others differ. It holds although the best first scores decided who got further ones;
    moments do not: of those that have several, the first is too good, and of those that have one the best are
    missing. For a ratio of the variances, the best noise has a closed form, so the ratio alone is sought.

    Args:
        several: as of `levels`, like singles and the center.
        singles: see there.
        center: see there.
        pooled: variance of the noise where no first score is in the better half.
    """
    within, many = 0.0, singles.better
    between: dict[int, tuple[int, float]] = {}  # by seeds: how many candidates, and their squares
    if singles.better:
        between[1] = singles.better, singles.squares
    for own in several:
        n = len(own)
        if n > 1:
            within, many = within + (n - 1) * variance(own), many + n - 1
        if own[0] > center:
            many += 1
            count, squares = between.get(n, (0, 0.0))
            between[n] = count + 1, squares + n * (fmean(own) - center) ** 2
    if not between:
        return pooled, 0.0

    def noise(ratio: float) -> float:
        return (within + sum(squares / (1 + n * ratio) for n, (_, squares) in between.items())) / many

    def loss(ratio: float) -> float:
        return many * math.log(noise(ratio)) + sum(
            count * math.log1p(n * ratio) for n, (count, _) in between.items()
        )

    ratio = min((0.0, *(STEP**k for k in range(-STEPS, STEPS + 1))), key=loss)
    low, high = ratio / STEP, ratio * STEP
    for _ in range(60):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return noise(high), high * noise(high)


def _shrunk(mean: float, error: float, center: float, spread2: float) -> tuple[float, float]:
    """Return mean and variance of a level, given the mean of its scores with its variance."""
    if math.isinf(spread2) or math.isnan(error):
        return mean, error
    weight = spread2 / (spread2 + error) if spread2 + error > 0 else 1.0
    return center + weight * (mean - center), weight * error
