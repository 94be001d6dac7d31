"""The supernet of the micro space of ENAS: every operation of every block on every earlier state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from nas.space import Architecture
from nas.supernet import Mixture
from search_spaces.blocks import BlockCell, BlockSpace, loose, steps_of, stride
from search_spaces.cells import prune
from search_spaces.mixed.cell import MixedEdges
from search_spaces.mixed.mixing import DirectSupernet, nonzero, of_the_batch
from search_spaces.operations import Backbone
from search_spaces.stacked import INPUTS, CellGraph, GraphCell, Place, Stack, needed

_TERMS = 2
"""Of a block: two decisions each, the state that it sees and the operation."""


class TermEdge(NamedTuple):
    """An operation of one of a block's terms on an earlier state."""

    source: int
    node: int
    operation: str
    term: int

    @property
    def pair(self) -> tuple[int, int, int]:
        """The state, the block's state, and which of its terms."""
        return self.source, self.node, self.term


class ChosenCell(NamedTuple):
    """What a mixture makes of a cell.

    Attributes:
        edges: with a weight, sorted by node.
        weights: of the operations of each term on each state that it may see, by `TermEdge.pair`.
        output: by block, how much of its state is a part of the output: the product of what no later term
            reads of it. None: nothing; 1: all of it.
    """

    edges: list[TermEdge]
    weights: dict[tuple[int, ...], Sequence[Tensor]]
    output: list[Tensor | int | None]

    @property
    def reads(self) -> set[int]:
        """The inputs that are read."""
        return {edge.source for edge in self.edges if edge.source < INPUTS}


