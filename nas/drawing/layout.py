"""A layered layout: values from left to right by their longest way, an operation's name on each arrow.

The name of an operation takes a place of its own in the layer before the arrow's target, so that no two names
cover each other; a long arrow passes every layer on its way at a free place (Sugiyama, Tagawa & Toda 1981).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise
from typing import TypeAlias

from nas.drawing.graph import Arrow, Graph, Vertex

CHARACTER = 7.4
"""Width of a character, in points, at the size of labels."""
SMALL = 6.2
"""The same at the size of details."""
LINE = 16
"""Height of a line of text."""
PADDING = 9
"""Between a text and the border of its box, left and right."""
GAP = 22
"""Between two layers."""
ROOM = 12
"""Between two things of one layer."""
PASSAGE = 4
"""Height of an arrow that passes a layer."""
SWEEPS = 40

Point: TypeAlias = tuple[float, float]


@dataclass(slots=True, eq=False)
class Box:
    """A thing in a layer: a vertex, an operation's name, or where an arrow passes.

    Attributes:
        layer: from the left; vertices have even ones.
        width, height: in points.
        vertex: if it is one.
        arrow: if it is an operation's name, or where an arrow passes.
        x, y: of its centre.
    """

    layer: int
    width: float
    height: float
    vertex: Vertex | None = None
    arrow: Arrow | None = None
    x: float = 0.0
    y: float = 0.0

    @property
    def named(self) -> bool:
        """Whether it is an operation's name."""
        return self.arrow is not None and self.height > PASSAGE


@dataclass(frozen=True, slots=True)
class Route:
    """An arrow: its way from box to box, both of its ends included."""

    arrow: Arrow
    boxes: tuple[Box, ...]

    def pieces(self) -> Iterator[tuple[Point, Point, Point, Point]]:
        """Yield each cubic Bézier curve; within a box that the arrow passes it is straight."""
        for a, b in pairwise(self.boxes):
            start, end = a.x + a.width / 2, b.x - b.width / 2
            middle = (start + end) / 2
            yield (start, a.y), (middle, a.y), (middle, b.y), (end, b.y)


@dataclass(frozen=True, slots=True)
class Layout:
    """A graph with places, in points from the upper left corner.

    Attributes:
        boxes: vertices and names of operations.
        routes: one an arrow.
        width, height: of the whole.
    """

    boxes: tuple[Box, ...]
    routes: tuple[Route, ...]
    width: float
    height: float


def lay_out(graph: Graph) -> Layout:
    """Return the places of a graph's parts: the same for the same graph, anywhere."""
    vertices = _vertices(graph)
    routes = [Route(arrow, _way(arrow, vertices)) for arrow in graph.arrows]
    between = [box for route in routes for box in route.boxes[1:-1]]
    layers: list[list[Box]] = [[] for _ in range(1 + max((box.layer for box in vertices), default=0))]
    for box in [*vertices, *between]:
        layers[box.layer].append(box)
    links = [pair for route in routes for pair in pairwise(route.boxes)]
    layers = _ordered(layers, links)
    _place_down(layers, links)
    _place_across(layers)
    boxes = [box for layer in layers for box in layer]
    top = min((box.y - box.height / 2 for box in boxes), default=0.0)
    for box in boxes:
        box.y -= top
    return Layout(
        tuple(box for box in boxes if box.vertex is not None or box.named),
        tuple(routes),
        max((box.x + box.width / 2 for box in boxes), default=0.0),
        max((box.y + box.height / 2 for box in boxes), default=0.0),
    )


def _vertices(graph: Graph) -> list[Box]:
    """Return a box for each vertex, in the layer of the longest way that leads to it."""
    layers = [0] * len(graph.vertices)
    for arrow in sorted(graph.arrows, key=lambda arrow: arrow.target):
        layers[arrow.target] = max(layers[arrow.target], layers[arrow.source] + 2)
    return [
        Box(
            layer,
            2 * PADDING + max(CHARACTER * len(vertex.label), SMALL * len(vertex.detail)),
            LINE * (2 if vertex.detail else 1) + 8,
            vertex,
        )
        for layer, vertex in zip(layers, graph.vertices, strict=True)
    ]


