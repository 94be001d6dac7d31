"""The supernet of ENAS's macro space: every operation of every layer, and every skip connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, final

from torch import Tensor, nn

from nas.space import Architecture
from nas.supernet import Mixture
from search_spaces.enas_macro_layers import OPERATIONS, Join, MacroNetwork, fresh, halved, operation
from search_spaces.mixed.mixing import DirectSupernet, nonzero, of_the_batch
from search_spaces.mixed.source import Source
from search_spaces.mixed.weighted_sum import weighted_sum
from search_spaces.operations import Backbone

if TYPE_CHECKING:
    from search_spaces.enas_macro import EnasMacro


@final
class EnasMacroSupernet(DirectSupernet):
    """Every operation of each layer, and every skip connection; its decisions are the space's.

    A skip connection is weighed by the weight that it is taken with. The batch norms of the operations have
    neither scale nor shift, those of the stem, of joins and of reductions do.

    Args:
        space: whose layers these are.
        in_channels: of the images.
    """

    space: EnasMacro

    def __init__(self, space: EnasMacro, in_channels: int) -> None:
        super().__init__(space)
        body = fresh(
            space.stem(in_channels),
            [tuple(range(layer)) for layer in range(space.layers)],
            space.widths,
            space.reductions,
            lambda layer, channels: nn.ModuleDict({name: operation(name, channels) for name in OPERATIONS}),
        )
        for layer in body.layers:
            of_the_batch(layer, affine=False)
        for part in (body.stem, body.joins, body.halvings):
            of_the_batch(part)
        self.body = body
        self.out_features = space.widths[-1]

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Return the features of a batch; see `Supernet`."""
        kept = nonzero(mixture, self.decisions)
        at = [layer + layer * (layer - 1) // 2 for layer in range(self.space.layers)]
        skips = [
            [source for source in range(layer) if 1 in kept[start + 1 + source]]
            for layer, start in enumerate(at)
        ]

        def apply(layer: int, module: nn.Module, y: Tensor) -> Tensor:
            assert isinstance(module, nn.ModuleDict)
            own = [(module[OPERATIONS[i]], mixture[at[layer]][i]) for i in kept[at[layer]]]
            source = Source(y, (operation for operation, _ in own))
            terms = [term for operation, weight in own for term in source.through(operation, weight)]
            return weighted_sum(terms) if terms else y * 0

        def join(layer: int, module: nn.Module, y: Tensor, maps: Mapping[int, Tensor]) -> Tensor:
            weights = {skip: mixture[at[layer] + 1 + skip][1] for skip in maps}
            joined: Tensor = module(y, maps, weights)
            return joined

        return self.body.walk(x, skips, apply, join)

    def extract(self, architecture: Architecture) -> nn.Module:
        """Return one architecture's network."""
        layers = self.space.layers_of(architecture)
        skips: Sequence[Sequence[int]] = [own for _, own in layers]
        chosen, joins = list[nn.Module](), list[nn.Module]()
        for number, (own, (name, _)) in enumerate(zip(self.body.layers, layers, strict=True)):
            assert isinstance(own, nn.ModuleDict)
            chosen.append(own[name])
            if number:
                full = self.body.joins[number - 1]
                assert isinstance(full, Join)
                joins.append(full.only(skips[number]))
        halvings = {
            (value, end): self.body.halvings[f"{value}_{end}"]
            for value, end in halved(skips, self.space.reductions)
        }
        network = MacroNetwork(self.body.stem, chosen, joins, halvings, skips)
        return Backbone(network, self.out_features)
