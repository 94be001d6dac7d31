"""The cell of NAS-Bench-101: a graph of operations, which graphs are isomorphic, and the module of one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from nas.counting import count_once
from search_spaces.isomorphism import canonical_order, form
from search_spaces.operations import conv_bn_relu

OPERATIONS = ("conv3x3", "conv1x1", "maxpool3x3")
VERTICES, EDGES = 7, 9
"""The most that a cell has, its input and its output among the vertices."""


class Graph101(NamedTuple):
    """A cell: vertex 0 is its input, the last its output.

    Attributes:
        operations: of the vertices between.
        sources: of each vertex, ascending; the input has none.
    """

    operations: tuple[str, ...]
    sources: tuple[tuple[int, ...], ...]

    @property
    def edges(self) -> int:
        """How many edges it has."""
        return sum(map(len, self.sources))

    def __str__(self) -> str:
        names = (*self.operations, "output")
        return " ".join(f"{n}@{'+'.join(map(str, s))}" for n, s in zip(names, self.sources[1:], strict=True))


_VERTEX = re.compile(r"(\w+)@((?:\d(?:\+\d)*)?)", re.ASCII)


def parsed(text: str) -> Graph101 | None:
    """Read a printed graph, or one as the published table has it; None: it is neither.

    The table's form is the adjacency matrix, row after row, and the operations: `0110010100100001 conv3x3
    maxpool3x3`.
    """
    first, *rest = text.split(" ")
    if re.fullmatch("[01]+", first, re.ASCII):
        size = len(rest) + 2
        if len(first) != size**2 or any(
            first[row * size + column] == "1" for row in range(size) for column in range(row + 1)
        ):
            return None
        sources = (tuple(r for r in range(size) if first[r * size + c] == "1") for c in range(size))
        return Graph101(tuple(rest), tuple(sources))
    matches = [_VERTEX.fullmatch(part) for part in text.split(" ")]
    if None in matches:
        return None
    found = [(m[1], tuple(map(int, m[2].split("+"))) if m[2] else ()) for m in matches if m]
    if found[-1][0] != "output":
        return None
    return Graph101(tuple(name for name, _ in found[:-1]), ((), *(sources for _, sources in found)))


def pruned(graph: Graph101) -> Graph101 | None:
    """Return a cell without vertices that are on no path from input to output; None: there is no path."""
    size = len(graph.sources)
    fed, used = {0}, {size - 1}
    for vertex in range(1, size):
        if fed.intersection(graph.sources[vertex]):
            fed.add(vertex)
    for vertex in reversed(range(size)):
        if vertex in used:
            used.update(graph.sources[vertex])
    kept = sorted(fed & used)
    if size - 1 not in fed:
        return None
    place = {vertex: i for i, vertex in enumerate(kept)}
    return Graph101(
        tuple(graph.operations[vertex - 1] for vertex in kept[1:-1]),
        tuple(tuple(place[s] for s in graph.sources[vertex] if s in place) for vertex in kept),
    )


@lru_cache(8192)
def canonical(graph: Graph101) -> Graph101 | None:
    """Return the pruned cell with its vertices in an order that depends on the graph alone.

    Equal results if and only if isomorphic, operations included. None: no path leads to the output.
    """
    found = pruned(graph)
    if found is None:
        return None
    labels = [(0,), *((1 + OPERATIONS.index(name),) for name in found.operations), (1 + len(OPERATIONS),)]
    order = canonical_order(labels, found.sources)
    rows = form(order, labels, found.sources)
    return Graph101(
        tuple(OPERATIONS[label[0] - 1] for label, _ in rows[1:-1]), tuple(sources for _, sources in rows)
    )


def vertex_channels(graph: Graph101, channels: int) -> list[int]:
    """Return the channels of each vertex of a pruned cell but its input's, by the rule of the paper's code.

    Those of the output are shared out to the vertices that feed it, a remainder to the first; any other
    vertex has the most of those that it feeds.
    """
    last = len(graph.sources) - 1
    found = [0] * last + [channels]
    feeding = [source for source in graph.sources[last] if source]
    for number, vertex in enumerate(feeding):
        found[vertex] = channels // len(feeding) + (number < channels % len(feeding))
    for vertex in reversed(range(1, last)):
        if vertex not in feeding:
            found[vertex] = max(found[v] for v in range(vertex + 1, last) if vertex in graph.sources[v])
    return found


def operation(name: str, channels: int) -> nn.Module:
    """Return a fresh operation that keeps the shape `[B, channels, H, W]`."""
    if name == "maxpool3x3":
        return nn.MaxPool2d(3, 1, padding=1)
    kernel = int(name[-1])
    return conv_bn_relu(channels, channels, (kernel, kernel), 1)


@final
class Cell101(nn.Module):
    """A cell: `[B, in_channels, H, W]` to `[B, channels, H, W]`.

    What leaves the input passes a 1×1 convolution, batch norm and ReLU. A vertex applies its operation to the
    sum of what comes in, cut to its channels. The output concatenates, and adds what comes from the input.

    Args:
        graph: pruned.
        in_channels: of the input.
        channels: of the output.
    """

    def __init__(self, graph: Graph101, in_channels: int, channels: int) -> None:
        super().__init__()
        self.graph = graph
        self.widths = vertex_channels(graph, channels)
        vertices = range(1, len(graph.sources))
        self.projections = nn.ModuleDict(
            {
                str(v): count_once(conv_bn_relu, in_channels, self.widths[v], (1, 1), 1)
                for v in vertices
                if 0 in graph.sources[v]
            }
        )
        self.operations = nn.ModuleList(
            count_once(operation, name, self.widths[v])
            for v, name in zip(vertices, graph.operations, strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output."""
        maps = [x]
        last = len(self.graph.sources) - 1
        for vertex in range(1, last):
            terms = [maps[s][:, : self.widths[vertex]] for s in self.graph.sources[vertex] if s]
            maps.append(self.operations[vertex - 1](self._sum(terms, vertex, x)))
        joined = [maps[source] for source in self.graph.sources[last] if source]
        return self._sum([torch.cat(joined, 1)] if joined else [], last, x)

    def _sum(self, terms: Sequence[Tensor], vertex: int, x: Tensor) -> Tensor:
        if str(vertex) in self.projections:
            terms = [*terms, self.projections[str(vertex)](x)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total
