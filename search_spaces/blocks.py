"""Cells of blocks: each block combines an operation on one earlier state with an operation on another."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple, TypeAlias

from torch import nn

from nas.backbone import BackboneSpace
from nas.counting import count_once
from nas.drawing.graph import Arrow, Graph, Vertex, chained
from nas.errors import ConfigError
from nas.space import Architecture, Decision, TaskShape
from search_spaces.cells import SKIP, Edge, drawn
from search_spaces.operations import Backbone, image_channels, on_edge, relu_conv_bn
from search_spaces.stacked import (
    INPUTS,
    JOINED,
    Applied,
    CellGraph,
    GraphCell,
    Place,
    Stack,
    Sum,
    canonical_graph,
    live_cells,
    network_key,
)

STEM = 3
"""Channels of the stem, in multiples of C: those of the papers' networks for CIFAR-10."""

ADD, CONCAT = "add", "concat"

HALF, HALVE = "half", "halve"
"""Steps that no block chooses: a part of a concatenation, and an input at half its size."""

Term: TypeAlias = tuple[str, int]
"""An operation and the state that it sees. States 0 and 1 are the outputs of the two cells before."""


class Block(NamedTuple):
    """Two terms, and how they are combined: added up, or concatenated."""

    first: Term
    second: Term
    combination: str = ADD


class BlockCell(NamedTuple):
    """The blocks of a cell, and the states that its output has besides those that no block reads."""

    blocks: tuple[Block, ...]
    joined: tuple[int, ...] = ()


Cells: TypeAlias = Mapping[str, BlockCell]
"""The cells of a network by kind: `normal` and `reduce`, or `cell` for both."""


def loose(cell: BlockCell) -> list[int]:
    """Return the states of the blocks that no block reads."""
    read = {state for block in cell.blocks for _, state in (block.first, block.second)}
    return [state for state in range(INPUTS, INPUTS + len(cell.blocks)) if state not in read]


def output_states(cell: BlockCell) -> list[int]:
    """Return the states that a cell's output consists of."""
    return sorted({*loose(cell), *cell.joined})


def stride(state: int, *, reduction: bool) -> int:
    """Return the stride of the operations on a state: a reduction cell halves its inputs."""
    return 2 if reduction and state < INPUTS else 1


def weightless(name: str) -> bool:
    """Return whether an operation computes the same wherever it sees the same."""
    return "pool" in name or name == HALF


def steps_of(
    cell: BlockCell, *, reduction: bool
) -> tuple[list[Applied], list[list[Sum]], list[tuple[int, int] | None]]:
    """Return what a cell computes, step by step, the parts of each state, and the term behind each step.

    A block's state is the sum of its terms, or both side by side. Where another block reads two that are side
    by side, a 1×1 convolution, shared by all readers, fits them to the cell's channels. Identities are no
    steps, and pooling the same twice is one. A term is the number of its block, and which of the two it is,
    from 0; None: no block chooses the step.
    """
    steps, sums, parts = list[Applied](), list[Sum](), list[list[Sum]]()
    of = list[tuple[int, int] | None]()

    def add(step: Applied, term: tuple[int, int] | None = None) -> int:
        if weightless(step.operation) and step in steps:
            return INPUTS + steps.index(step)
        steps.append(step)
        of.append(term)
        return INPUTS + len(steps) - 1

    def term(block: int, which: int, name: str, state: int) -> Sum:
        sources, own = value(state), stride(state, reduction=reduction)
        if name == SKIP and own == 1:
            return sources
        return (add(Applied(name, own, sources), (block, which)),)

    def value(state: int) -> Sum:
        if len(parts[state]) == 1:
            return parts[state][0]
        if not sums[state]:
            halves = tuple(add(Applied(HALF, 1, part)) for part in parts[state])
            sums[state] = (add(Applied(JOINED, 1, halves)),)
        return sums[state]

    for state in range(INPUTS):
        parts.append([(state,)])
        sums.append((state,))
    for number, block in enumerate(cell.blocks):
        own = [term(number, which, *each) for which, each in enumerate((block.first, block.second))]
        sorted_terms = sorted(tuple(sorted(each)) for each in own)
        parts.append([tuple(sorted(own[0] + own[1]))] if block.combination == ADD else sorted_terms)
        sums.append(())
    if reduction:
        for state in set(output_states(cell)) & set(range(INPUTS)):
            parts[state] = [(add(Applied(HALVE, 2, (state,))),)]
    return steps, parts, of


