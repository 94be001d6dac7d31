"""Where the parts of a drawing stand: its title, its graphs below each other, and what else was chosen."""

from __future__ import annotations

from dataclasses import dataclass

from nas.drawing.graph import Drawing, Graph
from nas.drawing.layout import CHARACTER, LINE, Layout, lay_out

MARGIN = 16
TITLE = 26
"""Height of a title with the space below it."""
BETWEEN = 22
"""Between two graphs."""


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text, with the left end of its base line."""

    text: str
    x: float
    y: float
    title: bool


@dataclass(frozen=True, slots=True)
class Placed:
    """A graph with its layout, which begins `top` points below the upper edge, at the left margin."""

    graph: Graph
    layout: Layout
    top: float


@dataclass(frozen=True, slots=True)
class Page:
    """A drawing with places, in points."""

    lines: tuple[Text, ...]
    places: tuple[Placed, ...]
    width: float
    height: float


def arrange(drawing: Drawing) -> Page:
    """Return where everything stands."""
    lines, places = [Text(drawing.title, MARGIN, MARGIN + LINE / 2, title=True)], list[Placed]()
    y = float(MARGIN + TITLE)
    for graph in drawing.graphs:
        lines.append(Text(graph.title, MARGIN, y + LINE / 2, title=False))
        places.append(Placed(graph, lay_out(graph), y + TITLE))
        y += TITLE + places[-1].layout.height + BETWEEN
    names = max(map(len, drawing.settings), default=0)
    for name, value in drawing.settings.items():
        lines.append(Text(f"{name:<{names}}  {value}", MARGIN, y + LINE / 2, title=False))
        y += LINE + 4
    width = max([*(CHARACTER * len(line.text) for line in lines), *(p.layout.width for p in places)])
    return Page(tuple(lines), tuple(places), width + 2 * MARGIN, y + MARGIN / 2)
