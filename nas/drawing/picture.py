"""A drawing as a picture file: the same places, drawn by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.drawing.graph import Drawing
from nas.drawing.layout import LINE, Box, Route
from nas.drawing.matplotlib_figure import empty_figure
from nas.drawing.page import MARGIN, arrange
from nas.drawing.palette import PLAIN, colour, ink
from nas.drawing.svg import HEAD, svg
from nas.errors import ConfigError
from nas.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = (".svg", ".png", ".pdf")
DOTS = 192
"""Dots an inch of a `.png`; a point of a layout is 1/96 inch, as in a browser."""


def write(drawing: Drawing, path: Path) -> None:
    """Write a drawing as `.svg`, `.png` or `.pdf`, by the name's ending.

    Raises:
        ConfigError: another ending, or a `.png` or `.pdf` without matplotlib.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise ConfigError(f"'{path.name}': a drawing is written as {', '.join(KINDS)}.")
    if kind == ".svg":
        with replacing(path) as temporary:
            temporary.write_text(svg(drawing), encoding="utf-8")
        return
    page = arrange(drawing)
    figure = empty_figure((page.width / 96, page.height / 96), "write a .svg, which needs nothing")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, page.width), ylim=(page.height, 0))
    axes.axis("off")
    for line in page.lines:
        _text(
            axes,
            (line.x, line.y),
            line.text,
            weight="bold" if line.title else "normal",
            ha="left",
            va="baseline",
        )
    for place in page.places:
        for route in place.layout.routes:
            _route(axes, route, place.top)
        for box in place.layout.boxes:
            _box(axes, box, drawing, place.top)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DOTS, format=kind[1:])


def _box(axes: Axes, box: Box, drawing: Drawing, top: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = MARGIN + box.x, top + box.y
    fill, edge, radius, texts = "#f4f4f4", "#555555", 4.0, [("", 0.0, 9.0)]
    if box.vertex is not None:
        second = box.vertex.detail
        texts = [(box.vertex.label, -LINE / 2 if second else 0.0, 9.0), (second, LINE / 2, 7.5)]
        written = "#222222"
    else:
        assert box.arrow is not None
        fill = PLAIN if box.arrow.identity else colour(box.arrow.operation, drawing.operations)
        edge, radius, written, texts = fill, box.height / 2, ink(fill), [(box.arrow.operation, 0.0, 9.0)]
    corner = x - box.width / 2, y - box.height / 2
    style = f"round,pad=0,rounding_size={radius}"
    axes.add_patch(
        FancyBboxPatch(corner, box.width, box.height, style, facecolor=fill, edgecolor=edge, zorder=2)
    )
    for text, down, size in texts:
        _text(
            axes, (x, y + down), text, color=written, size=size, ha="center", va="center_baseline", zorder=3
        )


def _route(axes: Axes, route: Route, top: float) -> None:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path as Way

    points: list[tuple[float, float]] = []
    codes: list[Any] = []
    for piece in route.pieces():
        points += piece
        codes += [Way.LINETO if codes else Way.MOVETO, Way.CURVE4, Way.CURVE4, Way.CURVE4]
    moved = [(MARGIN + x, top + y) for x, y in points]
    dashes = (0, (5, 4)) if route.arrow.identity else "solid"
    axes.add_patch(
        PathPatch(
            Way(moved, codes), fill=False, edgecolor="#777777", linewidth=1.05, linestyle=dashes, zorder=1
        )
    )
    x, y = moved[-1]
    corners = [(x, y), (x - HEAD, y - HEAD / 2), (x - HEAD, y + HEAD / 2)]
    axes.add_patch(Polygon(corners, closed=True, facecolor="#777777", zorder=2))


def _text(axes: Axes, at: tuple[float, float], text: str, **look: Any) -> None:
    # A dollar sign would begin a formula.
    axes.text(*at, text, **{"family": "monospace", "size": 9.0, "parse_math": False, **look})