def _way(arrow: Arrow, vertices: Sequence[Box]) -> tuple[Box, ...]:
    """Return the boxes of an arrow: its ends, and one in each layer between."""
    source, target = vertices[arrow.source], vertices[arrow.target]
    passed = [Box(layer, 0, PASSAGE, arrow=arrow) for layer in range(source.layer + 1, target.layer)]
    if arrow.operation:
        passed[-1].width = 2 * PADDING + CHARACTER * len(arrow.operation)
        passed[-1].height = LINE + 6
    return (source, *passed, target)


def _ordered(layers: list[list[Box]], links: Sequence[tuple[Box, Box]]) -> list[list[Box]]:
    """Return the layers in the order with the fewest crossings that sweeps by barycentres meet."""
    best, fewest = [*map(list, layers)], _crossings(layers, links)
    for sweep in range(SWEEPS):
        forwards = sweep % 2 == 0
        for layer in layers if forwards else reversed(layers):
            rank = {id(box): place for each in layers for place, box in enumerate(each)}
            near: dict[int, list[int]] = {}
            for a, b in links:
                box, other = (b, a) if forwards else (a, b)
                near.setdefault(id(box), []).append(rank[id(other)])
            layer.sort(
                key=lambda box, near=near, rank=rank: _mean(near.get(id(box), [rank[id(box)]]))  # type: ignore[misc]
            )
        crossings = _crossings(layers, links)
        if crossings < fewest:
            best, fewest = [*map(list, layers)], crossings
    return best


def _crossings(layers: Sequence[Sequence[Box]], links: Sequence[tuple[Box, Box]]) -> int:
    rank = {id(box): place for layer in layers for place, box in enumerate(layer)}
    found = [(a.layer, rank[id(a)], rank[id(b)]) for a, b in links]
    return sum(
        one[0] == other[0] and (one[1] - other[1]) * (one[2] - other[2]) < 0
        for one, other in combinations(found, 2)
    )


def _place_down(layers: Sequence[Sequence[Box]], links: Sequence[tuple[Box, Box]]) -> None:
    """Move each box towards the mean of those that it is linked to, no nearer to the next than there is room.

    A long arrow is to be straight, so a link between two passages counts more.
    """
    for layer in layers:
        for box, y in zip(layer, _apart(layer, [0.0] * len(layer)), strict=True):
            box.y = y
    near: dict[int, list[tuple[Box, int]]] = {}
    for a, b in links:
        weight = 1 + 7 * (a.vertex is None and b.vertex is None)
        near.setdefault(id(a), []).append((b, weight))
        near.setdefault(id(b), []).append((a, weight))
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = [
                _mean([other.y for other, weight in near.get(id(box), [(box, 1)]) for _ in range(weight)])
                for box in layer
            ]
            for box, y in zip(layer, _apart(layer, wanted), strict=True):
                box.y = y


def _apart(layer: Sequence[Box], wanted: Sequence[float]) -> list[float]:
    """Return the places nearest to those wanted, by squares, at which no two boxes are too near.

    Without the room that is needed above each, places must only not fall: pool adjacent violators.
    """
    offsets = [0.0, *accumulate((_need(a) + _need(b)) / 2 for a, b in pairwise(layer))]
    blocks: list[tuple[float, int]] = []
    for place, offset in zip(wanted, offsets, strict=False):
        blocks.append((place - offset, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (b, n), (a, m) = blocks.pop(), blocks.pop()
            blocks.append(((a * m + b * n) / (m + n), m + n))
    places = [place for place, count in blocks for _ in range(count)]
    return [place + offset for place, offset in zip(places, offsets, strict=False)]


def _need(box: Box) -> float:
    return box.height + ROOM


def _place_across(layers: Iterable[Sequence[Box]]) -> None:
    left = 0.0
    for layer in layers:
        width = max((box.width for box in layer), default=0.0)
        for box in layer:
            box.x = left + width / 2
            if box.vertex is None and not box.named:
                box.width = width
        left += width + GAP


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
