"""The cell of NAS-Bench-201: a graph of four nodes whose edges carry operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain, combinations, pairwise, product
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from search_spaces.operations import AveragePool, relu_conv_bn

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES = 4
"""Node 0 is the cell's input, the last its output."""

PAIRS = tuple((source, node) for node in range(1, NODES) for source in range(node))
"""Each edge's source and node, in the order of the published strings."""

_LETTERS = {"nor_conv_1x1": "c1", "nor_conv_3x3": "c3", "avg_pool_3x3": "a"}


class Edge(NamedTuple):
    """An operation on the way from one node to a later one."""

    source: int
    node: int
    operation: str


def edges_of(operations: Sequence[str]) -> list[Edge]:
    """Return a cell's edges, sorted by node, without the `none` ones: they add nothing."""
    pairs = zip(PAIRS, operations, strict=True)
    return [Edge(*pair, operation) for pair, operation in pairs if operation != "none"]


def prune(edges: Sequence[Edge]) -> list[Edge]:
    """Drop the edges that no path reaches from the input, and those that no path leads from to the output.

    The paper counts the former as zero; built all the same, their batch norms would add their biases.
    """
    reached, fed = {0}, list[Edge]()
    for edge in edges:
        if edge.source in reached:
            reached.add(edge.node)
            fed.append(edge)
    used, kept = {NODES - 1}, list[Edge]()
    for edge in reversed(fed):
        if edge.node in used:
            used.add(edge.source)
            kept.append(edge)
    return kept[::-1]


def expression(operations: Iterable[str]) -> str:
    """Return a cell's output as an expression in its input `0`, such as `(0)c3+0`.

    Skip connections vanish, `#` is zero and summands are sorted. Equal expressions are what the paper calls
    isomorphic cells: they fall into 6,466 groups (§2.1, appendix).
    """
    nodes, rest = ["0"], iter(operations)
    while len(nodes) < NODES:
        nodes.append("+".join(sorted(_term(next(rest), source) for source in nodes)))
    return nodes[-1]


def _term(operation: str, source: str) -> str:
    if operation == "none" or source == "#":
        return "#"
    return source if operation == "skip_connect" else f"({source}){_LETTERS[operation]}"


WAYS = tuple(" ".join(way) for n in range(NODES) for way in product(_LETTERS.values(), repeat=n))
"""What the operations along a way from a cell's input to its output can be, without skip connections."""

_ROUTES = tuple(
    tuple(PAIRS.index(pair) for pair in pairwise((0, *inner, NODES - 1)))
    for inner in chain.from_iterable(combinations(range(1, NODES - 1), n) for n in range(NODES - 1))
)
"""By the places of its edges, each way through a cell."""


@cache
def paths(operations: tuple[str, ...]) -> tuple[int, ...]:
    """Return how often each of `WAYS` leads from a cell's input to its output; one with a `none` does not.

    Isomorphic cells have equal counts.
    """
    along = ([operations[place] for place in route] for route in _ROUTES)
    found = [
        " ".join(_LETTERS[operation] for operation in way if operation in _LETTERS)
        for way in along
        if "none" not in way
    ]
    return tuple(map(found.count, WAYS))


@cache
def _groups() -> dict[str, list[tuple[str, ...]]]:
    groups: dict[str, list[tuple[str, ...]]] = {}
    for operations in product(OPERATIONS, repeat=len(PAIRS)):
        groups.setdefault(expression(operations), []).append(operations)
    return groups


def representative(operations: Sequence[str]) -> list[Edge]:
    """Return the pruned cell that stands for all with the same expression.

    An expression does not tell one convolution used twice from two that see the same input. The cell with the
    most convolutions stands for both; of those the one with the fewest edges, then the first.
    """
    cells = (prune(edges_of(cell)) for cell in _groups()[expression(operations)])
    return max(cells, key=lambda edges: (sum("conv" in e.operation for e in edges), -len(edges)))


def operation(name: str, channels: int) -> nn.Module:
    """Return a fresh operation that keeps the shape `[B, channels, H, W]`."""
    match name:
        case "skip_connect":
            return nn.Identity()
        case "nor_conv_1x1":
            return relu_conv_bn(channels, channels, 1)
        case "nor_conv_3x3":
            return relu_conv_bn(channels, channels, 3)
        case "avg_pool_3x3":
            return AveragePool(3)
        case _:
            raise ValueError(f"No module for operation '{name}'.")


@final
class Cell(nn.Module):
    """Nodes that sum what their incoming edges bring: `[B, C, H, W]` to the same shape.

    Args:
        edges: sorted by node.
        operations: one module an edge.
    """

    def __init__(self, edges: Sequence[Edge], operations: Iterable[nn.Module]) -> None:
        super().__init__()
        self.edges = tuple(edges)
        self.operations = nn.ModuleList(operations)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output node."""
        nodes: list[Tensor | None] = [x] + [None] * (NODES - 1)
        for edge, module in zip(self.edges, self.operations, strict=True):
            y, total = module(_or_zero(nodes[edge.source], x)), nodes[edge.node]
            nodes[edge.node] = y if total is None else total + y
        return _or_zero(nodes[-1], x)


def _or_zero(node: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if node is None else node
