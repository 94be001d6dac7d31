"""DARTS (Liu, Simonyan & Yang, ICLR 2019): a normal and a reduction cell, four nodes of two inputs each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, groupby
from typing import Annotated, ClassVar, final

from pydantic import Field
from torch import nn

from nas.backbone import BackboneSpace
from nas.counting import count_once
from nas.drawing.graph import Arrow, Graph, Vertex, chained
from nas.errors import Infeasible
from nas.space import Architecture, Decision, TaskShape
from nas.supernet import Supernet
from search_spaces.cells import ABSENT, drawn
from search_spaces.darts_cells import edges_of, graph
from search_spaces.darts_supernet import DartsSupernet
from search_spaces.genotype import EXAMPLE, NODES, Edges, Genotype, parsed, printed
from search_spaces.operations import Backbone, image_channels, on_edge
from search_spaces.separable import OPERATIONS, operation
from search_spaces.stacked import INPUTS, CellGraph, GraphCell, Place, Stack, live_cells, network_key

STEM = 3
"""Channels of the stem, in multiples of C: those of the paper's networks for CIFAR-10."""

_S3, _S5, _D3 = "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3"
_MAX, _AVG, _SKIP = "max_pool_3x3", "avg_pool_3x3", "skip_connect"

DARTS_V1 = Genotype(
    ((_S3, 0), (_S3, 1), (_SKIP, 0), (_S3, 1), (_SKIP, 0), (_S3, 1), (_S3, 0), (_SKIP, 2)),
    ((_MAX, 0), (_MAX, 1), (_MAX, 0), (_SKIP, 2), (_MAX, 0), (_SKIP, 2), (_AVG, 0), (_SKIP, 2)),
)
"""The cells that the first-order search found, as published with the paper's code."""

DARTS_V2 = Genotype(
    ((_S3, 0), (_S3, 1), (_S3, 0), (_S3, 1), (_SKIP, 0), (_S3, 1), (_SKIP, 0), (_D3, 2)),
    ((_MAX, 0), (_MAX, 1), (_MAX, 1), (_SKIP, 2), (_MAX, 0), (_SKIP, 2), (_MAX, 1), (_SKIP, 2)),
)
"""Those of the second-order search (Fig. 4 and 5)."""


