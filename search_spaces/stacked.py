"""Networks of stacked cells: what a cell computes as a graph, the module that computes it, and the stack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor, nn

from search_spaces.isomorphism import canonical_order, form
from search_spaces.separable import preprocessing

INPUTS = 2
"""Of a cell: the maps of the two cells before it."""

JOINED = "joined"
"""The step that concatenates its sources where others add them up."""

Sum: TypeAlias = tuple[int, ...]
"""The values that add up to a state, with repetitions; none: zero."""


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


def canonical_graph(steps: Sequence[Applied], outputs: Sequence[Sum], operations: Sequence[str]) -> CellGraph:
    """Return a cell's graph with its steps in an order that depends on the graph alone.

    Args:
        steps: sources first.
        outputs: one sum a part of the output; their order does not count.
        operations: all that a step may apply, in an order that never changes.
    """
    inputs = [(value,) for value in range(INPUTS)]
    kinds = [(INPUTS + operations.index(step.operation), step.stride) for step in steps]
    output = (INPUTS + len(operations),)
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
            Applied(operations[label[0] - INPUTS], label[1], sources)
            for label, sources in ordered
            if len(label) == 2
        ),
        tuple(sources for label, sources in ordered if label == output),
    )


@final
class GraphCell(nn.Module):
    """A cell on the maps of the two cells before it: `[B, *, H, W]` twice to `[B, parts · C, H', W']`.

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
            joined = step.operation == JOINED
            maps.append(
                module(torch.cat([maps[i] for i in step.sources], 1) if joined else total(step.sources))
            )
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
        rectified: whether the last map passes a ReLU before its mean is taken.
    """

    def __init__(self, stem: nn.Module, cells: Mapping[int, nn.Module], *, rectified: bool = False) -> None:
        super().__init__()
        self.stem = stem
        self.rectified = rectified
        self.cells = nn.ModuleDict({str(i): cell for i, cell in cells.items()})

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a batch."""
        x = self.stem(x)
        maps = {-2: x, -1: x}
        for position, cell in self.cells.items():
            i = int(position)
            # A map that is missing is not read: any other serves in its place.
            maps[i] = cell(maps.get(i - 2, x), maps.get(i - 1, x))
        last = maps[i].relu() if self.rectified else maps[i]
        features: Tensor = last.mean((2, 3))
        return features


def live_cells(kinds: Sequence[str], graphs: Mapping[str, CellGraph]) -> list[int]:
    """Return the places of the cells that the output depends on.

    Args:
        kinds: of the cells, the first one first.
        graphs: by kind.
    """
    return needed([graphs[kind].reads for kind in kinds])


def network_key(kinds: Sequence[str], graphs: Mapping[str, CellGraph]) -> str:
    """Return the graphs of the kinds of cells that the output depends on.

    Args:
        kinds: of the cells, the first one first.
        graphs: by kind.
    """
    live = {kinds[i] for i in live_cells(kinds, graphs)}
    return "; ".join(f"{kind} {g if kind in live else '-'}" for kind, g in graphs.items())


def needed(reads: Sequence[Iterable[int]]) -> list[int]:
    """Return the positions of the cells that the output of a stack depends on, ascending.

    Args:
        reads: of the cell at each position, those of its inputs that it reads.
    """
    found = {len(reads) - 1}
    for i in reversed(range(len(reads))):
        if i in found:
            found |= {i - INPUTS + state for state in reads[i]}
    return sorted(i for i in found if i >= 0)
