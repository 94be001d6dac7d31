"""The table of a comparison: every group at the same cost, and a rank test against random search."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from nas.comparison.baselines import Baseline
from nas.comparison.curves import Curve, Incumbent
from nas.comparison.groups import Group
from nas.comparison.ranks import mann_whitney
from nas.errors import NotFound
from nas.intervals import half_width_over_seeds
from nas.storage.schema import Search


class Spread(NamedTuple):
    """Numbers of several seeds: their mean, standard deviation and the 95 % half width of the mean.

    The last two are None for a single seed, all three where there is no number.
    """

    mean: float | None
    std: float | None
    ci95: float | None


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One group at the cost at which all are compared.

    Attributes:
        group: its label.
        controller, space: what its searches share.
        searches: how many of them had a score by then: what the numbers are taken over.
        cost: worker seconds.
        trials, reused: of one search, on average; a reused trial cost nothing.
        score, score_std, score_ci95: of the best so far, over the searches.
        test, test_std, test_ci95: of the same trials on test data, where that is known.
        baseline: label of the random search that it is tested against; None: there is none.
        p_score, p_test: of a two-sided rank test against the baseline.
    """

    group: str
    controller: str
    space: str
    searches: int
    cost: float
    trials: float
    reused: float
    score: float | None
    score_std: float | None
    score_ci95: float | None
    test: float | None
    test_std: float | None
    test_ci95: float | None
    baseline: str | None
    p_score: float | None
    p_test: float | None


class Taken(NamedTuple):
    """A search, the worker seconds that it took, and its trials; a reused one cost nothing."""

    search: Search
    cost: float
    trials: int
    reused: int


def scored(
    groups: Sequence[Group], curves: Sequence[Sequence[Curve]]
) -> tuple[list[Group], list[list[Curve]], list[Search]]:
    """Return the groups and curves of the searches that have a score, and the searches that have none.

    Raises:
        NotFound: none has.
    """
    kept: list[tuple[Group, list[Curve]]] = []
    without = []
    for group, some in zip(groups, curves, strict=True):
        pairs = list(zip(group.searches, some, strict=True))
        ours = [(search, curve) for search, curve in pairs if math.isfinite(curve.first)]
        without += [search for search, curve in pairs if not math.isfinite(curve.first)]
        if ours:
            searches = tuple(search for search, _ in ours)
            kept.append((replace(group, searches=searches), [curve for _, curve in ours]))
    if not kept:
        raise NotFound("No search has a score yet: there is nothing to compare; see `nas ls`.")
    return [group for group, _ in kept], [some for _, some in kept], without


def exhausted(groups: Sequence[Group], curves: Sequence[Sequence[Curve]]) -> list[Taken]:
    """Return the searches that ended before their `max_seconds`, with known networks alone to propose."""
    return [taken for known, taken in _totals(groups, curves) if known]


def shortest(groups: Sequence[Group], curves: Sequence[Sequence[Curve]]) -> Taken:
    """Return the search at whose total all are compared: the smallest, of several the first.

    Beyond it, that search might have more than it has: its trials were used up, what it was to derive was
    derived, or it was stopped or interrupted. One that is `exhausted` would have the same, so that its total
    does not count; where all are, the largest total shows all that each will ever have.
    """
    totals = _totals(groups, curves)
    open_ended = [taken for known, taken in totals if not known]
    if open_ended:
        return min(open_ended, key=lambda taken: taken.cost)
    return max((taken for _, taken in totals), key=lambda taken: taken.cost)


def beyond(curves: Sequence[Sequence[Curve]], cost: float) -> tuple[int, int]:
    """Return how many trials came after so many worker seconds, and how many there are."""
    every = [curve for some in curves for curve in some]
    whole = sum(curve.count for curve in every)
    return whole - sum(curve.at(cost).trials for curve in every), whole


def summarize(
    groups: Sequence[Group],
    curves: Sequence[Sequence[Curve]],
    cost: float,
    baselines: Sequence[Baseline],
) -> list[ComparisonRow]:
    """Return a row for each group, whose searches have these curves, at `cost` worker seconds.

    `baselines` has what each group is tested against.
    """
    reached = [[curve.at(cost) for curve in some] for some in curves]
    rows = []
    for group, points, against in zip(groups, reached, baselines, strict=True):
        place = against.place
        base = None if place is None else reached[place]
        score, test = spread(_scores(points)), spread(_tests(points))
        rows.append(
            ComparisonRow(
                group.label,
                group.controller,
                group.searches[0].space,
                len(_scores(points)),
                cost,
                statistics.fmean(point.trials for point in points),
                statistics.fmean(point.reused for point in points),
                *score,
                *test,
                None if place is None else groups[place].label,
                None if base is None else mann_whitney(_scores(points), _scores(base)),
                None if base is None else mann_whitney(_tests(points), _tests(base)),
            )
        )
    return rows


def spread(values: Sequence[float]) -> Spread:
    """Return mean, standard deviation and interval of seeds' numbers."""
    if not values:
        return Spread(None, None, None)
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, half_width_over_seeds(values))


def _totals(groups: Sequence[Group], curves: Sequence[Sequence[Curve]]) -> list[tuple[bool, Taken]]:
    """Return what each search took, after whether it is exhausted."""
    totals = []
    for group, some in zip(groups, curves, strict=True):
        for search, curve in zip(group.searches, some, strict=True):
            reused = int(curve.reused[-1]) if len(curve.reused) else 0
            totals.append((curve.exhausted, Taken(search, curve.total, curve.count, reused)))
    return totals


def _scores(points: Sequence[Incumbent]) -> list[float]:
    return [point.score for point in points if not math.isnan(point.score)]


def _tests(points: Sequence[Incumbent]) -> list[float]:
    return [point.test for point in points if not math.isnan(point.test)]
