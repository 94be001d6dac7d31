"""Panels: lines with bands that share their axes, and what of them is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from nas.comparison.curves import Floats
from nas.intervals import student_t

FEW = 5
"""Fewer searches than this are drawn one by one: an interval of three is wider than all they differ by."""

EARLY = 0.1
"""The share of a horizontal axis that is left out where the values on it would flatten all others."""

SPAN = 0.01
"""Of the largest value: the least vertical range of measured values, so that rounding does not fill it."""

REST = 1 / 3
"""The share of the vertical range that the values after it are to have."""


class Labelled(Protocol):
    """What is drawn of a group."""

    @property
    def label(self) -> str:
        """Of the group."""

    @property
    def baseline(self) -> bool:
        """Whether it is random search."""


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One group in one panel, or one choice of a decision.

    Attributes:
        label: of the group, or the choice.
        count: searches, or trials, that the mean is over.
        baseline: whether it is random search.
        x: `[points]` ascending.
        mean: `[points]`; of trials of unlike architectures, which have no mean, the best.
        half: `[points]` half width of the mean's 95 % interval (Student's t), NaN where there is none.
        single: the lines that the mean is over, where they are few; those of the other trials.
        best_of: of how many trials this is the best; None: it is a mean.
    """

    label: str
    count: int
    baseline: bool
    x: Floats
    mean: Floats
    half: Floats
    single: tuple[tuple[Floats, Floats], ...] = ()
    best_of: int | None = None

    @property
    def name(self) -> str:
        """The label, and what it stands for."""
        if self.best_of is not None:
            return f"{self.label} (best of {self.best_of} trials)"
        return f"{self.label} (n = {self.count})"


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines that share their axes.

    Attributes:
        x_label, y_label: with units.
        steps: whether values stay until the next point, as a best-so-far does.
        lines: at least one.
        absent: why groups have none, a sentence each.
    """

    x_label: str
    y_label: str
    steps: bool
    lines: tuple[Line, ...]
    absent: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers, as counts are."""
        every = [y for line in self.lines for y in (line.mean, *(y for _, y in line.single))]
        return all(bool((y == y.round()).all()) for y in every)


class Window(NamedTuple):
    """What of a panel is drawn: all to the right of `left`, which lies between `low` and `high`."""

    left: float
    right: float
    low: float
    high: float


def window(panel: Panel) -> Window:
    """Return the ranges of a panel's axes: all values, or where the first ones lie far off, all others."""
    start = 0.0 if panel.steps else min(float(line.x[0]) for line in panel.lines)
    end = max(float(line.x[-1]) for line in panel.lines)
    low, high = _range(panel, start)
    if panel.steps:
        later = _range(panel, EARLY * end)
        if later[1] - later[0] < REST * (high - low):
            start, (low, high) = EARLY * end, later
        least = 0.0
    else:
        least = 2.0 if panel.whole else SPAN * max(abs(low), abs(high))
    low, high = widened(low, high, least)
    half = 0.0 if low < high else abs(low) / 20 or 0.5
    return Window(start, end, low - half, high + half)


def widened(low: float, high: float, least: float) -> tuple[float, float]:
    """Return a range of `least` at least, about its middle, that goes not below zero for it."""
    if high - low >= least:
        return low, high
    start = max((low + high - least) / 2, min(low, 0.0))
    return start, start + least


def _range(panel: Panel, left: float) -> tuple[float, float]:
    """Return the least and the greatest value to the right of `left`, bands and single lines included."""
    values = []
    for line in panel.lines:
        half = np.nan_to_num(line.half)
        for y in (line.mean - half, line.mean + half):
            values.append(cut(line.x, y, left, steps=panel.steps)[1])
        values += [cut(x, y, left, steps=panel.steps)[1] for x, y in line.single]
    every = np.concatenate(values)
    return float(every.min()), float(every.max())


def cut(x: Floats, y: Floats, left: float, *, steps: bool) -> tuple[Floats, Floats]:
    """Return the part of a line to the right of `left`, from there on if it began before."""
    first = int(np.searchsorted(x, left))
    if first == 0 or (first < len(x) and x[first] == left):
        return x[first:], y[first:]
    at = y[first - 1] if steps or first == len(x) else np.interp(left, x, y)
    return np.insert(x[first:], 0, left), np.insert(y[first:], 0, at)


def caption(lines: Sequence[Line]) -> str:
    """Return what lines, thin lines and bands are, in a few words."""
    means = [line for line in lines if line.best_of is None and line.count > 1]
    parts = ["mean over n"] if means else []
    if any(line.single for line in means):
        parts.append("thin: each of them")
    if any(not np.isnan(line.half).all() for line in means):
        parts.append("band: 95 % interval of the mean")
    if any(line.best_of is not None for line in lines):
        parts.append("thick: the trial with the best score; thin: the others")
    return "; ".join(parts)


def mean_line(label: str, x: Floats, values: Floats, *, baseline: bool = False) -> Line:
    """Return the mean of `values` `[lines, points]` over those that are numbers, and its interval.

    Each point has a number.
    """
    counts = (~np.isnan(values)).sum(0)
    total = np.nansum(values, 0)
    mean = total / counts
    squares = np.nansum((values - mean) ** 2, 0)
    factor = np.array([student_t(int(n) - 1) / math.sqrt(n) if n > 1 else math.nan for n in counts])
    half = factor * np.sqrt(squares / np.maximum(counts - 1, 1))
    return Line(label, len(values), baseline, x, mean, half)


def one_by_one(line: Line, single: Sequence[tuple[Floats, Floats]]) -> Line:
    """Return a mean line as it is drawn: of few, with each of them in place of the interval."""
    if len(single) >= FEW:
        return line
    return replace(line, half=np.full(len(line.x), math.nan), single=tuple(single) if len(single) > 1 else ())
