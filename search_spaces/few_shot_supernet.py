"""The supernet of the few-shot space: every beginning of each stage, every operation on each edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from nas.space import Architecture
from nas.supernet import Mixture
from search_spaces import cells
from search_spaces.few_shot_cells import DOWN, NODES, OPERATIONS, PAIRS, FewShotCell, down, operation, routes
from search_spaces.mixed.cell import MixedCell
from search_spaces.mixed.mixing import DirectSupernet, nonzero, of_the_batch
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


def mixed_cell(channels: int) -> MixedCell:
    """Return a cell of every operation on every edge: `[B, channels, H, W]` to the same shape."""
    return MixedCell(PAIRS, OPERATIONS, lambda name: operation(name, channels))


def extracted(cell: MixedCell, operations: Sequence[str]) -> FewShotCell:
    """Return the cell with one operation an edge and a mixed cell's weights; it must not be zero.

    Unlike `paths`, it keeps a path that comes twice, as the mixed cell adds it twice.
    """
    return FewShotCell(nn.Sequential(*map(cell.operation, route)) for route in routes(operations))


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
            lambda stage, width: mixed_cell(width),
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
                case MixedCell():
                    own = slice(place, place + len(PAIRS))
                    carried = cells.edges_of(PAIRS, [[OPERATIONS[i] for i in some] for some in kept[own]])
                    edges = cells.prune(carried, inputs=[0], outputs=[NODES - 1])
                    x, place = module(x, weights[own], edges), own.stop
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
                case MixedCell():
                    modules.append(extracted(module, operations))
                case _:
                    modules.append(module)
        return Backbone(nn.Sequential(*modules), self.out_features)