@final
class Darts(BackboneSpace):
    """The cells of DARTS, written as the genotypes that its authors' code prints.

    A stem of 3C channels; cells with C channels, doubled by each of two reduction cells at a third and two
    thirds of the depth; global average pooling. A node adds up one operation on each of two earlier states,
    which are the nodes before it and the outputs of the two cells before; a cell returns its four nodes side
    by side. The paper's networks for CIFAR-10 have C = 36 and 20 cells; the defaults suit few-shot tasks on
    28×28 images.

    The canonical key is that of the graph without what computes nothing (see `darts_cells.graph`), and
    without the reduction cell where no path leads from it to the output. Nodes that change places change the
    order of features alone; of such networks one is built.
    """

    name: ClassVar[str] = "darts"

    decisions = tuple(
        decision
        for start, kind in zip((0, 3 * NODES), Genotype._fields, strict=True)
        for node in range(NODES)
        for decision in (
            Decision(
                f"{kind}.node{node}.inputs",
                tuple(f"{a}+{b}" for a, b in combinations(range(INPUTS + node), 2)),
                tuple(
                    tuple(start + 3 * (state - INPUTS) + 2 for state in pair if state >= INPUTS)
                    for pair in combinations(range(INPUTS + node), 2)
                ),
            ),
            on_edge(f"{kind}.node{node}.op1", OPERATIONS),
            on_edge(f"{kind}.node{node}.op2", OPERATIONS),
        )
    )

    def __init__(
        self,
        *,
        channels: Annotated[int, Field(ge=2, description="channels C of the first cell's nodes")] = 4,
        cells: Annotated[int, Field(ge=4, description="cells, two of them reduction cells")] = 4,
    ) -> None:
        self.channels = channels
        self.cells = cells

    @property
    def named(self) -> Mapping[str, Architecture]:
        """The paper's cells: `darts_v1` of the first-order search, `darts_v2` of the second-order one."""
        return {"darts_v1": self.architecture_of(DARTS_V1), "darts_v2": self.architecture_of(DARTS_V2)}

    def encode(self, architecture: Architecture) -> str:
        """Return the printed genotype, each node's edges in the order of their states."""
        return printed(self.genotype_of(architecture))

    def decode(self, text: str) -> Architecture:
        """Read a printed genotype or a name, in capitals too."""
        if text.lower() in self.named:
            return self.named[text.lower()]
        genotype = parsed(text)
        if genotype is None:
            raise self.unreadable(text, f"{EXAMPLE}, of {', '.join(OPERATIONS)}")
        return self.architecture_of(genotype)

    def genotype_of(self, architecture: Architecture) -> Genotype:
        """Return the cells that an architecture describes."""
        values = self.values(self.check(architecture))

        def edges(kind: str) -> Edges:
            return tuple(
                (str(values[f"{kind}.node{node}.op{i}"]), int(state))
                for node in range(NODES)
                for i, state in enumerate(str(values[f"{kind}.node{node}.inputs"]).split("+"), 1)
            )

        return Genotype(*map(edges, Genotype._fields))

    def architecture_of(self, genotype: Genotype) -> Architecture:
        """Return the architecture with these cells."""
        choices: list[int] = []
        for edges in genotype:
            for node in range(NODES):
                (op1, a), (op2, b) = edges[2 * node : 2 * node + 2]
                pairs = list(combinations(range(INPUTS + node), 2))
                choices += [pairs.index((a, b)), OPERATIONS.index(op1), OPERATIONS.index(op2)]
        return Architecture(self.name, tuple(choices))

    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        """Return the network's cells in a row, and both kinds of cells.

        A cell's inputs are called as in the paper: the outputs of the cells k − 2 and k − 1.
        """
        return (
            chained("network, each cell fed by the two before it", self._row()),
            *(self._drawn(kind, edges) for kind, edges in self.genotype_of(architecture)._asdict().items()),
        )

    def _row(self) -> Iterator[Vertex]:
        yield Vertex("image")
        yield Vertex("conv 3×3", f"{STEM * self.channels} channels")
        channels = self.channels
        for kind, run in groupby(self.kinds):
            count = len(list(run))
            if kind == "normal":
                yield Vertex(f"{count} × {kind}" if count > 1 else kind, f"{NODES} × {channels} channels")
                continue
            for _ in range(count):
                channels *= 2
                yield Vertex(kind, f"{NODES} × {channels} channels")
        yield Vertex("average")

    def _drawn(self, kind: str, edges: Edges) -> Graph:
        nodes = [f"node {node}" for node in range(NODES)]
        cell = drawn(
            f"{kind} cell" + ("; operations on its inputs halve the map" if kind == "reduce" else ""),
            ("c_{k-2}", "c_{k-1}", *nodes, "c_{k}"),
            (edge for edge in edges_of(edges) if edge.operation != ABSENT),
        )
        joined = (Arrow(INPUTS + node, INPUTS + NODES) for node in range(NODES))
        return replace(cell, arrows=(*cell.arrows, *joined))

    def canonical(self, architecture: Architecture) -> str:
        """Return the graphs of both cells, or of the one that the output depends on."""
        return network_key(self.kinds, self._graphs(architecture))

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse tasks whose inputs are no images."""
        image_channels(shape, self.name)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network, without cells that no path leads from to the output.

        Raises:
            Infeasible: the inputs are no images, or a cell is zero whatever its input.
        """
        in_channels = image_channels(shape, self.name)
        graphs = self._graphs(architecture)
        live = live_cells(self.kinds, graphs)
        for kind in {self.kinds[i] for i in live}:
            if not any(graphs[kind].outputs):
                raise Infeasible(f"The {kind} cell is zero: every path to its nodes meets a 'none'.")

        def cell(place: Place) -> nn.Module:
            g = graphs[place.kind]
            return GraphCell(
                g,
                (
                    count_once(Place.preprocessing, place, i) if i in g.reads else nn.Identity()
                    for i in range(INPUTS)
                ),
                (count_once(operation, step.operation, place.channels, step.stride) for step in g.steps),
            )

        return Backbone(self.body(in_channels, cell, live), self.out_features)

    def supernet(self, shape: TaskShape) -> Supernet:
        """Build every architecture at once; see `DartsSupernet`.

        Raises:
            Infeasible: the inputs are no images.
        """
        return DartsSupernet(self, image_channels(shape, self.name))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each cell, from the image on."""
        reductions = (self.cells // 3, 2 * self.cells // 3)
        return tuple("reduce" if i in reductions else "normal" for i in range(self.cells))

    @property
    def out_features(self) -> int:
        """Width of a network's output."""
        return 4 * NODES * self.channels

    def body(
        self, in_channels: int, cell: Callable[[Place], nn.Module], live: Sequence[int] | None = None
    ) -> Stack:
        """Return the network around its cells, which are made for a place.

        Args:
            in_channels: of the images.
            cell: makes a module of two maps.
            live: the positions that have one; default: all.
        """
        channels, widths = self.channels, [STEM * self.channels] * 2
        cells = dict[int, nn.Module]()
        stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0])
        )
        for i, kind in enumerate(self.kinds):
            channels *= 2 if kind == "reduce" else 1
            halve = i > 0 and self.kinds[i - 1] == "reduce"
            if live is None or i in live:
                cells[i] = cell(Place(kind, channels, (widths[-2], widths[-1]), halve))
            widths.append(NODES * channels)
        return Stack(stem, cells)

    def _graphs(self, architecture: Architecture) -> dict[str, CellGraph]:
        cells = self.genotype_of(architecture)._asdict().items()
        return {kind: graph(edges, reduction=kind == "reduce") for kind, edges in cells}
