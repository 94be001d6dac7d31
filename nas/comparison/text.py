"""Panels, and tables of α, as characters for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np

from nas.comparison.curves import Floats
from nas.comparison.draw import limits
from nas.comparison.mixtures import Mixtures
from nas.comparison.series import Line, Panel

MARKS = "*o+x#@%&"
BASELINE_MARK = "."


def render(panel: Panel, width: int, height: int = 18) -> str:
    """Return a panel of `width` columns: a mark for each line, the means alone."""
    if panel.steps:
        low, high = limits(panel.lines)
    else:
        values = np.concatenate([line.mean for line in panel.lines])
        low, high = float(values.min()), float(values.max())
        low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    ticks = _ticks(low, high)
    gutter = max(map(len, ticks)) + 2
    columns = max(width - gutter, 20)
    start = 0.0 if panel.steps else min(float(line.x[0]) for line in panel.lines)
    end = max(float(line.x[-1]) for line in panel.lines)
    grid = [[" "] * columns for _ in range(height)]
    marks = _marks(panel.lines)
    for line, mark in zip(panel.lines, marks, strict=True):
        at = np.linspace(start, end, columns)
        for column, value in enumerate(_values(line, at, steps=panel.steps)):
            if low <= value <= high:
                grid[height - 1 - round((value - low) / (high - low) * (height - 1))][column] = mark
    rows = {height - 1 - round(i / 4 * (height - 1)): tick for i, tick in enumerate(ticks)}
    lines = [panel.y_label]
    for number, row in enumerate(grid):
        edge = "┤" if number in rows else "│"
        lines.append(f"{rows.get(number, ''):>{gutter - 1}}{edge}{''.join(row)}".rstrip())
    lines.append(f"{'':{gutter - 1}}└{'─' * columns}")
    last = f"{end:.6g}"
    lines.append(f"{'':{gutter}}{f'{start:.6g}':<{columns - len(last)}}{last}")
    lines.append(f"{'':{gutter}}{panel.x_label:^{columns}}".rstrip())
    lines += [
        f"{'':{gutter}}{m} {line.label} (n = {line.count})"
        for line, m in zip(panel.lines, marks, strict=True)
    ]
    return "\n".join(lines)


def _ticks(low: float, high: float) -> list[str]:
    """Return five labels from bottom to top, with as many digits as tell them apart, four at least."""
    values = [low + (high - low) * i / 4 for i in range(5)]
    several = ([f"{value:.{digits}g}" for value in values] for digits in range(4, 17))
    return next((ticks for ticks in several if len(set(ticks)) == len(ticks)), [str(v) for v in values])


def _marks(lines: Sequence[Line]) -> list[str]:
    marks = cycle(MARKS)
    return [BASELINE_MARK if line.baseline else next(marks) for line in lines]


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
