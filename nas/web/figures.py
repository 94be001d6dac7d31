"""Panels as plotly draws them in a browser, and as matplotlib draws them for one without JavaScript."""

from __future__ import annotations

import math
import tempfile
import textwrap
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.comparison.curves import Floats
from nas.comparison.draw import COLOURS, GREY, draw
from nas.comparison.panels import Line, Panel

POINTS = 500
"""Points of a line at most; the browser gets no more, however many trials there are."""

ROW, LOW_ROW = 290, 150
"""Height of a panel in pixels, and of one of many."""

SIDE = 30
"""Characters of a line beside a panel."""

MANY = 4
"""Panels from which on each is low."""

_matplotlib = threading.Lock()

Figure = dict[str, Any]
"""Data and layout, as plotly's JavaScript takes them."""


def of_panels(panels: Sequence[Panel]) -> Figure:
    """Return a figure of panels below each other."""
    data: list[dict[str, Any]] = []
    row = ROW if len(panels) < MANY else LOW_ROW
    layout: dict[str, Any] = {"height": row * len(panels) + 80, "hovermode": "closest"}
    labels = dict.fromkeys(line.label for panel in panels for line in panel.lines if not line.baseline)
    colours = {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(labels)}
    share = 1 / max(len(panels), 1)
    layout["showlegend"] = any(len(panel.lines) > 1 or panel.steps for panel in panels)
    for place, panel in enumerate(panels):
        which = "" if place == 0 else str(place + 1)
        top = 1 - place * share
        below = panels[place + 1].x_label if place + 1 < len(panels) else ""
        said = "" if below == panel.x_label else panel.x_label
        layout[f"xaxis{which}"] = {"title": {"text": said}, "anchor": f"y{which}"}
        if place and panel.x_label == panels[0].x_label:
            layout[f"xaxis{which}"]["matches"] = "x"  # what is below each other is of one moment
        layout[f"yaxis{which}"] = {
            "title": _side(panel.y_label, low=row == LOW_ROW),
            "domain": [top - (0.8 if len(panels) > 1 else 1.0) * share, top],
            "anchor": f"x{which}",
        }
        axes = {"xaxis": f"x{which}", "yaxis": f"y{which}"}
        for line in panel.lines:
            look = {"color": GREY if line.baseline else colours[line.label]}
            data += _line(line, look, axes, steps=panel.steps, legend=place == 0)
    return {"data": data, "layout": layout}


def _side(label: str, *, low: bool) -> dict[str, Any]:
    """Return a title that is no longer than the axis beside which it stands: in several lines, if need be."""
    if low:
        return {"text": label.replace(".", ".<br>", 1), "font": {"size": 11}}
    return {"text": "<br>".join(textwrap.wrap(label, SIDE)), "standoff": 12}


def _line(
    line: Line, look: Mapping[str, Any], axes: Mapping[str, str], *, steps: bool, legend: bool
) -> list[dict[str, Any]]:
    shape = "hv" if steps else "linear"
    quiet = {"showlegend": False, "hoverinfo": "skip", "legendgroup": line.label, **axes}
    found = []
    known = ~np.isnan(line.half)
    if known.any():
        x, low, high = line.x[known], (line.mean - line.half)[known], (line.mean + line.half)[known]
        edge = {"mode": "lines", "line": {"width": 0, "shape": shape, **look}, **quiet}
        found.append({**edge, **_points(x, low)})
        found.append({**edge, **_points(x, high), "fill": "tonexty", "fillcolor": _faint(look["color"])})
    for x, y in line.single:
        thin = {"width": 0.7, "shape": shape, **look}
        found.append({"mode": "lines", "opacity": 0.5, "line": thin, **quiet, **_points(x, y)})
    dash = "dash" if line.baseline else "solid"
    mode = "lines+markers" if len(line.x) == 1 else "lines"
    found.append(
        {
            "name": line.name,
            "legendgroup": line.label,
            "showlegend": legend,
            "mode": mode,
            "line": {"width": 2, "shape": shape, "dash": dash, **look},
            **axes,
            **_points(line.x, line.mean),
        }
    )
    return [{"type": "scatter", **trace} for trace in found]


def _points(x: Floats, y: Floats) -> dict[str, list[float | None]]:
    """Return a line thinned out evenly; its ends stay."""
    if len(x) > POINTS:
        kept = np.unique(np.linspace(0, len(x) - 1, POINTS).round().astype(int))
        x, y = x[kept], y[kept]
    return {"x": [_number(value) for value in x], "y": [_number(value) for value in y]}


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _faint(colour: str) -> str:
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r}, {g}, {b}, 0.2)"


def trial_panel(metric: str, points: Sequence[tuple[int, float]]) -> Panel:
    """Return the panel of what one trial measured, `(step, value)` each."""
    x, y = np.array(points, float).T
    line = Line(metric, 1, False, x, y, np.full(len(x), math.nan))
    return Panel("training episodes", metric.replace("_", " "), False, (line,))


def svg(panels: Sequence[Panel], title: str) -> bytes:
    """Return panels as an SVG file.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    with _matplotlib, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figure.svg"
        draw(panels, title, file)
        return file.read_bytes()