@lru_cache(4096)
def graph(cell: BlockCell, operations: tuple[str, ...], *, reduction: bool) -> CellGraph:
    """Return the graph of a cell in canonical form: cells with equal graphs are one network."""
    steps, parts, _ = steps_of(cell, reduction=reduction)
    outputs = [part for state in output_states(cell) for part in parts[state]]
    ordered = [Applied(name, own, tuple(sorted(sources))) for name, own, sources in steps]
    return canonical_graph(ordered, outputs, (*operations, HALF, JOINED, HALVE))


_TERM = r"(\w+)@(\d{1,2})"
_BLOCK = re.compile(rf"{_TERM}([+&]){_TERM}", re.ASCII)
_CELL = re.compile(r"(\w+): ([^;>]+?)(?: > (\d{1,2}(?:\+\d{1,2})*))?", re.ASCII)
_SIGNS = {ADD: "+", CONCAT: "&"}


def printed(cells: Cells) -> str:
    """Return `normal: sep_conv_3x3@0+skip_connect@1 … > 0; reduce: …`, with `&` for a concatenation.

    What comes after `>` are states of the output besides those of blocks that no block reads.
    """
    written = []
    for kind, cell in cells.items():
        blocks = (
            f"{first[0]}@{first[1]}{_SIGNS[how]}{second[0]}@{second[1]}" for first, second, how in cell.blocks
        )
        joined = " > " + "+".join(map(str, cell.joined)) if cell.joined else ""
        written.append(f"{kind}: {' '.join(blocks)}{joined}")
    return "; ".join(written)


def parsed(text: str, kinds: Sequence[str], blocks: int) -> Cells | None:
    """Read a printed text; None: it has not its form."""
    signs = {sign: how for how, sign in _SIGNS.items()}
    found = dict[str, BlockCell]()
    for part in text.split("; "):
        match = _CELL.fullmatch(part)
        if match is None:
            return None
        own = [_BLOCK.fullmatch(block) for block in match[2].split(" ")]
        if len(own) != blocks or None in own or match[1] in found:
            return None
        found[match[1]] = BlockCell(
            tuple(Block((m[1], int(m[2])), (m[4], int(m[5])), signs[m[3]]) for m in own if m),
            tuple(map(int, match[3].split("+"))) if match[3] else (),
        )
    return found if list(found) == list(kinds) else None


