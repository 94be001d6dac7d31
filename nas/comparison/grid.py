"""The weights by α as a picture: a small panel for each decision, by matplotlib."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.comparison.draw import COLOURS, DASHES, GREY, dot, picture
from nas.comparison.mixtures import Mixture, Mixtures
from nas.comparison.panels import widened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NONE = "none"
"""The choice that is no operation: grey in every picture."""

PANEL = (1.9, 1.5)
"""Inches."""

MARGINS = (0.6, 1.5)
"""Inches around the panels: labels of the axes, title and legend."""

LEAST = 7.0
"""Width in inches at least, for title and legend."""

SPAN = 0.1
"""The least vertical range: weights that hardly moved are to look alike."""

CHARACTERS = 13
"""Of the title to an inch, at most."""

ENTRY = 1.4
"""Inches of an entry of the legend."""

ASPECT = 1.3
"""Of columns to rows, about."""


def draw_mixtures(mixtures: Mixtures, title: str, file: Path) -> None:
    """Write a picture of the weights of all choices over epochs.

    Raises:
        ConfigError: see `picture`.
        NasError: the file cannot be written.
    """
    rows, columns = shape(len(mixtures.decisions))
    width = max(columns * PANEL[0] + MARGINS[0], LEAST)
    size = width, rows * PANEL[1] + MARGINS[1]
    with picture(file, size, textwrap.fill(title, int(width * CHARACTERS))) as figure:
        from matplotlib.lines import Line2D

        places = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
        looks = styles(mixtures.choices)
        for mixture, axes in zip(mixtures.decisions, places, strict=False):
            _panel(axes, mixture, looks)
        low, high = places[0].get_ylim()
        places[0].set_ylim(*widened(low, high, SPAN))
        for axes in places[len(mixtures.decisions) :]:
            axes.set_axis_off()
        for axes in places[: len(mixtures.decisions)][-columns:]:  # nothing is below them
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("epoch", fontsize=8)
        figure.supylabel("weight by α", fontsize=9)
        lines = math.ceil(len(looks) * ENTRY / width)
        figure.legend(
            [Line2D([], [], linewidth=1.8, **look) for look in looks.values()],
            list(looks),
            loc="outside lower center",
            ncols=math.ceil(len(looks) / lines),
            frameon=False,
        )


def _panel(axes: Axes, mixture: Mixture, looks: Mapping[str, dict[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    for line in mixture.lines:
        look = looks[line.label]
        axes.plot(line.x, line.mean, linewidth=1.2, marker=dot(len(line.x)), markersize=3, **look)
        for x, y in line.single:
            axes.plot(x, y, linewidth=0.6, alpha=0.4, marker=dot(len(x)), markersize=2, **look)
        shown = ~np.isnan(line.half)
        low, high = (np.clip(line.mean + side * line.half, 0, 1)[shown] for side in (-1, 1))
        axes.fill_between(line.x[shown], low, high, color=look["color"], alpha=0.12, linewidth=0)
    axes.set_title(mixture.decision, fontsize=8, pad=3)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def shape(panels: int) -> tuple[int, int]:
    """Return rows and columns for so many panels: as few empty places as can be, wider than high."""
    root = math.sqrt(panels)
    several = range(math.ceil(root), math.ceil(2 * root) + 1)
    columns = min(several, key=lambda columns: (-panels % columns, abs(columns - ASPECT * root)))
    return math.ceil(panels / columns), columns


def styles(choices: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the colour and the dashes of each choice, the same in all panels."""
    others = [choice for choice in choices if choice != NONE]
    looks = {
        choice: {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
        }
        for place, choice in enumerate(others)
    }
    return {c: looks.get(c, {"color": GREY, "linestyle": "-"}) for c in choices}
