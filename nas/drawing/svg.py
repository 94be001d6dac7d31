"""A drawing as SVG: for light and for dark pages, without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from nas.drawing.graph import Drawing
from nas.drawing.layout import LINE, Box, Route
from nas.drawing.page import MARGIN, Page, arrange
from nas.drawing.palette import PLAIN, colour, ink

FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
HEAD = 7
"""Length of an arrow's head."""

STYLE = f"""
text {{ font: 12px {FONT}; fill: #222; }}
.title {{ font-weight: bold; }} .detail {{ font-size: 10px; fill: #555; }} .operation {{ font-size: 12px; }}
.vertex {{ fill: #f4f4f4; stroke: #555; }} .arrow {{ fill: none; stroke: #777; stroke-width: 1.4; }}
.head {{ fill: #777; }} .identity {{ stroke-dasharray: 5 4; }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6e6e6; }} .detail {{ fill: #aaa; }}
.vertex {{ fill: #2b2b2b; stroke: #aaa; }} .arrow {{ stroke: #999; }} .head {{ fill: #999; }}
}}
""".strip()


def svg(drawing: Drawing) -> str:
    """Return the text of an SVG file; what it shows is also in its `title` and `desc`."""
    page = arrange(drawing)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{page.width:.0f}" '
            f'height="{page.height:.0f}" viewBox="0 0 {page.width:.0f} {page.height:.0f}">',
            f"<title>{escape(drawing.title)}</title>",
            f"<style>{STYLE}</style>",
            *_parts(page, drawing),
            "</svg>\n",
        ]
    )


def _parts(page: Page, drawing: Drawing) -> Iterator[str]:
    for line in page.lines:
        kind = "title" if line.title else "setting"
        yield f'<text class="{kind}" x="{line.x:.1f}" y="{line.y:.1f}">{escape(line.text)}</text>'
    for place in page.places:
        yield f'<g transform="translate({MARGIN} {place.top:.1f})">'
        yield f"<desc>{escape(place.graph.title)}</desc>"
        yield from map(_route, place.layout.routes)
        for box in place.layout.boxes:
            yield from _vertex(box) if box.vertex is not None else _operation(box, drawing)
        yield "</g>"


def _route(route: Route) -> str:
    path = list[str]()
    for piece in route.pieces():
        start, *rest = (f"{x:.1f} {y:.1f}" for x, y in piece)
        path.append(f"{'L' if path else 'M'}{start}C{' '.join(rest)}")
    end = route.boxes[-1]
    x, y = end.x - end.width / 2, end.y
    identity = " identity" if route.arrow.identity else ""
    return (
        f'<path class="arrow{identity}" d="{"".join(path)}"/>'
        f'<path class="head" d="M{x:.1f} {y:.1f}l{-HEAD} {-HEAD / 2}v{HEAD}z"/>'
    )


def _vertex(box: Box) -> Iterator[str]:
    assert box.vertex is not None
    yield _frame(box, 'class="vertex"', 4)
    second = bool(box.vertex.detail)
    yield _text(box, box.vertex.label, -LINE / 2 if second else 0.0, 'class="label"')
    if second:
        yield _text(box, box.vertex.detail, LINE / 2, 'class="detail"')


def _operation(box: Box, drawing: Drawing) -> Iterator[str]:
    assert box.arrow is not None
    fill = PLAIN if box.arrow.identity else colour(box.arrow.operation, drawing.operations)
    yield _frame(box, f'fill="{fill}"', box.height / 2)
    yield _text(box, box.arrow.operation, 0.0, f'class="operation" style="fill: {ink(fill)}"')


def _frame(box: Box, look: str, radius: float) -> str:
    return (
        f'<rect {look} x="{box.x - box.width / 2:.1f}" y="{box.y - box.height / 2:.1f}" '
        f'width="{box.width:.1f}" height="{box.height:.1f}" rx="{radius:.0f}"/>'
    )


def _text(box: Box, text: str, down: float, look: str) -> str:
    return (
        f'<text {look} x="{box.x:.1f}" y="{box.y + down:.1f}" text-anchor="middle" '
        f'dominant-baseline="central">{escape(text)}</text>'
    )
