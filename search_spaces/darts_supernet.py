"""The supernet of DARTS: every operation on every possible edge of both cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from nas.errors import Infeasible
from nas.space import Architecture
from nas.supernet import Mixture, Supernet
from search_spaces import cells
from search_spaces.cells import ABSENT, Edge, or_zero, pairs, prune
from search_spaces.darts_cells import VALUES, edges_of, steps_of, stride
from search_spaces.genotype import NODES, Edges, Genotype
from search_spaces.mixed.cell import MixedEdges
from search_spaces.mixed.mixing import nonzero, of_the_batch, one_hot
from search_spaces.operations import Backbone, on_edge
from search_spaces.separable import OPERATIONS, WEIGHTLESS, operation
from search_spaces.stacked import INPUTS, CellGraph, GraphCell, Place, Stack, needed

if TYPE_CHECKING:
    from search_spaces.darts import Darts

PAIRS = pairs(VALUES, INPUTS)
"""Each possible edge's state and node, in the order of the decisions of a cell."""

OUTPUTS = range(INPUTS, VALUES)


def live(edges: Sequence[Edge]) -> list[Edge]:
    """Return the edges that a path reaches from an input; what sees only zeros is zero."""
    return prune([edge for edge in edges if edge.operation != ABSENT], range(INPUTS), OUTPUTS)


@final
class MixedDartsCell(MixedEdges):
    """A cell whose edges are weighted sums of all operations: maps of two earlier cells to `[B, 4C, …]`."""

    def __init__(self, place: Place) -> None:
        def make(name: str, source: int) -> nn.Module:
            module = operation(name, place.channels, stride(source, reduction=place.reduction))
            return nn.Sequential(module, nn.BatchNorm2d(place.channels)) if name in WEIGHTLESS else module

        super().__init__((place.preprocessing(state) for state in range(INPUTS)), PAIRS, OPERATIONS, make)
        self.place = place

    def forward(
        self, before: Tensor, last: Tensor, mixture: Sequence[Sequence[Tensor]], edges: Sequence[Edge]
    ) -> Tensor:
        """Return the nodes, side by side.

        Args:
            before: output of the cell before the last.
            last: output of the last cell.
            mixture: weights of the operations, edge by edge.
            edges: what to compute, sorted by node.
        """
        values = self.values((before, last), mixture, edges)
        nodes = [values.get(node) for node in OUTPUTS]
        if all(node is None for node in nodes):
            height, width = (-(-size // stride(0, reduction=self.place.reduction)) for size in last.shape[2:])
            return last.new_zeros(len(last), NODES * self.place.channels, height, width)
        like = next(node for node in nodes if node is not None)
        return torch.cat([or_zero(node, like) for node in nodes], 1)

    def extract(self, edges: Sequence[Edge]) -> GraphCell:
        """Return the cell of some edges, with this one's weights.

        Raises:
            Infeasible: there is none.
        """
        if not edges:
            raise Infeasible(f"The {self.place.kind} cell is zero: every path to its nodes meets a 'none'.")
        steps, outputs, of = steps_of(edges, reduction=self.place.reduction)
        graph = CellGraph(tuple(steps), tuple(outputs))
        inputs = (m if i in graph.reads else nn.Identity() for i, m in enumerate(self.preprocessing))
        return GraphCell(graph, inputs, map(self.operation, of))


@final
class DartsSupernet(Supernet):
    """Both cells of DARTS with every operation on every possible edge: 14 decisions a cell (§2.2).

    Cells share the mixtures of their kind, not weights. As in the paper's search, no batch norm of a cell has
    scale or shift, and pooling is followed by one. Its networks are built with scales and shifts, and without
    those after pooling.

    Args:
        space: whose cells these are.
        in_channels: of the images.
    """

    decisions = tuple(
        on_edge(f"{kind}.node{node - INPUTS}.from{state}", OPERATIONS)
        for kind in Genotype._fields
        for state, node in PAIRS
    )

    def __init__(self, space: Darts, in_channels: int) -> None:
        super().__init__()
        self.space = space
        self.out_features = space.out_features
        self.body = space.body(in_channels, MixedDartsCell)
        of_the_batch(self.body.stem)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Return the features of a batch; see `Supernet`."""
        kept = nonzero(mixture, self.decisions)
        carried = [[OPERATIONS[i] for i in own] for own in kept]
        edges = {kind: live(cells.edges_of(PAIRS, carried[part])) for kind, part in _PARTS.items()}
        positions = self._positions(edges)
        weights = [own.unbind() for own in mixture]
        x = self.body.stem(x)
        maps = {-2: x, -1: x}
        for i in positions:
            cell: Any = self.body.cells[str(i)]
            kind = cell.place.kind
            maps[i] = cell(maps.get(i - 2, x), maps.get(i - 1, x), weights[_PARTS[kind]], edges[kind])
            maps = {j: y for j, y in maps.items() if j >= i - 1}
        features: Tensor = maps[positions[-1]].mean((2, 3))
        return features

    def _positions(self, edges: Mapping[str, Sequence[Edge]]) -> list[int]:
        """Return the positions of the cells that the output depends on."""
        reads = {kind: {e.source for e in own if e.source < INPUTS} for kind, own in edges.items()}
        return needed([reads[kind] for kind in self.space.kinds])

    def mixture_of(self, architecture: Architecture) -> list[Tensor]:
        """Return a weight of 1 for each chosen edge's operation, and for `none` of the other edges."""
        genotype = self.space.genotype_of(architecture)
        choices = [
            OPERATIONS.index(chosen.get(pair, ABSENT))
            for chosen in ({edge.pair: edge.operation for edge in edges_of(own)} for own in genotype)
            for pair in PAIRS
        ]
        return one_hot(choices, self.decisions, next(self.parameters()))

    def derive(self, mixture: Mixture) -> Architecture:
        """Return, for each node, the two edges of the strongest operations besides `none` (§2.4)."""
        return self.space.architecture_of(Genotype(*(_strongest(mixture[part]) for part in _PARTS.values())))

    def extract(self, architecture: Architecture) -> nn.Module:
        """Return one architecture's network, without cells that no path leads from to the output.

        Raises:
            Infeasible: a cell is zero whatever its input.
        """
        chosen = self.space.genotype_of(architecture)._asdict()
        edges = {kind: live(edges_of(own)) for kind, own in chosen.items()}
        parts: dict[int, Any] = {i: self.body.cells[str(i)] for i in self._positions(edges)}
        body = Stack(self.body.stem, {i: cell.extract(edges[cell.place.kind]) for i, cell in parts.items()})
        return Backbone(body, self.out_features)


_PARTS = {kind: slice(i * len(PAIRS), (i + 1) * len(PAIRS)) for i, kind in enumerate(Genotype._fields)}
"""Where each kind's decisions are."""


def _strongest(mixture: Mixture) -> Edges:
    """Return the edges of one cell."""
    none = OPERATIONS.index(ABSENT)
    found: list[tuple[str, int]] = []
    for node in OUTPUTS:
        best = []
        for state in range(node):
            weights = mixture[PAIRS.index((state, node))].detach().clone()
            weights[none] = -1
            weight, choice = weights.max(0)
            # Where nothing else has a weight, nothing is what is strongest.
            best.append((float(weight), -state, OPERATIONS[int(choice)] if weight > 0 else ABSENT))
        chosen = sorted(sorted(best, reverse=True)[:2], key=lambda edge: -edge[1])
        found += [(name, -state) for _, state, name in chosen]
    return tuple(found)
