"""The cell of DARTS: what it computes, and a canonical form of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from search_spaces.cells import ABSENT, Edge
from search_spaces.genotype import NODES, Edges
from search_spaces.separable import OPERATIONS, WEIGHTLESS
from search_spaces.stacked import INPUTS, Applied, CellGraph, Sum, canonical_graph

VALUES = INPUTS + NODES
"""Two inputs, then the nodes."""


def edges_of(edges: Edges) -> list[Edge]:
    """Return a cell's edges, sorted by node; a `none` is one of them."""
    return [Edge(state, INPUTS + place // 2, name) for place, (name, state) in enumerate(edges)]


def stride(source: int, *, reduction: bool) -> int:
    """Return the stride of the operations on a value: a reduction cell halves its inputs."""
    return 2 if reduction and source < INPUTS else 1


def steps_of(
    edges: Sequence[Edge], *, reduction: bool, keep: Callable[[list[int]], Sum] = tuple
) -> tuple[list[Applied], list[Sum], list[Edge]]:
    """Return what edges compute: steps, the sum of each node, and the edge of each step.

    What computes nothing is no step: `none`, whatever sees only zeros, and the identity, whose source is
    added where the identity was. Pooling the same twice is one step.

    Args:
        edges: of a cell.
        reduction: whether it is a reduction cell.
        keep: makes a sum of its values, which come in the order of the edges.
    """
    sums: list[Sum] = [(value,) for value in range(INPUTS)]
    steps, of = list[Applied](), list[Edge]()
    for node in range(INPUTS, VALUES):
        total: list[int] = []
        for edge in (edge for edge in edges if edge.node == node):
            sources, own = sums[edge.source], stride(edge.source, reduction=reduction)
            if edge.operation == ABSENT or not sources:
                continue
            if edge.operation == "skip_connect" and own == 1:
                total += sources
                continue
            step = Applied(edge.operation, own, sources)
            if edge.operation not in WEIGHTLESS or step not in steps:
                steps.append(step)
                of.append(edge)
                total.append(INPUTS + len(steps) - 1)
            else:
                total.append(INPUTS + steps.index(step))
        sums.append(keep(total))
    return steps, sums[INPUTS:], of


@lru_cache(4096)
def graph(edges: Edges, *, reduction: bool) -> CellGraph:
    """Return the graph of a cell in canonical form: cells with equal graphs are one network.

    Cells are given one graph if their steps (see `steps_of`) and outputs are equal up to order: the order of
    the outputs is that of the channels which the next layers mix by weights of their own.

    Some equal cells have two graphs. Pooling is not taken apart: the average of a sum and the sum of the
    averages, the maximum of a map added to itself and twice its maximum. Nor are factors: what ends in batch
    norm computes the same of a map and of the map added to itself.
    """
    steps, outputs, _ = steps_of(
        edges_of(edges), reduction=reduction, keep=lambda total: tuple(sorted(total))
    )
    return canonical_graph(steps, outputs, OPERATIONS)