@final
class MixedBlockCell(MixedEdges):
    """A cell whose terms are weighted sums of all operations on all states: to `[B, blocks · C, …]`."""

    def __init__(self, space: BlockSpace, place: Place) -> None:
        def make(name: str, source: int) -> nn.Module:
            own = stride(source, reduction=place.reduction)
            return space.operation(name, place.channels, own)

        self.place, self.blocks = place, space.blocks
        super().__init__(
            (space.fitted(place, state) for state in range(INPUTS)),
            [
                (state, node, term)
                for node in range(INPUTS, INPUTS + space.blocks)
                for term in range(_TERMS)
                for state in range(node)
            ],
            space.block_operations,
            make,
        )

    def forward(self, before: Tensor, last: Tensor, chosen: ChosenCell) -> Tensor:
        """Return the blocks' states side by side, each by how much it is a part of the output."""
        mixture = [chosen.weights.get(pair, ()) for pair in self.pairs]
        values = self.values((before, last), mixture, chosen.edges)
        parts = list[Tensor | None]()
        for node, share in enumerate(chosen.output, INPUTS):
            value = values.get(node)
            if value is None or share is None:
                parts.append(None)
            else:
                parts.append(share * value if isinstance(share, Tensor) else value)
        like = next((part for part in parts if part is not None), None)
        if like is None:
            height, width = (-(-size // stride(0, reduction=self.place.reduction)) for size in last.shape[2:])
            return last.new_zeros(len(last), self.blocks * self.place.channels, height, width)
        return torch.cat([torch.zeros_like(like) if part is None else part for part in parts], 1)

    def extract(self, cell: BlockCell) -> GraphCell:
        """Return one cell with this one's weights; what is no part of its output is zero."""
        steps, parts, of = steps_of(cell, reduction=self.place.reduction)
        ends = loose(cell)
        nodes = range(INPUTS, INPUTS + self.blocks)
        graph = CellGraph(tuple(steps), tuple(parts[n][0] if n in ends else () for n in nodes))
        modules = []
        for step, term in zip(steps, of, strict=True):
            assert term is not None, "blocks of this space add up, and join no input"
            block, which = term
            own = cell.blocks[block]
            state = (own.first, own.second)[which][1]
            modules.append(self.operation(TermEdge(state, INPUTS + block, step.operation, which)))
        inputs = (m if i in graph.reads else nn.Identity() for i, m in enumerate(self.preprocessing))
        return GraphCell(graph, inputs, modules)


@final
class EnasMicroSupernet(DirectSupernet):
    """Both cells with every operation of each term on every earlier state; its decisions are the space's.

    An operation on a state weighs what the term's decision for that state and that for the operation do
    together. Terms have weights of their own, as in the paper's code. An output has room for all blocks; the
    state of one is weighed by what no later term reads of it, and 1×1 convolutions, which have weights for
    all of them, take it up. The batch norms of the cells have neither scale nor shift.

    Args:
        space: whose cells these are.
        in_channels: of the images.
    """

    space: BlockSpace

    def __init__(self, space: BlockSpace, in_channels: int) -> None:
        super().__init__(space)
        places = space.places(dict.fromkeys(("normal", "reduce"), space.blocks))
        self.out_features = space.blocks * places[-1].channels
        cells = {i: MixedBlockCell(space, place) for i, place in enumerate(places)}
        self.body = Stack(space.stem(in_channels), cells, rectified=True)
        of_the_batch(self.body.stem)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Return the features of a batch; see `Supernet`."""
        chosen = self._chosen(mixture)
        positions = needed([chosen[kind].reads for kind in self.space.kinds])
        x = self.body.stem(x)
        maps = {-2: x, -1: x}
        for i in positions:
            cell: Any = self.body.cells[str(i)]
            maps[i] = cell(maps.get(i - 2, x), maps.get(i - 1, x), chosen[cell.place.kind])
            maps = {j: y for j, y in maps.items() if j >= i - 1}
        features: Tensor = maps[positions[-1]].relu().mean((2, 3))
        return features

    def extract(self, architecture: Architecture) -> nn.Module:
        """Return one architecture's network."""
        cells = self.space.cells_of(architecture)
        reads = {
            kind: {
                state for block in cell.blocks for _, state in (block.first, block.second) if state < INPUTS
            }
            for kind, cell in cells.items()
        }
        positions = needed([reads[kind] for kind in self.space.kinds])
        parts: dict[int, Any] = {i: self.body.cells[str(i)] for i in positions}
        own = {i: part.extract(cells[part.place.kind]) for i, part in parts.items()}
        return Backbone(Stack(self.body.stem, own, rectified=True), self.out_features)

    def _chosen(self, mixture: Mixture) -> Mapping[str, ChosenCell]:
        kept = nonzero(mixture, self.decisions)
        size = 2 * _TERMS * self.space.blocks
        return {
            kind: self._cell(mixture[start : start + size], kept[start : start + size])
            for kind, start in (("normal", 0), ("reduce", size))
        }

    def _cell(self, mixture: Mixture, kept: Sequence[Sequence[int]]) -> ChosenCell:
        names, edges = self.space.block_operations, list[TermEdge]()
        weights = dict[tuple[int, ...], Sequence[Tensor]]()
        unread: list[list[Tensor]] = [[] for _ in range(self.space.blocks)]
        for block in range(self.space.blocks):
            node = INPUTS + block
            for term in range(_TERMS):
                at = 2 * (_TERMS * block + term)
                for state in kept[at]:
                    weights[state, node, term] = (mixture[at][state] * mixture[at + 1]).unbind()
                    edges += [TermEdge(state, node, names[i], term) for i in kept[at + 1]]
                    if state >= INPUTS:
                        unread[state - INPUTS].append(1 - mixture[at][state])
        output: list[Tensor | int | None] = []
        for shares in unread:
            rest = torch.stack(shares).prod() if shares else 1
            output.append(None if isinstance(rest, Tensor) and not rest.detach() else rest)
        ends = [INPUTS + block for block, share in enumerate(output) if share is not None]
        return ChosenCell(prune(edges, range(INPUTS), ends), weights, output)