class BlockSpace(BackboneSpace):
    """A space of networks of stacked cells, whose cells consist of blocks.

    A concrete space calls `__init__` with its settings and says by `operation` what a block applies.

    Args:
        channels: C of the first cell's blocks, doubled by each of the two reduction cells.
        repeats: N, the normal cells in each of the three stages.
        blocks: of a cell.
        operations: that a block chooses from.
        combinations: of a block's two terms to choose from.
        joins: whether any state can be chosen to be a part of a cell's output; False: only those of blocks
            that no block reads are.
        single: whether one cell serves for both kinds, and a reduction is the first of a stage's N cells.
    """

    def __init__(
        self,
        *,
        channels: int,
        repeats: int,
        blocks: int,
        operations: tuple[str, ...],
        combinations: tuple[str, ...] = (ADD,),
        joins: bool = False,
        single: bool = False,
    ) -> None:
        self.channels, self.repeats, self.blocks = channels, repeats, blocks
        self.block_operations, self.combinations, self.joins = operations, combinations, joins
        self.single = single
        self.cell_kinds = ("cell",) if single else ("normal", "reduce")
        decisions = list[Decision]()
        for kind in self.cell_kinds:
            made = list[int]()
            for block in range(blocks):
                states = tuple(range(INPUTS + block))
                anchors = tuple((made[state - INPUTS],) if state >= INPUTS else () for state in states)
                for which in (1, 2):
                    prefix = f"{kind}.block{block + 1}"
                    decisions += [
                        Decision(f"{prefix}.input{which}", states, anchors),
                        on_edge(f"{prefix}.op{which}", operations),
                    ]
                if len(combinations) > 1:
                    decisions.append(Decision(f"{prefix}.combination", combinations))
                made.append(len(decisions) - 1)
            if joins:
                decisions += [Decision(f"{kind}.join{state}", (0, 1)) for state in range(INPUTS + blocks)]
        self.decisions = tuple(decisions)

    @abstractmethod
    def operation(self, name: str, channels: int, stride: int) -> nn.Module:
        """Return a fresh operation of a block: `[B, channels, H, W]` to the map at its stride."""

    def halved(self, channels: int) -> nn.Module:
        """Return what halves an input that is a part of a reduction cell's output."""
        return self.operation(SKIP, channels, 2)

    def fitted(self, place: Place, state: int) -> nn.Module:
        """Return what fits an input to a cell."""
        return place.preprocessing(state)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each cell, from the image on."""
        normal = ("normal",) * self.repeats
        stage = ("reduce", *normal[1:]) if self.single else ("reduce", *normal)
        return normal + stage + stage

    def encode(self, architecture: Architecture) -> str:
        """Return the blocks of the cells; see `printed`."""
        return printed(self.cells_of(architecture))

    def decode(self, text: str) -> Architecture:
        """Read the blocks of the cells, or a name."""
        if text in self.named:
            return self.named[text]
        cells = parsed(text, self.cell_kinds, self.blocks)
        if cells is None:
            example = " ".join([f"{self.block_operations[-1]}@0+{self.block_operations[0]}@1", "…"])
            form = "; ".join(f"{kind}: {example}" for kind in self.cell_kinds)
            raise self.unreadable(
                text,
                f"{self.blocks} blocks a cell, such as '{form}', each the operation and the state that it "
                f"sees, twice, of {', '.join(self.block_operations)}",
            )
        return self.architecture_of(cells)

    def cells_of(self, architecture: Architecture) -> dict[str, BlockCell]:
        """Return the cells that an architecture describes."""
        values, found = self.values(self.check(architecture)), dict[str, BlockCell]()
        for kind in self.cell_kinds:
            blocks = []
            for number in range(1, self.blocks + 1):
                prefix = f"{kind}.block{number}"
                first, second = (
                    (str(values[f"{prefix}.op{i}"]), int(values[f"{prefix}.input{i}"])) for i in (1, 2)
                )
                blocks.append(Block(first, second, str(values.get(f"{prefix}.combination", ADD))))
            states = range(INPUTS + self.blocks) if self.joins else ()
            joined = tuple(state for state in states if values[f"{kind}.join{state}"])
            found[kind] = BlockCell(tuple(blocks), joined)
        return found

    def architecture_of(self, cells: Cells) -> Architecture:
        """Return the architecture with these cells.

        Raises:
            ConfigError: the space has none.
        """
        chosen = dict[str, str | int]()
        for kind, cell in cells.items():
            for number, (first, second, combination) in enumerate(cell.blocks, 1):
                prefix = f"{kind}.block{number}"
                for i, (name, state) in enumerate((first, second), 1):
                    chosen |= {f"{prefix}.input{i}": state, f"{prefix}.op{i}": name}
                if len(self.combinations) > 1 or combination != self.combinations[0]:
                    chosen[f"{prefix}.combination"] = combination
            if self.joins:
                states = range(INPUTS + self.blocks)
                chosen |= {f"{kind}.join{state}": int(state in cell.joined) for state in states}
            if set(cell.joined) - set(range(INPUTS + self.blocks) if self.joins else ()):
                raise ConfigError(
                    f"The {kind} cell joins the states {', '.join(map(str, cell.joined))} to its output"
                    + (f"; it has {INPUTS + self.blocks}." if self.joins else "; space.joins is false.")
                )
        return self.choosing(chosen)

    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        """Return the network's cells in a row, and each kind of cell."""
        cells = self.cells_of(architecture)
        row = chained("network, each cell fed by the two before it", self._row())
        return (row, *(self._drawn(kind, cell) for kind, cell in cells.items()))

    def _row(self) -> Iterator[Vertex]:
        yield Vertex("image")
        yield Vertex("conv 3×3", f"{STEM * self.channels} channels")
        channels = self.channels
        for kind, run in groupby(self.kinds):
            count = len(list(run))
            channels *= 2 if kind == "reduce" else 1
            name = f"{self.cell_kinds[0]} /2" if self.single and kind == "reduce" else kind
            yield Vertex(f"{count} × {name}" if count > 1 else name, f"{channels} channels a block")
        yield Vertex("average")

    def _drawn(self, kind: str, cell: BlockCell) -> Graph:
        last = INPUTS + self.blocks
        names = [
            f"block {number}" + (" (concat)" if block.combination == CONCAT else "")
            for number, block in enumerate(cell.blocks, 1)
        ]
        edges = [
            Edge(state, INPUTS + number, name)
            for number, block in enumerate(cell.blocks)
            for name, state in (block.first, block.second)
        ]
        note = "; operations on its inputs halve the map" if kind == "reduce" else ""
        shown = drawn(
            f"{kind}{'' if self.single else ' cell'}{note}", ("c_{k-2}", "c_{k-1}", *names, "c_{k}"), edges
        )
        joined = (Arrow(state, last) for state in output_states(cell))
        return replace(shown, arrows=(*shown.arrows, *joined))

    def canonical(self, architecture: Architecture) -> str:
        """Return the graphs of the cells that the output depends on."""
        return network_key(self.kinds, self._graphs(architecture))

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse tasks whose inputs are no images."""
        image_channels(shape, self.name)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network, without cells that no path leads from to the output.

        Raises:
            Infeasible: the inputs are no images.
        """
        in_channels, graphs = image_channels(shape, self.name), self._graphs(architecture)
        live = live_cells(self.kinds, graphs)
        places = self.places({kind: len(g.outputs) for kind, g in graphs.items()})

        width = len(graphs[self.kinds[-1]].outputs) * places[-1].channels
        stack = Stack(
            count_once(self.stem, in_channels),
            {i: count_once(self._cell, graphs[places[i].kind], places[i]) for i in live},
            rectified=True,
        )
        return Backbone(stack, width)

    def _cell(self, g: CellGraph, place: Place) -> GraphCell:
        return GraphCell(
            g,
            (count_once(self.fitted, place, i) if i in g.reads else nn.Identity() for i in range(INPUTS)),
            (count_once(self._step, step.operation, place.channels, step.stride) for step in g.steps),
        )

    def _step(self, name: str, channels: int, stride: int) -> nn.Module:
        match name:
            case "half":
                return nn.Identity()
            case "joined":
                return relu_conv_bn(2 * channels, channels, 1)
            case "halve":
                return self.halved(channels)
        return self.operation(name, channels, stride)

    def stem(self, in_channels: int) -> nn.Sequential:
        """Return what stands for the two cells before the first: an image to `[B, 3C, H, W]`."""
        width = STEM * self.channels
        return nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def places(self, parts: Mapping[str, int]) -> list[Place]:
        """Return the place of each cell.

        Args:
            parts: by kind, how many times C the channels of a cell's output are.
        """
        channels, widths, found = self.channels, [STEM * self.channels] * INPUTS, list[Place]()
        for i, kind in enumerate(self.kinds):
            channels *= 2 if kind == "reduce" else 1
            halve = i > 0 and self.kinds[i - 1] == "reduce"
            found.append(Place(kind, channels, (widths[-2], widths[-1]), halve))
            widths.append(parts[kind] * channels)
        return found

    def _graphs(self, architecture: Architecture) -> dict[str, CellGraph]:
        cells = self.cells_of(architecture)
        both = {kind: cells[kind if not self.single else "cell"] for kind in ("normal", "reduce")}
        return {
            kind: graph(cell, self.block_operations, reduction=kind == "reduce")
            for kind, cell in both.items()
        }
