"""Panels, and tables of α, as characters for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, pairwise

import numpy as np

from nas.comparison.curves import Floats
from nas.comparison.mixtures import Mixtures
from nas.comparison.panels import Labelled, Line, Panel, Window, window

MARKS = "*o+x#@%&"
BASELINE_MARKS = ".:'"

ROUNDING = 1e-9
"""What a ratio of round numbers may be off."""


def render(panel: Panel, width: int, height: int = 18) -> str:
    """Return a panel of `width` columns: a mark for each line, without bands; lines that meet take turns."""
    panel = replace(panel, lines=tuple(map(_bare, panel.lines)))
    shown = window(panel)
    steps = enclosing(shown.low, shown.high, 4, whole=panel.whole)
    columns = _columns(steps, width)
    at = np.linspace(shown.left, shown.right, columns)
    signs = marks(panel.lines)
    points = [
        (float(x), float(value), mark)
        for line, mark in zip(panel.lines, signs, strict=True)
        for x, value in zip(at, _values(line, at, steps=panel.steps), strict=True)
    ]
    legend = [f"{mark} {line.name}" for line, mark in zip(panel.lines, signs, strict=True)]
    return _framed(points, shown, steps, (panel.x_label, panel.y_label), legend, columns, height)


def scatter(
    points: Sequence[tuple[float, float, str]],
    shown: Window,
    labels: tuple[str, str],
    legend: Sequence[str],
    width: int,
    height: int = 18,
) -> str:
    """Return points as characters in `width` columns.

    Args:
        points: x, y and the mark of each.
        shown: the ranges that they lie in.
        labels: of the horizontal and the vertical axis.
        legend: what each mark means.
        width: in characters.
        height: the same, without the axes.
    """
    steps = enclosing(shown.low, shown.high, 4)
    return _framed(points, shown, steps, labels, legend, _columns(steps, width), height)


MANY = 10_000
"""From here on numbers of an axis have a unit."""

UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def _columns(steps: Sequence[float], width: int) -> int:
    return max(width - _gutter(steps), 20)


def _gutter(steps: Sequence[float]) -> int:
    return max(map(len, _labels(steps))) + 2


def _framed(
    points: Sequence[tuple[float, float, str]],
    shown: Window,
    steps: Sequence[float],
    labels: tuple[str, str],
    legend: Sequence[str],
    columns: int,
    height: int,
) -> str:
    """Return points between axes; where several meet, they take turns."""
    low, high = steps[0], steps[-1]
    gutter = _gutter(steps)
    length = shown.right - shown.left
    met: dict[tuple[int, int], list[str]] = {}
    for x, y, mark in points:
        if low <= y <= high:
            column = round((x - shown.left) / length * (columns - 1)) if length else 0
            here = met.setdefault((_row(y, low, high, height), column), [])
            if mark not in here:
                here.append(mark)
    rows = {_row(step, low, high, height): tick for step, tick in zip(steps, _labels(steps), strict=True)}
    lines = [labels[1]]
    for number in range(height):
        edge = "┤" if number in rows else "│"
        cells = [met.get((number, column), [" "]) for column in range(columns)]
        text = "".join(cell[column % len(cell)] for column, cell in enumerate(cells))
        lines.append(f"{rows.get(number, ''):>{gutter - 1}}{edge}{text}".rstrip())
    lines += [f"{'':{gutter - 1}}{text}" for text in _axis(shown, columns)]
    lines.append(f"{'':{gutter}}{labels[0]:^{columns}}".rstrip())
    return "\n".join([*lines, *(f"{'':{gutter}}{entry}" for entry in legend)])


def _bare(line: Line) -> Line:
    """Return a line without what a terminal does not show."""
    return replace(line, half=np.full(len(line.x), math.nan), single=())


def enclosing(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """Return about `count` + 1 round numbers, evenly apart, that a range lies between; or whole ones."""
    step = _step(low, high, count)
    step = float(math.ceil(step)) if whole else step
    return [n * step for n in range(math.floor(low / step + ROUNDING), math.ceil(high / step - ROUNDING) + 1)]


def within(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers, evenly apart, that lie in a range."""
    step = _step(low, high, count)
    return [n * step for n in range(math.ceil(low / step - ROUNDING), math.floor(high / step + ROUNDING) + 1)]


