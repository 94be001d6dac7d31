"""The cell of DARTS: its graph, a canonical form of it, the module that computes it, and a stack of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor, nn

from search_spaces.genotype import INPUTS, NODES, Edges
from search_spaces.isomorphism import canonical_order, form
from search_spaces.separable import OPERATIONS, WEIGHTLESS, preprocessing

Sum: TypeAlias = tuple[int, ...]
"""The values that add up to a state, ascending, with repetitions; none: zero."""


class Applied(NamedTuple):
    """An operation applied to a sum of earlier values."""

    operation: str
    stride: int
    sources: Sum


class Graph(NamedTuple):
    """What a cell computes. Values 0 and 1 are its inputs, value 2 + i is that of step i.

    Attributes:
        steps: in an order that puts sources first.
        outputs: one sum a node; the cell returns their concatenation.
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


@lru_cache(4096)
def graph(edges: Edges, *, reduction: bool) -> Graph:
    """Return the graph of a cell in canonical form: cells with equal graphs are one network.

    What computes nothing is no step: `none`, whatever sees only zeros, and the identity, whose source is
    added where the identity was. Pooling the same twice is one step. Cells are given one graph if, after
    these rewrites, their steps and outputs are equal up to order: the order of the outputs is that of the
    channels which the next layers mix by weights of their own.

    Some equal cells have two graphs. Pooling is not taken apart: the average of a sum and the sum of the
    averages, the maximum of a map added to itself and twice its maximum. Nor are factors: what ends in batch
    norm computes the same of a map and of the map added to itself.
    """
    states: list[Sum] = [(value,) for value in range(INPUTS)]
    steps: list[Applied] = []
    for node in range(NODES):
        total: list[int] = []
        for operation, state in edges[2 * node : 2 * node + 2]:
            stride = 2 if reduction and state < INPUTS else 1
            sources = states[state]
            if operation == "none" or not sources:
                continue
            if operation == "skip_connect" and stride == 1:
                total += sources
                continue
            step = Applied(operation, stride, sources)
            if operation not in WEIGHTLESS or step not in steps:
                steps.append(step)
                total.append(INPUTS + len(steps) - 1)
            else:
                total.append(INPUTS + steps.index(step))
        states.append(tuple(sorted(total)))
    return _canonical(steps, states[INPUTS:])


def _canonical(steps: Sequence[Applied], outputs: Sequence[Sum]) -> Graph:
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
    return Graph(
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
        self, graph: Graph, preprocessing: Iterable[nn.Module], operations: Iterable[nn.Module]
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
