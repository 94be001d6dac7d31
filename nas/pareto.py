"""Dominance: which points no other point beats, their ranks, and how crowded they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import le

Point = tuple[float, ...]


def nondominated(points: Sequence[Point]) -> list[int]:
    """Return the indices of the points that no other point dominates.

    One dominates another if it is nowhere above it, and somewhere below. Equal points stand or fall together.

    Args:
        points: sorted; in every coordinate less is better.
    """
    found: list[int] = []
    best: list[Point] = []
    for index, point in enumerate(points):
        # What dominates a point sorts before it, so whoever is on the front stays there.
        if best and point == best[-1]:
            found.append(index)
        elif not any(all(map(le, other, point)) for other in reversed(best)):
            found.append(index)
            best.append(point)
    return found


def fronts(points: Sequence[Point]) -> list[list[int]]:
    """Return the indices of points by rank, each rank ascending: nondominated sorting.

    The first front is what no other point dominates; the next, what is left dominates no more (Deb et al.
    2002, A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, Section III-A).

    Args:
        points: in any order; in every coordinate less is better.
    """
    left = sorted(range(len(points)), key=points.__getitem__)
    found = []
    while left:
        best = {left[place] for place in nondominated([points[index] for index in left])}
        found.append(sorted(best))
        left = [index for index in left if index not in best]
    return found


def crowding(points: Sequence[Point]) -> list[float]:
    """Return how much room each point of a front has: its crowding distance (Deb et al. 2002, Section III-B).

    It is the sum, over the coordinates, of the distance between a point's two neighbours, as a share of the
    front's extent. It is infinite at both ends of a coordinate.

    Args:
        points: none of which dominates another.
    """
    distances = [0.0] * len(points)
    for along in zip(*points, strict=True):
        order = sorted(range(len(points)), key=along.__getitem__)
        extent = along[order[-1]] - along[order[0]]
        distances[order[0]] = distances[order[-1]] = math.inf
        for before, here, after in zip(order, order[1:], order[2:], strict=False):
            if extent > 0:
                distances[here] += (along[after] - along[before]) / extent
    return distances


def crowded(points: Sequence[Point]) -> list[tuple[int, float]]:
    """Return for each point what the crowded comparison goes by: its rank, then its crowding, negated.

    Less is better: a better front, and on one front more room (Deb et al. 2002, Section III-B).

    Args:
        points: in any order; in every coordinate less is better.
    """
    places = [(0, 0.0)] * len(points)
    for rank, front in enumerate(fronts(points)):
        for index, distance in zip(front, crowding([points[index] for index in front]), strict=True):
            places[index] = (rank, -distance)
    return places
