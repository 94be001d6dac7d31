"""The macro space of ENAS (Pham et al., ICML 2018, §2.3): layers of one operation, and skip connections."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, NamedTuple, final

from pydantic import Field
from torch import nn

from nas.backbone import BackboneSpace
from nas.counting import count_once
from nas.drawing.graph import Arrow, Graph, Vertex
from nas.space import Architecture, Decision, TaskShape
from nas.supernet import Supernet
from search_spaces.enas_macro_layers import OPERATIONS, fresh, operation
from search_spaces.enas_macro_supernet import EnasMacroSupernet
from search_spaces.operations import Backbone, image_channels

_LAYER = re.compile(r"(\w+)(?:@(\d{1,2}(?:\+\d{1,2})*))?", re.ASCII)


class MacroLayer(NamedTuple):
    """An operation on the layer before, and earlier values that are joined to it; 0 is the stem."""

    operation: str
    skips: tuple[int, ...] = ()


@final
class EnasMacro(BackboneSpace):
    """A chain of layers; each may also see any earlier layer but the one before, or the stem.

    A layer applies one of six operations to the layer before it, behind a 1×1 convolution. What it skips to
    and what its operation brings pass a ReLU and a 1×1 convolution together, and batch norm. After a third
    and two thirds of the layers a factorized reduction halves every map that is still read and doubles its
    channels. The mean of the last map is the output. The paper's networks have 12 layers.

    A layer is written as its operation and the values that it skips to, numbered from 1, the stem as 0:
    `conv_3x3 sep_conv_5x5@0 max_pool_3x3@0+1`. No two of them are one network, so that the text is the key.
    """

    name: ClassVar[str] = "enas_macro"

    def __init__(
        self,
        *,
        channels: Annotated[int, Field(ge=2, description="channels C of the first third of the layers")] = 8,
        layers: Annotated[int, Field(ge=3, le=24, description="layers")] = 12,
    ) -> None:
        self.channels, self.layers = channels, layers
        decisions, made = list[Decision](), list[int]()
        for layer in range(1, layers + 1):
            decisions.append(Decision(f"layer{layer}.op", OPERATIONS))
            made.append(len(decisions) - 1)
            decisions += [
                Decision(f"layer{layer}.skip{source}", (0, 1), ((), (made[source - 1],) if source else ()))
                for source in range(layer - 1)
            ]
        self.decisions = tuple(decisions)

    def encode(self, architecture: Architecture) -> str:
        """Return the layers, such as `conv_3x3 sep_conv_5x5@0 max_pool_3x3@0+1`."""
        return " ".join(
            name + ("@" + "+".join(map(str, skips)) if skips else "")
            for name, skips in self.layers_of(architecture)
        )

    def decode(self, text: str) -> Architecture:
        """Read the layers."""
        matches = [_LAYER.fullmatch(part) for part in text.split(" ")]
        if len(matches) != self.layers or None in matches:
            example = "conv_3x3 sep_conv_5x5@0 max_pool_3x3@0+1"
            raise self.unreadable(
                text,
                f"{self.layers} layers such as '{example}', each of {', '.join(OPERATIONS)} and the values "
                "that it skips to",
            )
        chosen = dict[str, str | int]()
        for layer, match in enumerate((match for match in matches if match), 1):
            skips = {int(source) for source in match[2].split("+")} if match[2] else set()
            chosen[f"layer{layer}.op"] = match[1]
            sources = {*range(layer - 1), *skips}
            chosen |= {f"layer{layer}.skip{source}": int(source in skips) for source in sorted(sources)}
        return self.choosing(chosen)

    def layers_of(self, architecture: Architecture) -> list[MacroLayer]:
        """Return the layers that an architecture describes."""
        values = self.values(self.check(architecture))
        return [
            MacroLayer(
                str(values[f"layer{layer}.op"]),
                tuple(source for source in range(layer - 1) if values[f"layer{layer}.skip{source}"]),
            )
            for layer in range(1, self.layers + 1)
        ]

    def canonical(self, architecture: Architecture) -> str:
        """Return the text."""
        return self.encode(architecture)

    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        """Return the layers and what they skip to."""
        vertices, arrows = [Vertex("image"), Vertex("conv 3×3", f"{self.channels} channels")], [Arrow(0, 1)]
        for number, (name, skips) in enumerate(self.layers_of(architecture), 1):
            half = " /2" if number - 1 in self.reductions else ""
            vertices.append(Vertex(f"{number}{half}", f"{self.widths[number]} channels"))
            arrows += [Arrow(number, number + 1, name), *(Arrow(s + 1, number + 1) for s in skips)]
        last = len(vertices)
        return (Graph("network", (*vertices, Vertex("average")), (*arrows, Arrow(last - 1, last))),)

    @property
    def reductions(self) -> tuple[int, int]:
        """The layers, numbered from 1, after which maps are halved."""
        third = self.layers // 3
        return third, 2 * third

    @property
    def widths(self) -> list[int]:
        """Channels of each layer, the stem first."""
        doubled = (sum(end < value for end in self.reductions) for value in range(self.layers + 1))
        return [self.channels * 2**times for times in doubled]

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse tasks whose inputs are no images."""
        image_channels(shape, self.name)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network.

        Raises:
            Infeasible: the inputs are no images.
        """
        in_channels, layers = image_channels(shape, self.name), self.layers_of(architecture)
        network = fresh(
            count_once(self.stem, in_channels),
            [skips for _, skips in layers],
            self.widths,
            self.reductions,
            lambda layer, channels: count_once(operation, layers[layer].operation, channels),
        )
        return Backbone(network, self.widths[-1])

    def stem(self, in_channels: int) -> nn.Sequential:
        """Return what the first layer sees: `[B, in_channels, H, W]` to `[B, C, H, W]`."""
        return nn.Sequential(
            nn.Conv2d(in_channels, self.channels, 3, padding=1, bias=False), nn.BatchNorm2d(self.channels)
        )

    def supernet(self, shape: TaskShape) -> Supernet:
        """Build every architecture at once; see `EnasMacroSupernet`.

        Raises:
            Infeasible: the inputs are no images.
        """
        return EnasMacroSupernet(self, image_channels(shape, self.name))
