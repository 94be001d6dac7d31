"""What is drawn of an architecture: graphs of values, with operations on the arrows between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Vertex:
    """A value of a network, such as a node of a cell, or a whole part of it, such as a layer.

    Attributes:
        label: what it is, in a word or two.
        detail: a second, smaller line, such as its channels.
    """

    label: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Arrow:
    """What leads from one vertex to a later one.

    Attributes:
        source: index of a vertex.
        target: index of a later one.
        operation: that it carries; empty: the value is passed on as a part of the target.
        identity: whether the operation changes nothing, as a skip connection.
    """

    source: int
    target: int
    operation: str = ""
    identity: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph without circles, such as a cell.

    Attributes:
        title: what it is of the network.
        vertices: each after those that it depends on.
        arrows: what is not there, such as a `none` of a cell, has none.
    """

    title: str
    vertices: tuple[Vertex, ...]
    arrows: tuple[Arrow, ...]


def chained(title: str, vertices: Iterable[Vertex]) -> Graph:
    """Return a graph whose vertices follow one another."""
    row = tuple(vertices)
    return Graph(title, row, tuple(Arrow(place, place + 1) for place in range(len(row) - 1)))


@dataclass(frozen=True, slots=True)
class Drawing:
    """All that is drawn of a candidate.

    Attributes:
        title: a line above it.
        graphs: from top to bottom.
        operations: all that the space has, in the order of their colours.
        settings: what was chosen besides the network, by name.
    """

    title: str
    graphs: tuple[Graph, ...]
    operations: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
