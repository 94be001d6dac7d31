"""The table of a comparison: every group at the same cost, and a rank test against random search."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from nas.comparison.baselines import baseline
from nas.comparison.curves import Curve, Point
from nas.comparison.groups import Group
from nas.comparison.ranks import mann_whitney
from nas.errors import NotFound
from nas.statistics import half_width_over_seeds
from nas.storage.schema import Search


class Spread(NamedTuple):
    """Numbers of several seeds: their mean, standard deviation and the 95 % half width of the mean.

    The last two are None for a single seed, all three where there is no number.
    """

    mean: float | None
    std: float | None
    ci95: float | None


@dataclass(frozen=True, slots=True)
class Row:
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


class Shortest(NamedTuple):
    """The search that took the least: all are compared at its cost, in worker seconds."""

    search: str
    cost: float


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


def shortest(groups: Sequence[Group], curves: Sequence[Sequence[Curve]]) -> Shortest:
    """Return the search with the smallest total, of several the first."""
    totals = [
        Shortest(search.name, curve.total)
        for group, some in zip(groups, curves, strict=True)
        for search, curve in zip(group.searches, some, strict=True)
    ]
    return min(totals, key=lambda search: search.cost)


def summarize(groups: Sequence[Group], curves: Sequence[Sequence[Curve]], cost: float) -> list[Row]:
    """Return a row for each group, whose searches have these curves, at `cost` worker seconds."""
    reached = [[curve.at(cost) for curve in some] for some in curves]
    rows = []
    for group, points in zip(groups, reached, strict=True):
        place = baseline(groups, group).place
        base = None if place is None else reached[place]
        score, test = spread(_scores(points)), spread(_tests(points))
        rows.append(
            Row(
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


def _scores(points: Sequence[Point]) -> list[float]:
    return [point.score for point in points if not math.isnan(point.score)]


def _tests(points: Sequence[Point]) -> list[float]:
    return [point.test for point in points if not math.isnan(point.test)]
