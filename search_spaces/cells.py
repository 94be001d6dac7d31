"""A cell as a graph: its values are inputs, then nodes; edges carry operations from one to a later one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cache
from itertools import chain, combinations, pairwise
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from nas.drawing.graph import Arrow, Graph, Vertex

ABSENT = "none"
"""The operation of an edge that is not there."""

SKIP = "skip_connect"
"""The operation that passes on what it is given."""

Pair: TypeAlias = tuple[int, int]
"""Where an edge begins and ends."""


class Edge(NamedTuple):
    """An operation on the way from one value to a later one."""

    source: int
    node: int
    operation: str

    @property
    def pair(self) -> Pair:
        """Where it begins and ends."""
        return self.source, self.node


class Carried(Protocol):
    """What carries an operation from a value to a later one: an `Edge`, or one of several between two."""

    @property
    def source(self) -> int:
        """Where it begins."""

    @property
    def node(self) -> int:
        """Where it ends."""

    @property
    def operation(self) -> str:
        """What it carries."""

    @property
    def pair(self) -> tuple[int, ...]:
        """What tells it from others, whatever it carries."""


AnyEdge = TypeVar("AnyEdge", bound=Carried)


@cache
def pairs(values: int, inputs: int = 1) -> tuple[Pair, ...]:
    """Return every possible edge of a cell, by node, then source.

    Args:
        values: inputs and nodes.
        inputs: how many of them are inputs.
    """
    return tuple((source, node) for node in range(inputs, values) for source in range(node))


def edges_of(every: Iterable[Pair], operations: Iterable[Sequence[str]]) -> list[Edge]:
    """Return a cell's edges in the order of the pairs, without absent ones: they add nothing.

    Args:
        every: the pairs.
        operations: for each of them, those that it carries; a mixed edge carries several.
    """
    carried = zip(every, operations, strict=True)
    return [Edge(*pair, name) for pair, own in carried for name in own if name != ABSENT]


def drawn(title: str, values: Sequence[str], edges: Iterable[Edge]) -> Graph:
    """Return a cell as a graph to draw.

    Args:
        title: above it.
        values: what its inputs and nodes are called.
        edges: those that are there.
    """
    arrows = (Arrow(*edge, identity=edge.operation == SKIP) for edge in edges)
    return Graph(title, tuple(map(Vertex, values)), tuple(arrows))


def prune(edges: Sequence[AnyEdge], inputs: Collection[int], outputs: Collection[int]) -> list[AnyEdge]:
    """Drop the edges that no path reaches from an input, and those that no path leads from to an output.

    The former carry zero; built all the same, their batch norms would add their biases.

    Args:
        edges: sorted by node.
        inputs: numbers of values.
        outputs: numbers of values.
    """
    reached, fed = set(inputs), list[AnyEdge]()
    for edge in edges:
        if edge.source in reached:
            reached.add(edge.node)
            fed.append(edge)
    used, kept = set(outputs), list[AnyEdge]()
    for edge in reversed(fed):
        if edge.node in used:
            used.add(edge.source)
            kept.append(edge)
    return kept[::-1]


def routes(operations: Sequence[str], values: int) -> list[tuple[Edge, ...]]:
    """Return the ways from a cell's input to its last node that meet no absent edge, the shorter first.

    Args:
        operations: one for each of `pairs(values)`.
        values: the input and the nodes.
    """
    chosen = dict(zip(pairs(values), operations, strict=True))
    present = (way for way in _ways(values) if all(chosen[pair] != ABSENT for pair in way))
    return [tuple(Edge(*pair, chosen[pair]) for pair in way) for way in present]


@cache
def _ways(values: int) -> tuple[tuple[Pair, ...], ...]:
    between = range(1, values - 1)
    chosen = chain.from_iterable(combinations(between, count) for count in range(values - 1))
    return tuple(tuple(pairwise((0, *inner, values - 1))) for inner in chosen)


def or_zero(value: Tensor | None, like: Tensor) -> Tensor:
    """Return a value of a cell, zeros where nothing reaches it."""
    return torch.zeros_like(like) if value is None else value
