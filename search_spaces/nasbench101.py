"""NAS-Bench-101 (Ying et al., ICML 2019): cells of up to seven vertices and nine edges."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, ClassVar, final

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import nn

from nas.backbone import BackboneSpace
from nas.counting import count_once
from nas.drawing.graph import Arrow, Graph, Vertex, chained
from nas.errors import Infeasible
from nas.space import Architecture, Decision, TaskShape
from search_spaces.nasbench101_cells import (
    EDGES,
    OPERATIONS,
    VERTICES,
    Cell101,
    Graph101,
    canonical,
    parsed,
    pruned,
)
from search_spaces.operations import Backbone, conv_bn_relu, image_channels

STACKS = 3
PAIRS = tuple(combinations(range(VERTICES), 2))

RESNET = "conv3x3@0 conv3x3@1 conv3x3@ conv3x3@ conv3x3@ output@0+2"
"""Two 3×3 convolutions parallel to a projection of the input."""

DRAWS = 200
"""How often an architecture that has a network is drawn for."""


@final
class NasBench101(BackboneSpace):
    """The cells of NAS-Bench-101: any graph of up to five operations between an input and an output.

    A stem of C channels; three stacks of cells with C, 2C and 4C channels, max-pooling of stride 2 between
    them; global average pooling. The paper's networks have C = 128 and 3 cells a stack; the defaults suit
    few-shot tasks. A cell of more than 9 edges, or without a path from its input to its output, has no
    network: samples, mutants and children are drawn again until they have one.

    A cell is written vertex by vertex, each with what it sees: `conv3x3@0 maxpool3x3@0+1 … output@2+5`. The
    published table's form is read, too: the adjacency matrix row after row, then the operations. Vertices on
    no path are inactive. The canonical key is that of the pruned graph up to isomorphism, of which one is
    built: 423,624 in all.
    """

    name: ClassVar[str] = "nasbench101"
    decisions = (
        *(Decision(f"edge{source}.{vertex}", (0, 1)) for source, vertex in PAIRS),
        *(Decision(f"vertex{vertex}.op", OPERATIONS) for vertex in range(1, VERTICES - 1)),
    )

    def __init__(
        self,
        *,
        channels: Annotated[int, Field(ge=5, description="channels C of the first stack")] = 16,
        cells: Annotated[int, Field(ge=1, description="cells in each of the three stacks")] = 1,
    ) -> None:
        self.channels = channels
        self.cells = cells

    @property
    def default(self) -> Architecture:
        """The residual cell: the first choices of all decisions are a cell without edges."""
        return self.named["resnet_cell"]

    @property
    def named(self) -> Mapping[str, Architecture]:
        """A residual cell as `resnet_cell`."""
        return {"resnet_cell": self._parse(RESNET)}

    def encode(self, architecture: Architecture) -> str:
        """Return the vertices and what they see, such as `conv3x3@0 … output@1`."""
        return str(self.graph_of(architecture))

    def decode(self, text: str) -> Architecture:
        """Read vertices, the published table's form, or a name."""
        return self.named.get(text) or self._parse(text)

    def graph_of(self, architecture: Architecture) -> Graph101:
        """Return the cell that an architecture describes, inactive vertices included."""
        choices = self.check(architecture).choices
        edges = [pair for pair, there in zip(PAIRS, choices, strict=False) if there]
        sources = (tuple(s for s, v in edges if v == vertex) for vertex in range(VERTICES))
        return Graph101(tuple(OPERATIONS[i] for i in choices[len(PAIRS) :]), tuple(sources))

    def canonical(self, architecture: Architecture) -> str:
        """Return the pruned cell in its canonical order; `none` where no path leads to the output."""
        found = canonical(self.graph_of(architecture))
        return "none" if found is None else str(found)

    def features(self, architecture: Architecture) -> npt.NDArray[np.float32]:
        """Return the edges and the operations of the pruned cell in its canonical order, `[36]`.

        Raises:
            Infeasible: the cell has no network.
        """
        graph = self._feasible(architecture)
        size = len(graph.sources)
        place = {vertex: vertex for vertex in range(size - 1)} | {size - 1: VERTICES - 1}
        there = {(place[s], place[v]) for v in range(size) for s in graph.sources[v]}
        names = [*graph.operations, *[None] * (VERTICES - size)]
        return np.array(
            [*(pair in there for pair in PAIRS), *(name == own for name in names for own in OPERATIONS)],
            dtype=np.float32,
        )

    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        """Return the network's stacks, and the pruned cell."""
        several = f"{self.cells} × cell" if self.cells > 1 else "cell"
        stacks = [Vertex(several, f"{self.channels * 2**stack} channels") for stack in range(STACKS)]
        pool = Vertex("max-pool /2")
        row = Vertex("image"), Vertex("conv 3×3", f"{self.channels} channels"), stacks[0]
        whole = chained("network", (*row, pool, stacks[1], pool, stacks[2], Vertex("average")))
        graph = canonical(self.graph_of(architecture))
        if graph is None:
            return (whole,)
        names = ("input", *graph.operations, "output")
        arrows = (Arrow(s, vertex) for vertex, sources in enumerate(graph.sources) for s in sources)
        return whole, Graph("cell", tuple(map(Vertex, names)), tuple(arrows))

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw every choice uniformly, again until there is a network, as the paper's code does."""
        drawn = super().sample(rng)
        for _ in range(DRAWS):
            if self.has_network(drawn):
                break
            drawn = super().sample(rng)
        return drawn

    def mutate(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """Change one edge or operation, drawn again until there is a network."""
        drawn = super().mutate(architecture, rng)
        for _ in range(DRAWS):
            if self.has_network(drawn):
                break
            drawn = super().mutate(architecture, rng)
        return drawn

    def crossover(self, a: Architecture, b: Architecture, rng: np.random.Generator) -> Architecture:
        """Take each choice from one of two parents, drawn again until there is a network."""
        drawn = super().crossover(a, b, rng)
        for _ in range(DRAWS):
            if self.has_network(drawn):
                break
            drawn = super().crossover(a, b, rng)
        return drawn

    def has_network(self, architecture: Architecture) -> bool:
        """Return whether a cell has a path from its input to its output, and no more than nine edges."""
        found = pruned(self.graph_of(architecture))
        return found is not None and found.edges <= EDGES

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse tasks whose inputs are no images."""
        image_channels(shape, self.name)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network, its vertices in canonical order.

        Raises:
            Infeasible: the inputs are no images, no path leads through the cell, or it has too many edges.
        """
        in_channels = image_channels(shape, self.name)
        return self.network(self._feasible(architecture), in_channels)

    def network(self, graph: Graph101, in_channels: int) -> Backbone:
        """Return the network of a pruned cell, whose first vertices get the channels that are left over."""
        body: list[nn.Module] = [count_once(conv_bn_relu, in_channels, self.channels, (3, 3), 1)]
        width = self.channels
        for stack in range(STACKS):
            wide = self.channels * 2**stack
            if stack:
                body.append(nn.MaxPool2d(2, ceil_mode=True))
            for _ in range(self.cells):
                body.append(Cell101(graph, width, wide))
                width = wide
        return Backbone(nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width)

    def _feasible(self, architecture: Architecture) -> Graph101:
        graph = canonical(self.graph_of(architecture))
        if graph is None:
            raise Infeasible("The cell is zero: no path leads from its input to its output.")
        if graph.edges > EDGES:
            raise Infeasible(f"The cell has {graph.edges} edges on its paths; NAS-Bench-101 allows {EDGES}.")
        return graph

    def _parse(self, text: str) -> Architecture:
        graph = parsed(text)
        size = 0 if graph is None else len(graph.sources)
        if graph is None or not 2 <= size <= VERTICES:
            raise self.unreadable(
                text,
                f"up to {VERTICES - 2} vertices of {', '.join(OPERATIONS)}, and what they see, such as "
                f"'{RESNET}', or a row of the published table",
            )
        place = {size - 1: VERTICES - 1}
        sources = {place.get(vertex, vertex): own for vertex, own in enumerate(graph.sources)}
        names = [*graph.operations, *[OPERATIONS[0]] * (VERTICES - size)]
        values: dict[str, str | int] = {}
        for vertex in range(1, VERTICES):
            own, allowed = set(sources.get(vertex, ())), range(vertex)
            values |= {f"edge{s}.{vertex}": int(s in own) for s in sorted({*allowed, *own})}
        for vertex, name in enumerate(names, 1):
            values[f"vertex{vertex}.op"] = name
        return self.choosing(values)
