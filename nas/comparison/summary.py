"""The table of a comparison: every group at the same cost, and a rank test against random search."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nas.comparison.curves import Curve, Point
from nas.comparison.groups import BASELINE, Group
from nas.comparison.ranks import mann_whitney
from nas.errors import NotFound
from nas.evaluation.statistics import half_width_over_seeds


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
        p_score, p_test: of a two-sided rank test against the baseline in the same space.
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
    p_score: float | None
    p_test: float | None


def equal_cost(curves: Sequence[Sequence[Curve]]) -> float:
    """Return the smallest total of any search, in worker seconds.

    Raises:
        NotFound: a search has no trial that ended.
    """
    if not all(len(curve.cost) for some in curves for curve in some):
        raise NotFound("A search has no trial that has ended: there is nothing to compare yet; see `nas ls`.")
    return min(curve.total for some in curves for curve in some)


def summarize(groups: Sequence[Group], curves: Sequence[Sequence[Curve]], cost: float) -> list[Row]:
    """Return a row for each group, whose searches have these curves, at `cost` worker seconds."""
    reached = [[curve.at(cost) for curve in some] for some in curves]
    rows = []
    for group, points in zip(groups, reached, strict=True):
        base = _baseline(groups, reached, group)
        scored = [point for point in points if not math.isnan(point.score)]
        score, test = spread(_scores(points)), spread(_tests(points))
        rows.append(
            Row(
                group.label,
                group.controller,
                group.searches[0].space,
                len(scored),
                cost,
                statistics.fmean(point.trials for point in points),
                statistics.fmean(point.reused for point in points),
                *score,
                *test,
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


def _baseline(
    groups: Sequence[Group], reached: Sequence[Sequence[Point]], beside: Group
) -> Sequence[Point] | None:
    """Return the points of the random search in a group's space; None for the baseline itself."""
    if beside.controller == BASELINE:
        return None
    for group, points in zip(groups, reached, strict=True):
        if group.controller == BASELINE and group.space == beside.space:
            return points
    return None


def _scores(points: Sequence[Point]) -> list[float]:
    return [point.score for point in points if not math.isnan(point.score)]


def _tests(points: Sequence[Point]) -> list[float]:
    return [point.test for point in points if not math.isnan(point.test)]
