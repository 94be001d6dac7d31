"""The supernet of the few-shot space: every beginning of each stage, every operation on each edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from nas.space import Architecture
from nas.supernet import Mixture
from search_spaces.few_shot_cells import (
    DOWN,
    OPERATIONS,
    PAIRS,
    WEIGHTLESS,
    FewShotCell,
    down,
    operation,
    routes,
)
from search_spaces.mixed.mixing import DirectSupernet, nonzero, of_the_batch
from search_spaces.mixed.pointwise import Convolved
from search_spaces.mixed.source import Source
from search_spaces.mixed.weighted_sum import Plain, weighted_sum
from search_spaces.operations import Backbone

if TYPE_CHECKING:
    from search_spaces.few_shot import FewShot


@final
class MixedDown(nn.Module):
    """The beginning of a stage as a weighted sum of all: `[B, C, H, W]` to `[B, out, ⌈H/2⌉, ⌈W/2⌉]`."""

    def __init__(self, channels: int, out_channels: int, *, first: bool) -> None:
        super().__init__()
        self.choices = nn.ModuleDict(
            {
                name: of_the_batch(down(name, channels, out_channels, first=first), affine=False)
                for name in DOWN
            }
        )

    def forward(self, x: Tensor, weights: Sequence[Tensor], kept: Sequence[int]) -> Tensor:
        """Return the sum over the choices that are kept; zero, if there is none."""
        if not kept:
            return torch.zeros_like(self.choices[DOWN[0]](x))
        return weighted_sum([Plain(self.choices[DOWN[i]](x), weights[i]) for i in kept])


@final
class MixedFewShotCell(nn.Module):
    """A cell whose edges are weighted sums of all operations: `[B, C, H, W]` to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: of_the_batch(operation(name, channels), affine=False)
                    for name in OPERATIONS
                    if name not in WEIGHTLESS
                }
            )
            for _ in PAIRS
        )
        self.pool = operation("avg_pool_3x3", channels)

    def forward(
        self, x: Tensor, weights: Sequence[Sequence[Tensor]], kept: Sequence[Sequence[int]]
    ) -> Tensor:
        """Return the output node, zero if no path leads to it."""
        live = [[OPERATIONS[i] for i in own if OPERATIONS[i] != "none"] for own in kept]
        if not (live[0] and live[2]):
            live[0] = live[2] = []
        nodes = {0: Source(x, self._leaving(0, live))}
        for node in (1, 2):
            edges = [(i, source) for i, (source, end) in enumerate(PAIRS) if end == node]
            terms = [
                term
                for i, source in edges
                for name in live[i]
                for term in self._terms(nodes[source], i, name, weights[i][OPERATIONS.index(name)])
            ]
            if terms:
                nodes[node] = Source(weighted_sum(terms), self._leaving(node, live))
        return nodes[2].x if 2 in nodes else torch.zeros_like(x)

    def _leaving(self, node: int, live: Sequence[Sequence[str]]) -> list[nn.Module]:
        """Return the operations with weights that leave a node."""
        leaving = [(i, own) for i, own in enumerate(live) if PAIRS[i][0] == node]
        return [self.module(i, name) for i, own in leaving for name in own if name not in WEIGHTLESS]

    def _terms(self, source: Source, edge: int, name: str, weight: Tensor) -> Sequence[Convolved | Plain]:
        if name == "avg_pool_3x3":
            return [Plain(source.pooled(name, self.pool), weight)]
        return source.through(self.module(edge, name), weight)

    def module(self, edge: int, name: str) -> nn.Module:
        """Return an edge's operation."""
        if name == "avg_pool_3x3":
            return self.pool
        if name == "skip_connect":
            return nn.Identity()
        own: Any = self.edges[edge]
        module: nn.Module = own[name]
        return module

    def extract(self, operations: Sequence[str]) -> FewShotCell:
        """Return the cell with one operation an edge and this one's weights; it must not be zero.

        Unlike `paths`, it keeps a path that comes twice, as the mixed cell adds it twice.
        """
        return FewShotCell(
            nn.Sequential(*(self.module(*edge) for edge in route)) for route in routes(operations)
        )


@final
class FewShotSupernet(DirectSupernet):
    """Every architecture of the few-shot space at once; its decisions are the space's.

    The batch norms of mixed operations have neither scale nor shift, the one at the end has both.

    Args:
        space: whose stages these are.
        in_channels: of the images.
    """

    space: FewShot

    def __init__(self, space: FewShot, in_channels: int) -> None:
        super().__init__(space)
        network = space.backbone(
            in_channels,
            lambda stage, *widths: MixedDown(*widths, first=not stage),
            lambda stage, width: MixedFewShotCell(width),
        )
        self.out_features = network.out_features
        self.body = of_the_batch(network.body)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Return the features of a batch; see `Supernet`."""
        kept = nonzero(mixture, self.decisions)
        weights, place = [own.unbind() for own in mixture], 0
        for module in self.body.children():
            match module:
                case MixedDown():
                    x, place = module(x, weights[place], kept[place]), place + 1
                case MixedFewShotCell():
                    cell = slice(place, place + len(PAIRS))
                    x, place = module(x, weights[cell], kept[cell]), place + len(PAIRS)
                case _:
                    x = module(x)
        return x

    def extract(self, architecture: Architecture) -> nn.Module:
        """Return one architecture's network, without dead edges.

        Raises:
            Infeasible: a cell is zero whatever its input.
        """
        stages = iter(self.space.feasible_stages_of(architecture))
        modules = list[nn.Module]()
        for module in self.body.children():
            match module:
                case MixedDown():
                    begin, operations = next(stages)
                    modules.append(module.choices[begin])
                case MixedFewShotCell():
                    modules.append(module.extract(operations))
                case _:
                    modules.append(module)
        return Backbone(nn.Sequential(*modules), self.out_features)
