"""Dominance: which points no other point beats."""

from __future__ import annotations

from collections.abc import Sequence
from operator import le

Point = tuple[float, ...]


def nondominated(points: Sequence[Point]) -> list[int]:
    """Return the indices of the points that no other point is below or level with everywhere and not equal.

    Equal points stand or fall together.

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
