"""Hierarchical representations (Liu et al., ICLR 2018): a cell of motifs of operations, on three levels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, final

import numpy as np
from pydantic import Field
from torch import nn

from nas.backbone import BackboneSpace
from nas.counting import count_once
from nas.drawing.graph import Graph, Vertex, chained
from nas.errors import Infeasible
from nas.space import Architecture, Decision, Mutation, Role, TaskShape
from search_spaces.cells import ABSENT, SKIP, Edge, drawn, pairs
from search_spaces.hierarchical_motifs import (
    PRIMITIVES,
    Motif,
    MotifNetwork,
    Plan,
    motif,
    plan_of,
    separable_bn_relu,
    written,
)
from search_spaces.operations import Backbone, conv_bn_relu, image_channels, on_edge

STAGES = 3

_EDGE = re.compile(r"(\w+)~(\d)", re.ASCII)


@final
class Hierarchical(BackboneSpace):
    """A cell whose edges are motifs, whose edges are operations: a graph of graphs.

    A motif is a graph of `nodes` nodes, any two of which one edge may join, with one of six operations; the
    cell is a graph of `cell_nodes` nodes, whose edges are motifs. Each use of a motif has weights of its own.
    A node concatenates what comes in. The paper has six motifs of four nodes and a cell of five.

    The network is a 3×3 convolution, three cells of C, 2C and 4C channels with separable convolutions of
    stride 2 between them, and global average pooling. The paper does not say how channels stay bounded where
    nodes concatenate: here a 1×1 convolution with batch norm and ReLU fits several maps to C channels.

    Its mutation is the paper's: a level, then a motif of it, then an edge, each as likely, take another
    operation of the level below, `none` among them. So an edge is added, altered or removed.

    A motif is written node by node, `|none~0|+|conv_1x1~0|skip_connect~1|+…`, motifs are joined by `/`, the
    cell last. The canonical key is that of the cell's graph and of the motifs that it uses, each up to
    isomorphism, without what computes nothing.
    """

    name: ClassVar[str] = "hierarchical"

    def __init__(
        self,
        *,
        channels: Annotated[int, Field(ge=1, description="channels C of the first cell")] = 8,
        motifs: Annotated[int, Field(ge=1, le=9, description="motifs of operations")] = 6,
        nodes: Annotated[
            int, Field(ge=2, le=6, description="nodes of a motif, input and output among them")
        ] = 4,
        cell_nodes: Annotated[int, Field(ge=2, le=6, description="nodes of the cell, likewise")] = 5,
    ) -> None:
        self.channels, self.motifs, self.nodes, self.cell_nodes = channels, motifs, nodes, cell_nodes
        names = (ABSENT, *(f"motif{number}" for number in range(1, motifs + 1)))
        self.graphs_of = [*names[1:], "cell"]
        self._pairs = {name: pairs(cell_nodes if name == "cell" else nodes) for name in self.graphs_of}
        roles = (Role.ABSENT, *[None] * motifs)
        self.decisions = tuple(
            Decision(f"cell.node{node}.from{source}", names, roles=roles)
            if name == "cell"
            else on_edge(f"{name}.node{node}.from{source}", PRIMITIVES)
            for name in self.graphs_of
            for source, node in self._pairs[name]
        )

    @property
    def default(self) -> Architecture:
        """A chain: the first choices of all decisions are a cell without edges."""
        return self.named["chain"]

    @property
    def named(self) -> Mapping[str, Architecture]:
        """`chain`: in each motif and in the cell one edge after the other, all separable convolutions."""
        values: dict[str, str] = {}
        for name in self.graphs_of:
            along = "motif1" if name == "cell" else "sep_conv_3x3"
            for source, node in self._pairs[name]:
                values[f"{name}.node{node}.from{source}"] = along if node == source + 1 else ABSENT
        return {"chain": self.choosing(values)}

    @property
    def mutations(self) -> Mapping[str, Mutation]:
        """The paper's (§3.1): another operation on an edge of a motif of a level."""
        return {"edge": self._another}

    def _another(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        levels = [self.graphs_of[:-1], self.graphs_of[-1:]]
        level = levels[int(rng.integers(len(levels)))]
        name = level[int(rng.integers(len(level)))]
        own = [i for i, decision in enumerate(self.decisions) if decision.name.startswith(f"{name}.")]
        site = own[int(rng.integers(len(own)))]
        shift = 1 + int(rng.integers(len(self.decisions[site].choices) - 1))
        return self._with(architecture, site, shift)

    def encode(self, architecture: Architecture) -> str:
        """Return the motifs and the cell, joined by `/`."""
        texts = []
        for name, edges in self.edges_of(architecture).items():
            nodes: dict[int, str] = {}
            for (source, node), carried in zip(self._pairs[name], edges, strict=True):
                nodes[node] = nodes.get(node, "|") + f"{carried}~{source}|"
            texts.append("+".join(nodes.values()))
        return "/".join(texts)

    def decode(self, text: str) -> Architecture:
        """Read motifs and a cell, or a name."""
        if text in self.named:
            return self.named[text]
        parts, values = text.split("/"), dict[str, str | int]()
        form = f"{self.motifs} motifs and a cell joined by '/', such as '{self.encode(self.default)}'"
        if len(parts) != len(self.graphs_of):
            raise self.unreadable(text, form)
        for name, part in zip(self.graphs_of, parts, strict=True):
            found = dict[tuple[int, int], str]()
            for node, edges in enumerate(part.split("+"), 1):
                if len(edges) < 2 or edges[0] != "|" or edges[-1] != "|":
                    raise self.unreadable(text, form)
                for edge in edges[1:-1].split("|"):
                    match = _EDGE.fullmatch(edge)
                    if match is None:
                        raise self.unreadable(text, form)
                    found[int(match[2]), node] = match[1]
            if tuple(found) != self._pairs[name]:
                raise self.unreadable(text, form)
            values |= {f"{name}.node{node}.from{source}": own for (source, node), own in found.items()}
        return self.choosing(values)

    def edges_of(self, architecture: Architecture) -> dict[str, Motif]:
        """Return what the edges of each motif and of the cell carry."""
        values = self.values(self.check(architecture))
        return {
            name: tuple(str(values[f"{name}.node{node}.from{source}"]) for source, node in own)
            for name, own in self._pairs.items()
        }

    def plans_of(self, architecture: Architecture) -> tuple[Plan | None, dict[str, Plan]]:
        """Return what the cell computes, None where it is zero, and each motif that it uses."""
        edges = self.edges_of(architecture)
        passed, dropped = frozenset({SKIP}), frozenset({ABSENT})
        plans = {
            name: plan_of(own, self.nodes, passed, dropped) for name, own in edges.items() if name != "cell"
        }
        idle = frozenset(name for name, plan in plans.items() if plan == ())
        zero = frozenset({ABSENT, *(name for name, plan in plans.items() if plan is None)})
        # Motifs that compute the same are one, whatever their numbers.
        first = dict[Plan | None, str]()
        same = {name: first.setdefault(plan, name) for name, plan in plans.items()}
        texts = {name: written(plans[name]) for name in same}
        cell = tuple(texts.get(own, own) if own not in idle | zero else own for own in edges["cell"])
        plan = plan_of(cell, self.cell_nodes, idle, zero)
        used = {step.operation for step in plan or ()}
        return plan, {text: own for name, text in texts.items() if text in used and (own := plans[name])}

    def canonical(self, architecture: Architecture) -> str:
        """Return the cell, its motifs written where it uses them."""
        plan, _ = self.plans_of(architecture)
        if plan is None:
            return "#"
        steps = (f"[{step.operation}]({'+'.join(map(str, step.sources))})" for step in plan)
        return " ".join(steps) or "0"

    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        """Return the network, the cell, and the motifs that it has edges of."""
        row = [Vertex("image"), Vertex("conv 3×3", f"{self.channels} channels")]
        for stage in range(STAGES):
            row += [Vertex("sep conv /2")] * bool(stage)
            row.append(Vertex("cell", f"{self.channels * 2**stage} channels"))
        edges = self.edges_of(architecture)
        used = [name for name in self.graphs_of[:-1] if name in edges["cell"]]
        return (
            chained("network", (*row, Vertex("average"))),
            *(self._drawn(name, edges[name]) for name in ("cell", *used)),
        )

    def _drawn(self, name: str, edges: Motif) -> Graph:
        own = self._pairs[name]
        names = ("input", *(f"node {node}" for node in range(1, own[-1][1])), "output")
        there = (Edge(*pair, carried) for pair, carried in zip(own, edges, strict=True) if carried != ABSENT)
        return drawn(name, names, there)

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse tasks whose inputs are no images."""
        image_channels(shape, self.name)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network.

        Raises:
            Infeasible: the inputs are no images, or the cell is zero whatever its input.
        """
        in_channels = image_channels(shape, self.name)
        plan, motifs = self.plans_of(architecture)
        if plan is None:
            raise Infeasible("The cell is zero: every path from its input to its output meets a 'none'.")

        def cell(width: int) -> nn.Module:
            return MotifNetwork(plan, width, lambda text: count_once(motif, motifs[text], width))

        body: list[nn.Module] = [count_once(conv_bn_relu, in_channels, self.channels, (3, 3), 1)]
        for stage in range(STAGES):
            width = self.channels * 2**stage
            if stage:
                body.append(count_once(separable_bn_relu, width // 2, width, 2))
            body.append(cell(width))
        width = self.channels * 2 ** (STAGES - 1)
        return Backbone(nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width)