def _step(low: float, high: float, count: int) -> float:
    """Return the least of 1, 2, 2.5 and 5 times a power of ten of which `count` reach across a range."""
    least = (high - low) / count
    power = 10.0 ** math.floor(math.log10(least))
    return next(size * power for size in (1, 2, 2.5, 5, 10) if size * power >= least * (1 - ROUNDING))


def _labels(steps: Sequence[float]) -> list[str]:
    """Return numbers with as many decimals as their distance has, large ones in thousands or millions."""
    most = max(map(abs, steps))
    unit, letter = next((pair for pair in UNITS if most >= MANY and most >= pair[0]), (1.0, ""))
    step = min(abs(b - a) for a, b in pairwise(steps)) / unit if len(steps) > 1 else 1.0
    decimals = next((n for n in range(16) if math.isclose(round(step, n), step, rel_tol=1e-6)), 16)
    return [f"{value / unit:.{decimals}f}{letter if value else ''}" for value in steps]


def _axis(shown: Window, columns: int) -> list[str]:
    """Return the horizontal axis with round numbers below it."""
    edge, below = ["─"] * columns, [" "] * columns
    length = shown.right - shown.left
    steps = within(shown.left, shown.right, max(columns // 12, 1)) if length else [shown.left]
    for step, label in zip(steps, _labels(steps), strict=True):
        column = round((step - shown.left) / length * (columns - 1)) if length else 0
        edge[column] = "┬"
        start = min(max(column - len(label) // 2, 0), columns - len(label))
        below[start : start + len(label)] = label
    return [f"└{''.join(edge)}", f" {''.join(below)}".rstrip()]


def _row(value: float, low: float, high: float, height: int) -> int:
    return height - 1 - round((value - low) / (high - low) * (height - 1))


def marks(drawn: Sequence[Labelled]) -> list[str]:
    """Return the mark of each line, or cloud."""
    others, baselines = cycle(MARKS), cycle(BASELINE_MARKS)
    return [next(baselines if one.baseline else others) for one in drawn]


def _values(line: Line, at: Floats, *, steps: bool) -> Floats:
    """Return a line's mean at each place, NaN outside of it."""
    if steps:
        place = np.searchsorted(line.x, at, side="right") - 1
        return np.where(place >= 0, line.mean[place], np.nan)
    return np.interp(at, line.x, line.mean, left=np.nan, right=np.nan)


def table(mixtures: Mixtures) -> str:
    """Return the weights of all choices of α after the first, the middle and the last epoch, a row each.

    The names of choices are broken at their underscores, so that many fit side by side.
    """
    words = [choice.split("_") for choice in mixtures.choices]
    widths = [max(len(f"{0:.3f}"), *map(len, parts)) for parts in words]
    depth = max(map(len, words))
    edge = max(len("decision"), *(len(mixture.decision) for mixture in mixtures.decisions))
    tops = zip(*([""] * (depth - len(parts)) + parts for parts in words), strict=True)
    rows = [("", "", *row) for row in tops]
    rows[-1] = ("decision", "epoch", *rows[-1][2:])
    for mixture in mixtures.decisions:
        weights = {line.label: dict(zip(line.x, line.mean, strict=True)) for line in mixture.lines}
        for epoch in sorted({1, (mixtures.epochs + 1) // 2, mixtures.epochs}):
            found = [weights.get(choice, {}).get(epoch) for choice in mixtures.choices]
            cells = ["" if weight is None else f"{weight:.3f}" for weight in found]
            rows.append((mixture.decision, str(epoch), *cells))
    return "\n".join(
        "  ".join(
            [f"{decision:{edge}}", f"{epoch:>5}"] + [f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)]
        ).rstrip()
        for decision, epoch, *cells in rows
    )
