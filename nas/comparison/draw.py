"""Panels as a picture, by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.comparison.series import Line, Panel
from nas.errors import ConfigError, NasError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#777777"
"""Of random search."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Told apart by the colour-blind too (Okabe & Ito 2008)."""

DASHES = ("-", (0, (6, 2)), (0, (2, 1.2)), (0, (6, 2, 1.5, 2)))
"""One more way to tell lines apart, changing once the colours are used up."""

SUFFIXES = (".png", ".svg", ".pdf")

COLUMNS = 3
"""Panels in a row at most."""

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.formatter.useoffset": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "nas",
    "pdf.fonttype": 42,
}
"""Text stays text in every format, and ticks say what they stand for."""

CROWD = 4
"""More lines than so many are named below a panel, not in it."""

ENTRY = 0.21
"""Inches of a line's name there."""

SPAN = 0.01
"""Of the largest value: the least vertical range of measured values, so that rounding does not fill it."""

EARLY = 0.1
"""The share of the horizontal axis whose values may leave the picture: the first ones are far off."""


def draw(panels: Sequence[Panel], title: str, file: Path) -> None:
    """Write a picture of the panels, in rows below a title.

    Raises:
        ConfigError: see `picture`.
        NasError: the file cannot be written.
    """
    rows = math.ceil(len(panels) / COLUMNS)
    columns = math.ceil(len(panels) / rows)
    below = max(len(panel.lines) if len(panel.lines) > CROWD else 0 for panel in panels)
    with picture(file, (5.2 * columns, (3.8 + ENTRY * below) * rows), title) as figure:
        places = figure.subplots(rows, columns, squeeze=False).flat
        for panel, axes in zip(panels, places, strict=False):
            _panel(axes, panel)
        for axes in places:
            axes.set_axis_off()


@contextmanager
def picture(file: Path, size: tuple[float, float], title: str) -> Iterator[Figure]:
    """Yield an empty figure of a size in inches below a title, and write it when the block ends.

    Raises:
        ConfigError: matplotlib is not installed, or the file has another suffix than .png, .svg or .pdf.
        NasError: the file cannot be written.
    """
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"-o {file}: allowed are files that end in {', '.join(SUFFIXES)}.")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        raise ConfigError(
            "Pictures need matplotlib; run `pip install 'nas-service[plot]'`, or draw here with --text."
        ) from None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(wspace=0.06))
        figure.suptitle(title, fontsize=9, color="#444444")
        yield figure
        try:
            figure.savefig(file, dpi=160)
        except OSError as error:
            raise NasError(f"Cannot write {file}: {error.strerror}.") from None


def _panel(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    colours = cycle(COLOURS)
    chosen = 0
    for line in panel.lines:
        colour = GREY if line.baseline else next(colours)
        dash = "-" if line.baseline else DASHES[chosen // len(COLOURS) % len(DASHES)]
        chosen += not line.baseline
        kind = "steps-post" if panel.steps else "default"
        for x, y in line.single:
            axes.plot(
                x,
                y,
                color=colour,
                linewidth=0.6,
                alpha=0.35,
                drawstyle=kind,
                marker=dot(len(x)),
                markersize=3,
            )
        axes.plot(
            line.x,
            line.mean,
            color=colour,
            linestyle=dash,
            linewidth=1.8,
            drawstyle=kind,
            marker=dot(len(line.x)),
            label=f"{line.label} (n = {line.count})",
        )
        shown = ~np.isnan(line.half)
        axes.fill_between(
            line.x[shown],
            (line.mean - line.half)[shown],
            (line.mean + line.half)[shown],
            color=colour,
            alpha=0.2,
            linewidth=0,
            step="post" if panel.steps else None,
        )
    if panel.steps:
        axes.set_xlim(left=0)
        axes.set_ylim(*limits(panel.lines))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        values = np.concatenate(
            [y for line in panel.lines for y in (line.mean, *(y for _, y in line.single))]
        )
        whole = bool((values == values.round()).all())
        if whole:
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        widen(axes, 2 if whole else SPAN * float(np.abs(values).max()))
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    if len(panel.lines) > CROWD:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.16), borderaxespad=0)
    else:
        axes.legend(frameon=False, loc="lower right" if panel.steps else "best")


def widen(axes: Axes, least: float) -> None:
    """Let the vertical range be `least` at least, about its middle, without going below zero for it."""
    low, high = axes.get_ylim()
    if high - low < least:
        start = max((low + high - least) / 2, min(low, 0))
        axes.set_ylim(start, start + least)


def dot(points: int) -> str:
    """Return the marker of a line of so many points: one alone would not show without."""
    return "o" if points == 1 else ""


def limits(lines: Sequence[Line]) -> tuple[float, float]:
    """Return a vertical range with every value but those of the early steps, the last bands and some margin.

    Bands on the way, wide where few lines differ a lot, may leave it.
    """
    low, high = np.inf, -np.inf
    for line in lines:
        late = line.mean[line.x >= EARLY * line.x[-1]]
        last = np.nan_to_num(line.half[-1])
        low = min(low, float(late.min()), float(late[-1] - last))
        high = max(high, float(late.max()), float(late[-1] + last))
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return low - margin, high + margin
