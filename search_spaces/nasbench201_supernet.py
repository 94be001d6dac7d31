"""The supernet of NAS-Bench-201: every operation on every edge of every cell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.space import Architecture
from nas.supernet import Mixture
from search_spaces import cells
from search_spaces.mixed.cell import MixedCell
from search_spaces.mixed.mixing import DirectSupernet, nonzero, of_the_batch
from search_spaces.nasbench201_cells import OPERATIONS, PAIRS, Cell, edges_of, operation, prune
from search_spaces.operations import Backbone


def mixed_cell(channels: int) -> MixedCell:
    """Return a cell of every operation on every edge: `[B, channels, H, W]` to the same shape."""
    return MixedCell(PAIRS, OPERATIONS, lambda name: operation(name, channels))


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
        kept = nonzero(mixture, self.decisions)
        edges = prune(cells.edges_of(PAIRS, [[OPERATIONS[i] for i in own] for own in kept]))
        weights = [own.unbind() for own in mixture]
        for module in self.body:
            x = module(x, weights, edges) if isinstance(module, MixedCell) else module(x)
        return x

    def extract(self, architecture: Architecture) -> nn.Module:
        """Return one cell's network, without dead edges."""
        choices = self.space.check(architecture).choices
        edges = prune(edges_of([OPERATIONS[choice] for choice in choices]))
        parts = (Cell(edges, map(m.operation, edges)) if isinstance(m, MixedCell) else m for m in self.body)
        return Backbone(nn.Sequential(*parts), self.out_features)
