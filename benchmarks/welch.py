"""Welch's interval of the difference of two means (Welch 1947)."""

from __future__ import annotations

import math
from typing import NamedTuple

from nas.intervals import student_t


class Error(NamedTuple):
    """How well a mean is known.

    Attributes:
        standard: its standard error.
        values: how many it is the mean of, at least 2.
    """

    standard: float
    values: int


def half_width(one: Error, other: Error) -> float:
    """Return half of the 95 % interval of the difference of two means."""
    total = one.standard**2 + other.standard**2
    if total == 0:
        return 0.0
    freedom = total**2 / sum(error.standard**4 / (error.values - 1) for error in (one, other))
    return student_t(int(freedom)) * math.sqrt(total)
