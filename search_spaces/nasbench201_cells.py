"""The cell of NAS-Bench-201: which cells are isomorphic, and the module that computes one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from typing import final

from torch import Tensor, nn

from search_spaces import cells
from search_spaces.cells import Edge, or_zero
from search_spaces.operations import AveragePool, relu_conv_bn

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES = 4
"""Node 0 is the cell's input, the last its output."""

PAIRS = cells.pairs(NODES)
"""Each edge's source and node, in the order of the published strings."""

_LETTERS = {"nor_conv_1x1": "c1", "nor_conv_3x3": "c3", "avg_pool_3x3": "a"}


def edges_of(operations: Sequence[str]) -> list[Edge]:
    """Return a cell's edges, sorted by node, without the `none` ones."""
    return cells.edges_of(PAIRS, [(operation,) for operation in operations])


def prune(edges: Sequence[Edge]) -> list[Edge]:
    """Drop the edges that no path from the input to the output takes."""
    return cells.prune(edges, inputs=[0], outputs=[NODES - 1])


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


@cache
def paths(operations: tuple[str, ...]) -> tuple[int, ...]:
    """Return how often each of `WAYS` leads from a cell's input to its output; one with a `none` does not.

    Isomorphic cells have equal counts.
    """
    found = [
        " ".join(_LETTERS[edge.operation] for edge in route if edge.operation in _LETTERS)
        for route in cells.routes(operations, NODES)
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
    return _representative(expression(operations))


@cache
def _representative(cell: str) -> list[Edge]:
    pruned = (prune(edges_of(operations)) for operations in _groups()[cell])
    return max(pruned, key=lambda edges: (sum("conv" in e.operation for e in edges), -len(edges)))


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
            y, total = module(or_zero(nodes[edge.source], x)), nodes[edge.node]
            nodes[edge.node] = y if total is None else total + y
        return or_zero(nodes[-1], x)
