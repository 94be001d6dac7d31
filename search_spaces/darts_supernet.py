"""The supernet of DARTS: every operation on every possible edge of both cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor, nn

from nas.errors import Infeasible
from nas.space import Architecture
from nas.supernet import Mixture, Supernet
from search_spaces.darts_cells import Applied, DartsCell, Graph, Place, Stack, Sum
from search_spaces.genotype import INPUTS, NODES, Edges, Genotype
from search_spaces.mixed.mixing import nonzero, of_the_batch, one_hot
from search_spaces.mixed.pointwise import Convolved
from search_spaces.mixed.source import Source
from search_spaces.mixed.weighted_sum import Plain, weighted_sum
from search_spaces.operations import Backbone, on_edge
from search_spaces.separable import OPERATIONS, WEIGHTLESS, operation

if TYPE_CHECKING:
    from search_spaces.darts import Darts

PAIRS = tuple((state, node) for node in range(NODES) for state in range(INPUTS + node))
"""Each possible edge's state and node, in the order of the decisions of a cell."""


class MixedEdge(NamedTuple):
    """An operation on an edge."""

    state: int
    node: int
    operation: str


def live(edges: Iterable[MixedEdge]) -> list[MixedEdge]:
    """Return the edges that a path reaches from an input; what sees only zeros is zero."""
    reached, kept = set(range(INPUTS)), []
    for edge in sorted(edges, key=lambda edge: edge.node):
        if edge.operation != "none" and edge.state in reached:
            reached.add(INPUTS + edge.node)
            kept.append(edge)
    return kept


