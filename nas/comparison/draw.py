"""Panels as a picture, by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.comparison.curves import Floats
from nas.comparison.panels import Labelled, Panel, cut, window
from nas.drawing.matplotlib_figure import empty_figure
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

ENTRY = 0.21
"""Inches of a line of the legend."""

CHARACTERS = 0.075
"""Inches of a character there, about; a sample of the line takes as much as five."""

MARGIN = 0.05
"""The share of the vertical range that is left free above and below."""

BASELINE_DASHES = ((0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))
"""Random search lies on top of the others, which show through its gaps; of each group that there is."""


def draw(panels: Sequence[Panel], title: str, file: Path) -> None:
    """Write a picture of the panels, in rows below a title; one legend is below all.

    Raises:
        ConfigError: see `picture`.
        NasError: the file cannot be written.
    """
    rows = math.ceil(len(panels) / COLUMNS)
    columns = math.ceil(len(panels) / rows)
    width = 5.2 * columns
    looks = styles([line for panel in panels for line in panel.lines])
    names = dict.fromkeys(line.name for panel in panels for line in panel.lines)
    labels = {line.name: line.label for panel in panels for line in panel.lines}
    longest = max(map(len, names))
    deep = math.ceil(len(names) / max(1, int(width / (CHARACTERS * (longest + 5)))))
    with picture(file, (width, 3.8 * rows + ENTRY * deep), title) as figure:
        from matplotlib.lines import Line2D

        places = figure.subplots(rows, columns, squeeze=False).flat
        for panel, axes in zip(panels, places, strict=False):
            _panel(axes, panel, looks)
        for axes in places:
            axes.set_axis_off()
        figure.legend(
            [Line2D([], [], linewidth=1.8, **looks[labels[name]]) for name in names],
            list(names),
            loc="outside lower center",
            ncols=math.ceil(len(names) / deep),
            frameon=False,
        )


def styles(drawn: Sequence[Labelled]) -> dict[str, dict[str, Any]]:
    """Return the colour and the dashes of each label, the same in all panels."""
    looks: dict[str, dict[str, Any]] = {}
    chosen = baselines = 0
    for line in drawn:
        if line.label in looks:
            continue
        if line.baseline:
            dashes = BASELINE_DASHES[baselines % len(BASELINE_DASHES)]
            looks[line.label] = {"color": GREY, "linestyle": dashes}
            baselines += 1
        else:
            colour, dash = COLOURS[chosen % len(COLOURS)], DASHES[chosen // len(COLOURS) % len(DASHES)]
            looks[line.label] = {"color": colour, "linestyle": dash}
            chosen += 1
    return looks


@contextmanager
def picture(file: Path, size: tuple[float, float], title: str) -> Iterator[Figure]:
    """Yield an empty figure of a size in inches below a title, and write it when the block ends.

    Raises:
        ConfigError: matplotlib is not installed, or the file has another suffix than .png, .svg or .pdf.
        NasError: the file cannot be written.
    """
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"-o {file}: allowed are files that end in {', '.join(SUFFIXES)}.")
    figure = empty_figure(size, "draw here with --text")
    from matplotlib import rc_context
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with rc_context(STYLE):
        figure.set_layout_engine(ConstrainedLayoutEngine(wspace=0.06))
        figure.suptitle(title, fontsize=9, color="#444444")
        yield figure
        try:
            figure.savefig(file, dpi=160)
        except OSError as error:
            raise NasError(f"Cannot write {file}: {error.strerror}.") from None


def _panel(axes: Axes, panel: Panel, looks: Mapping[str, dict[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    shown = window(panel)
    kind = "steps-post" if panel.steps else "default"
    for line in panel.lines:
        look = looks[line.label]
        above = 2 if line.baseline else 1

        def right(x: Floats, y: Floats) -> tuple[Floats, Floats]:
            return cut(x, y, shown.left, steps=panel.steps)

        for x, y in (right(*single) for single in line.single):
            mark = dot(len(x))
            thin: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.4, "zorder": 1, "markersize": 3}
            axes.plot(x, y, color=look["color"], drawstyle=kind, marker=mark, **thin)
        x, y = right(line.x, line.mean)
        axes.plot(x, y, linewidth=1.8, drawstyle=kind, marker=dot(len(x)), zorder=2 + above, **look)
        known = ~np.isnan(line.half)
        if known.any():
            low, high = (
                right(line.x[known], (line.mean + side * line.half)[known])[1] for side in (-1.0, 1.0)
            )
            place = right(line.x[known], line.mean[known])[0]
            step: Any = "post" if panel.steps else None
            axes.fill_between(place, low, high, color=look["color"], alpha=0.2, linewidth=0, step=step)
    margin = MARGIN * (shown.high - shown.low)
    axes.set_ylim(shown.low - margin, shown.high + margin)
    if panel.steps:
        axes.set_xlim(shown.left, shown.right + MARGIN * (shown.right - shown.left))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        if shown.left == shown.right:
            axes.set_xticks([shown.left])
        if panel.whole:
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def dot(points: int) -> str:
    """Return the marker of a line of so many points: one alone would not show without."""
    return "o" if points == 1 else ""
