"""The cell of DARTS: its graph, a canonical form of it, the module that computes it, and a stack of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor, nn

from search_spaces.cells import ABSENT, Edge
from search_spaces.genotype import INPUTS, NODES, Edges
from search_spaces.isomorphism import canonical_order, form
from search_spaces.separable import OPERATIONS, WEIGHTLESS, preprocessing

Sum: TypeAlias = tuple[int, ...]
"""The values that add up to a state, with repetitions; none: zero."""

VALUES = INPUTS + NODES
"""Two inputs, then the nodes."""


class Applied(NamedTuple):
    """An operation applied to a sum of earlier values."""

    operation: str
    stride: int
    sources: Sum


class CellGraph(NamedTuple):
    """What a cell computes. Values 0 and 1 are its inputs, value 2 + i is that of step i.

    Attributes:
        steps: in an order that puts sources first.
        outputs: one sum a node, ascending; the cell returns their concatenation.
    """

    steps: tuple[Applied, ...]
    outputs: tuple[Sum, ...]

    @property
    def reads(self) -> frozenset[int]:
        """Those of the two inputs that anything depends on."""
        used = (*self.outputs, *(step.sources for step in self.steps))
        return frozenset(value for sources in used for value in sources if value < INPUTS)

    def __str__(self) -> str:
        steps = (f"{step.operation}({_text(step.sources)})" for step in self.steps)
        return f"{' '.join(steps)} > {', '.join(map(_text, self.outputs))}"


def _text(sources: Sum) -> str:
    return "+".join(map(str, sources)) or "#"


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
    return _canonical(steps, outputs)


def _canonical(steps: Sequence[Applied], outputs: Sequence[Sum]) -> CellGraph:
    """Renumber the steps in an order that depends on the graph alone."""
    inputs = [(value,) for value in range(INPUTS)]
    kinds = [(INPUTS + OPERATIONS.index(step.operation), step.stride) for step in steps]
    output = (INPUTS + len(OPERATIONS),)
    labels = [*inputs, *kinds, *[output] * len(outputs)]
    parents: list[Sum] = [*[()] * INPUTS, *(step.sources for step in steps), *outputs]
    order = canonical_order(labels, parents)
    numbers = {
        place: number for number, place in enumerate(p for p, v in enumerate(order) if labels[v] != output)
    }
    ordered = [
        (label, tuple(numbers[place] for place in sources)) for label, sources in form(order, labels, parents)
    ]
    return CellGraph(
        tuple(
            Applied(OPERATIONS[label[0] - INPUTS], label[1], sources)
            for label, sources in ordered
            if len(label) == 2
        ),
        tuple(sources for label, sources in ordered if label == output),
    )


@final
class DartsCell(nn.Module):
    """A cell on the maps of the two cells before it: `[B, *, H, W]` twice to `[B, 4C, H', W']`.

    Args:
        graph: what to compute.
        preprocessing: one module an input, to C channels and one size; of no effect where it is not read.
        operations: one module a step.
    """

    def __init__(
        self, graph: CellGraph, preprocessing: Iterable[nn.Module], operations: Iterable[nn.Module]
    ) -> None:
        super().__init__()
        self.graph = graph
        self.preprocessing = nn.ModuleList(preprocessing)
        self.operations = nn.ModuleList(operations)

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        """Return the concatenated nodes."""
        maps = [prepare(x) for prepare, x in zip(self.preprocessing, (before, last), strict=True)]
        sums: dict[Sum, Tensor] = {}

        def total(sources: Sum) -> Tensor:
            if sources not in sums:
                y = maps[sources[0]]
                for source in sources[1:]:
                    y = y + maps[source]
                sums[sources] = y
            return sums[sources]

        for step, module in zip(self.graph.steps, self.operations, strict=True):
            maps.append(module(total(step.sources)))
        nodes = [total(sources) if sources else None for sources in self.graph.outputs]
        like = next(node for node in nodes if node is not None)
        return torch.cat([torch.zeros_like(like) if node is None else node for node in nodes], 1)


class Place(NamedTuple):
    """A cell's place in the network.

    Attributes:
        kind: `normal` or `reduce`.
        channels: C, of each of its nodes.
        inputs: channels of the maps of the two cells before it.
        halve: whether the first of them has twice the size, since the cell in between reduced.
    """

    kind: str
    channels: int
    inputs: tuple[int, int]
    halve: bool

    @property
    def reduction(self) -> bool:
        """Whether the cell reduces."""
        return self.kind == "reduce"

    def preprocessing(self, state: int) -> nn.Module:
        """Return what fits an input to this cell."""
        return preprocessing(self.inputs[state], self.channels, halve=self.halve and state == 0)


@final
class Stack(nn.Module):
    """A stem and cells, each fed by the two before it: `[B, in, H, W]` to `[B, out]`, averaged over the map.

    Args:
        stem: stands for the two cells before the first.
        cells: by position; what a missing one would compute is not used.
    """

    def __init__(self, stem: nn.Module, cells: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.cells = nn.ModuleDict({str(i): cell for i, cell in cells.items()})

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a batch."""
        x = self.stem(x)
        maps = {-2: x, -1: x}
        for position, cell in self.cells.items():
            i = int(position)
            # A map that is missing is not read: any other serves in its place.
            maps[i] = cell(maps.get(i - 2, x), maps.get(i - 1, x))
        features: Tensor = maps[i].mean((2, 3))
        return features
