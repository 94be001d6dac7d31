"""The supernet of NAS-Bench-201: every operation on every edge of every cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.space import Architecture
from nas.supernet import Mixture
from search_spaces.cells import NODES, OPERATIONS, PAIRS, Cell, Edge, edges_of, operation, prune
from search_spaces.mixed.mixing import DirectSupernet, nonzero, of_the_batch
from search_spaces.mixed.pointwise import Convolved
from search_spaces.mixed.source import Source
from search_spaces.mixed.weighted_sum import Plain, weighted_sum
from search_spaces.operations import Backbone

_CONVOLUTIONS = tuple(name for name in OPERATIONS if "conv" in name)


@final
class MixedCell(nn.Module):
    """A cell whose edges are weighted sums of all operations: `[B, C, H, W]` to the same shape.

    Each edge has a convolution of its own of each kind; ReLU and pooling see a node once, for all its edges.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            nn.ModuleDict(
                {name: of_the_batch(operation(name, channels), affine=False) for name in _CONVOLUTIONS}
            )
            for _ in PAIRS
        )
        self.pool = operation("avg_pool_3x3", channels)

    def forward(self, x: Tensor, mixture: Sequence[Sequence[Tensor]], edges: Sequence[Edge]) -> Tensor:
        """Return the output node.

        Args:
            x: the input node.
            mixture: weights of the operations, edge by edge.
            edges: the operations to compute, without dead ones.
        """
        nodes = {0: Source(x)}
        for node in range(1, NODES):
            parts = [self._terms(nodes[edge.source], edge, mixture) for edge in edges if edge.node == node]
            if parts:
                nodes[node] = Source(weighted_sum([term for part in parts for term in part]))
        return nodes[NODES - 1].x if NODES - 1 in nodes else torch.zeros_like(x)

    def _terms(
        self, source: Source, edge: Edge, mixture: Sequence[Sequence[Tensor]]
    ) -> Sequence[Convolved | Plain]:
        """Return what an edge adds to its node."""
        weight = mixture[PAIRS.index(edge[:2])][OPERATIONS.index(edge.operation)]
        if edge.operation == "avg_pool_3x3":
            return [Plain(source.pooled(edge.operation, self.pool), weight)]
        return source.through(self._module(edge), weight)

    def extract(self, edges: Sequence[Edge]) -> Cell:
        """Return the cell of some edges, with this one's convolutions."""
        return Cell(edges, [self._module(edge) for edge in edges])

    def _module(self, edge: Edge) -> nn.Module:
        if edge.operation in _CONVOLUTIONS:
            own: Any = self.edges[PAIRS.index(edge[:2])]
            module: nn.Module = own[edge.operation]
            return module
        return self.pool if edge.operation == "avg_pool_3x3" else nn.Identity()


@final
class NasBench201Supernet(DirectSupernet):
    """Every cell of NAS-Bench-201 at once; its decisions are the space's.

    The batch norms of the mixed operations have neither scale nor shift, those of stem, reductions and output
    do. So edges that carry nothing add nothing, and architectures that differ in dead edges alone compute the
    same. An architecture is the cell that its string describes, not the representative of its group: a
    convolution used twice is one convolution here.

    Args:
        space: whose decisions are mixed.
        body: the network, `MixedCell`s among its modules.
        out_features: width of the output.
    """

    def __init__(self, space: BackboneSpace, body: Iterable[nn.Module], out_features: int) -> None:
        super().__init__(space)
        self.body = nn.ModuleList(
            module if isinstance(module, MixedCell) else of_the_batch(module) for module in body
        )
        self.out_features = out_features

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Return the features of a batch; see `Supernet`."""
        pairs = zip(PAIRS, nonzero(mixture, self.decisions), strict=True)
        edges = prune([Edge(*p, OPERATIONS[k]) for p, kept in pairs for k in kept if OPERATIONS[k] != "none"])
        weights = [own.unbind() for own in mixture]
        for module in self.body:
            x = module(x, weights, edges) if isinstance(module, MixedCell) else module(x)
        return x

    def extract(self, architecture: Architecture) -> nn.Module:
        """Return one cell's network, without dead edges."""
        choices = self.space.check(architecture).choices
        edges = prune(edges_of([OPERATIONS[choice] for choice in choices]))
        parts = (m.extract(edges) if isinstance(m, MixedCell) else m for m in self.body)
        return Backbone(nn.Sequential(*parts), self.out_features)