@final
class MixedDartsCell(nn.Module):
    """A cell whose edges are weighted sums of all operations: maps of two earlier cells to `[B, 4C, …]`.

    Each edge has weights of its own. What operations of one state share is computed once: its ReLU, its
    pooled maps, every other pixel of it.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.preprocessing = nn.ModuleList(
            of_the_batch(place.preprocessing(state), affine=False) for state in range(INPUTS)
        )
        self.edges = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: of_the_batch(operation(name, place.channels, self.stride(state)), affine=False)
                    for name in OPERATIONS
                    if name not in ("none", *WEIGHTLESS) and not self._identity(name, state)
                }
            )
            for state, _ in PAIRS
        )
        self.pools = nn.ModuleDict(
            {
                f"{name}/{stride}": nn.Sequential(
                    operation(name, place.channels, stride),
                    of_the_batch(nn.BatchNorm2d(place.channels), affine=False),
                )
                for name in WEIGHTLESS
                for stride in {self.stride(0), 1}
            }
        )

    def stride(self, state: int) -> int:
        """Return the stride of the edges that leave a state."""
        return 2 if self.place.kind == "reduce" and state < INPUTS else 1

    def _identity(self, name: str, state: int) -> bool:
        return name == "skip_connect" and self.stride(state) == 1

    def forward(
        self, before: Tensor, last: Tensor, mixture: Sequence[Sequence[Tensor]], edges: Sequence[MixedEdge]
    ) -> Tensor:
        """Return the nodes, side by side.

        Args:
            before: output of the cell before the last.
            last: output of the last cell.
            mixture: weights of the operations, edge by edge.
            edges: what to compute, sorted by node.
        """
        states = dict[int, Source]()
        for state in {edge.state for edge in edges if edge.state < INPUTS}:
            x = (before, last)[state]
            terms = Source(x).through(self.preprocessing[state], x.new_ones(()))
            states[state] = Source(weighted_sum(terms), self._leaving(state, edges))
        for node in range(NODES):
            arriving = [edge for edge in edges if edge.node == node]
            if arriving:
                parts = (self._terms(states[edge.state], edge, mixture) for edge in arriving)
                x = weighted_sum([term for part in parts for term in part])
                states[INPUTS + node] = Source(x, self._leaving(INPUTS + node, edges))
        nodes = [states[i].x if i in states else None for i in range(INPUTS, INPUTS + NODES)]
        if all(node is None for node in nodes):
            height, width = (-(-size // self.stride(0)) for size in last.shape[2:])
            return last.new_zeros(len(last), NODES * self.place.channels, height, width)
        like = next(node for node in nodes if node is not None)
        return torch.cat([torch.zeros_like(like) if node is None else node for node in nodes], 1)

    def _terms(
        self, source: Source, edge: MixedEdge, mixture: Sequence[Sequence[Tensor]]
    ) -> Sequence[Convolved | Plain]:
        """Return what an edge adds to its node."""
        index, name = PAIRS.index((edge.state, edge.node)), edge.operation
        weight = mixture[index][OPERATIONS.index(name)]
        if name in WEIGHTLESS:
            return [Plain(source.pooled(name, self.pools[f"{name}/{self.stride(edge.state)}"]), weight)]
        if self._identity(name, edge.state):
            return [Plain(source.x, weight)]
        return source.through(self._module(edge), weight)

    def _leaving(self, state: int, edges: Sequence[MixedEdge]) -> list[nn.Module]:
        """Return the operations with weights that leave a state."""
        own = [edge for edge in edges if edge.state == state and edge.operation not in WEIGHTLESS]
        return [self._module(edge) for edge in own if not self._identity(edge.operation, state)]

    def extract(self, edges: Sequence[MixedEdge]) -> DartsCell:
        """Return the cell of some edges, with this one's weights.

        Raises:
            Infeasible: there is none.
        """
        if not edges:
            raise Infeasible(f"The {self.place.kind} cell is zero: every path to its nodes meets a 'none'.")
        steps, modules = list[Applied](), list[nn.Module]()
        states: list[Sum] = [(value,) for value in range(INPUTS)]
        for node in range(NODES):
            total: list[int] = []
            for edge in (edge for edge in edges if edge.node == node):
                sources, name, stride = states[edge.state], edge.operation, self.stride(edge.state)
                if self._identity(name, edge.state):
                    total += sources
                    continue
                step = Applied(name, stride, sources)
                if name not in WEIGHTLESS or step not in steps:
                    steps.append(step)
                    modules.append(self._module(edge))
                    total.append(INPUTS + len(steps) - 1)
                else:
                    total.append(INPUTS + steps.index(step))
            states.append(tuple(total))
        graph = Graph(tuple(steps), tuple(states[INPUTS:]))
        inputs = (m if i in graph.reads else nn.Identity() for i, m in enumerate(self.preprocessing))
        return DartsCell(graph, inputs, modules)

    def _module(self, edge: MixedEdge) -> nn.Module:
        if edge.operation in WEIGHTLESS:
            return self.pools[f"{edge.operation}/{self.stride(edge.state)}"]
        own: Any = self.edges[PAIRS.index(edge[:2])]
        module: nn.Module = own[edge.operation]
        return module


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
        on_edge(f"{kind}.node{node}.from{state}", OPERATIONS)
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
        edges = {kind: live(_mixed(kept[part])) for kind, part in _PARTS.items()}
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

    def _positions(self, edges: Mapping[str, Sequence[MixedEdge]]) -> list[int]:
        """Return the positions of the cells that the output depends on."""
        reads = {kind: {e.state for e in own if e.state < INPUTS} for kind, own in edges.items()}
        positions = {self.space.cells - 1}
        for i in reversed(range(self.space.cells)):
            if i in positions:
                positions |= {i - INPUTS + state for state in reads[self.space.kinds[i]]}
        return sorted(i for i in positions if i >= 0)

    def mixture_of(self, architecture: Architecture) -> list[Tensor]:
        """Return a weight of 1 for each chosen edge's operation, and for `none` of the other edges."""
        choices = [
            OPERATIONS.index(chosen.get(pair, "none"))
            for chosen in map(_by_pair, self.space.genotype_of(architecture))
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
        cells = self.space.genotype_of(architecture)._asdict()
        edges = {
            kind: live(MixedEdge(*pair, name) for pair, name in _by_pair(own).items())
            for kind, own in cells.items()
        }
        parts: dict[int, Any] = {i: self.body.cells[str(i)] for i in self._positions(edges)}
        body = Stack(self.body.stem, {i: cell.extract(edges[cell.place.kind]) for i, cell in parts.items()})
        return Backbone(body, self.out_features)


_PARTS = {kind: slice(i * len(PAIRS), (i + 1) * len(PAIRS)) for i, kind in enumerate(Genotype._fields)}
"""Where each kind's decisions are."""


def _mixed(kept: Sequence[Sequence[int]]) -> list[MixedEdge]:
    return [MixedEdge(*pair, OPERATIONS[i]) for pair, own in zip(PAIRS, kept, strict=True) for i in own]


def _by_pair(edges: Edges) -> dict[tuple[int, int], str]:
    """Return each chosen edge's operation; a node takes two states."""
    return {(state, i // 2): name for i, (name, state) in enumerate(edges)}


def _strongest(mixture: Mixture) -> Edges:
    """Return the edges of one cell."""
    none = OPERATIONS.index("none")
    found: list[tuple[str, int]] = []
    for node in range(NODES):
        best = []
        for state in range(INPUTS + node):
            weights = mixture[PAIRS.index((state, node))].detach().clone()
            weights[none] = -1
            weight, choice = weights.max(0)
            # Where nothing else has a weight, nothing is what is strongest.
            best.append((float(weight), -state, OPERATIONS[int(choice)] if weight > 0 else "none"))
        chosen = sorted(sorted(best, reverse=True)[:2], key=lambda edge: -edge[1])
        found += [(name, -state) for _, state, name in chosen]
    return tuple(found)
