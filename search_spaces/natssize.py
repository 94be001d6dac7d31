"""The size space of NATS-Bench (Dong et al., TPAMI 2021): channels of each of five layers of one network."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, final

from pydantic import Field
from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.counting import count_once
from nas.drawing.graph import Graph, Vertex, chained
from nas.errors import ConfigError
from nas.space import Architecture, Decision, TaskShape
from search_spaces.nasbench201 import Reduction
from search_spaces.nasbench201_cells import edges_of, operation
from search_spaces.operations import Backbone, averaged, image_channels, relu_conv_bn

CELL = ("nor_conv_3x3", "nor_conv_3x3", "nor_conv_3x3", "skip_connect", "nor_conv_3x3", "nor_conv_3x3")
"""The operations of its cell, in the order of the edges of NAS-Bench-201: the best cell on CIFAR-100."""

REDUCTIONS = (1, 3)
"""The layers that halve the map, from 0; the others are cells."""

LAYERS = 5

Channels = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]

_TEXT = re.compile(r":".join([r"(\d{1,5})"] * LAYERS), re.ASCII)


@final
class NatsSize(BackboneSpace):
    """One network, of which the channels of each of five layers are chosen: 32,768 with eight choices.

    A 3×3 convolution with the channels of the first layer; a cell, a residual block of stride 2, a cell, such
    a block, a cell; batch norm, ReLU and global average pooling. An architecture is written as its channels,
    `64:64:64:64:64`, which is its key as well.
    """

    name: ClassVar[str] = "natssize"

    def __init__(
        self,
        *,
        channels: Annotated[Channels, Field(description="numbers of channels of a layer")] = tuple(
            range(8, 65, 8)
        ),
    ) -> None:
        if len(set(channels)) < len(channels):
            raise ConfigError(f"space.channels: a choice is given twice (given: {list(channels)})")
        own = tuple(channels)
        self.decisions = tuple(Decision(f"layer{layer}.channels", own) for layer in range(1, LAYERS + 1))

    def encode(self, architecture: Architecture) -> str:
        """Return the channels, such as `64:64:64:64:64`."""
        return ":".join(map(str, self.widths_of(architecture)))

    def decode(self, text: str) -> Architecture:
        """Read the channels."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise self.unreadable(text, f"{LAYERS} numbers of channels such as '{self.encode(self.default)}'")
        return self.choosing(
            {d.name: int(own) for d, own in zip(self.decisions, match.groups(), strict=True)}
        )

    def widths_of(self, architecture: Architecture) -> list[int]:
        """Return the channels of each layer."""
        return [int(width) for width in self.values(self.check(architecture)).values()]

    def canonical(self, architecture: Architecture) -> str:
        """Return the channels."""
        return self.encode(architecture)

    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        """Return the layers in a row."""
        widths = self.widths_of(architecture)
        row = [Vertex("image"), Vertex("conv 3×3", f"{widths[0]} channels")]
        for layer, width in enumerate(widths):
            row.append(Vertex("residual /2" if layer in REDUCTIONS else "cell", f"{width} channels"))
        return (chained("network", (*row, Vertex("average"))),)

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse tasks whose inputs are no images."""
        image_channels(shape, self.name)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network.

        Raises:
            Infeasible: the inputs are no images.
        """
        in_channels, widths = image_channels(shape, self.name), self.widths_of(architecture)
        before = widths[0]
        body: list[nn.Module] = [
            count_once(nn.Conv2d, in_channels, before, 3, padding=1, bias=False),
            count_once(nn.BatchNorm2d, before),
        ]
        for layer, width in enumerate(widths):
            body.append(count_once(Reduction if layer in REDUCTIONS else WideningCell, before, width))
            before = width
        return Backbone(nn.Sequential(*body, *averaged(before)), before)


@final
class WideningCell(nn.Module):
    """The cell: `[B, C, H, W]` to `[B, out, H, W]`; what leaves its input changes the channels.

    An identity that changes them is a 1×1 convolution with batch norm, as in the benchmark's code.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.edges = tuple(edges_of(CELL))
        self.operations = nn.ModuleList(
            self._operation(edge.operation, channels if not edge.source else out_channels, out_channels)
            for edge in self.edges
        )

    @staticmethod
    def _operation(name: str, channels: int, out_channels: int) -> nn.Module:
        if name == "nor_conv_3x3":
            return relu_conv_bn(channels, out_channels, 3)
        if channels == out_channels:
            return operation(name, channels)
        return nn.Sequential(nn.Conv2d(channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output node."""
        nodes: dict[int, Tensor] = {0: x}
        for edge, module in zip(self.edges, self.operations, strict=True):
            y = module(nodes[edge.source])
            nodes[edge.node] = nodes[edge.node] + y if edge.node in nodes else y
        return nodes[self.edges[-1].node]
