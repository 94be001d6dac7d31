"""Residual networks like ResNet-12 of few-shot learning, of which each stage's channels are chosen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, ClassVar, final

from pydantic import Field
from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.counting import count_once
from nas.drawing.graph import Graph, Vertex, chained
from nas.errors import ConfigError, Infeasible
from nas.space import Architecture, Decision, TaskShape
from search_spaces.operations import Backbone, MaxPool, image_channels

Channels = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]

CONVOLUTIONS = 3
"""Of a block."""

RESNET12 = {4: (64, 128, 256, 512), 3: (64, 128, 256), 2: (64, 128), 1: (64,)}
"""Channels by the number of stages."""


@final
class ResNetLike(BackboneSpace):
    """Stages of one residual block each, of which the channels are chosen.

    A block is three 3×3 convolutions with batch norm and leaky ReLU, parallel to a 1×1 convolution with batch
    norm; leaky ReLU of their sum, and max-pooling over 2×2 pixels. Global average pooling ends the network.
    Four stages are ResNet-12 (Oreshkin et al. 2018; Lee et al. 2019): `resnet12` has 64, 128, 256 and 512
    channels. An architecture is written as its channels, `64-128-256-512`, which is its key as well.
    """

    name: ClassVar[str] = "resnet_like"

    def __init__(
        self,
        *,
        stages: Annotated[int, Field(ge=1, le=6, description="stages, each of which halves the map")] = 3,
        channels: Annotated[Channels, Field(description="numbers of channels of a stage")] = (
            8,
            16,
            32,
            64,
            128,
            256,
        ),
    ) -> None:
        if len(set(channels)) < len(channels):
            raise ConfigError(f"space.channels: a choice is given twice (given: {list(channels)})")
        self.stages = stages
        own = tuple(channels)
        self.decisions = tuple(Decision(f"stage{stage}.channels", own) for stage in range(1, stages + 1))

    @property
    def named(self) -> Mapping[str, Architecture]:
        """`resnet12`: 64 channels in the first stage, doubled by each further one, where allowed."""
        widths = RESNET12.get(self.stages, ())
        if not widths or any(width not in self.decisions[0].choices for width in widths):
            return {}
        return {"resnet12": self._of(widths)}

    def encode(self, architecture: Architecture) -> str:
        """Return the channels, such as `64-128-256`."""
        return "-".join(map(str, self.widths_of(architecture)))

    def decode(self, text: str) -> Architecture:
        """Read the channels, or a name."""
        if text in self.named:
            return self.named[text]
        if not re.fullmatch(r"-".join([r"\d{1,5}"] * self.stages), text, re.ASCII):
            raise self.unreadable(
                text, f"{self.stages} numbers of channels such as '{self.encode(self.default)}'"
            )
        return self._of(tuple(map(int, text.split("-"))))

    def _of(self, widths: tuple[int, ...]) -> Architecture:
        return self.choosing({d.name: own for d, own in zip(self.decisions, widths, strict=True)})

    def widths_of(self, architecture: Architecture) -> list[int]:
        """Return the channels of each stage."""
        return [int(width) for width in self.values(self.check(architecture)).values()]

    def canonical(self, architecture: Architecture) -> str:
        """Return the channels."""
        return self.encode(architecture)

    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        """Return the blocks in a row."""
        blocks = (
            Vertex("residual, max-pool /2", f"{width} channels") for width in self.widths_of(architecture)
        )
        return (chained("network", (Vertex("image"), *blocks, Vertex("average"))),)

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse tasks whose inputs are no images, or too small to be halved so often."""
        image_channels(shape, self.name)
        if min(shape.input[1:]) < 2**self.stages:
            raise Infeasible(
                f"{self.stages} stages of max-pooling take images of at least {2**self.stages} × "
                f"{2**self.stages} pixels; these have {shape.input[1]} × {shape.input[2]}. "
                "Set space.stages lower."
            )

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network.

        Raises:
            Infeasible: the inputs are no images, or too small to be halved so often.
        """
        self.check_shape(shape)
        widths = [image_channels(shape, self.name), *self.widths_of(architecture)]
        blocks = (count_once(ResidualBlock, *pair) for pair in pairwise(widths))
        return Backbone(nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), widths[-1])


@final
class ResidualBlock(nn.Module):
    """A block of ResNet-12: `[B, C, H, W]` to `[B, out, ⌊H/2⌋, ⌊W/2⌋]`."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        layers = list[nn.Module]()
        for number in range(CONVOLUTIONS):
            layers += [nn.LeakyReLU(0.1)] * bool(number)
            before = out_channels if number else channels
            layers += [
                nn.Conv2d(before, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
            ]
        self.residual = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(
            nn.Conv2d(channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.end = nn.Sequential(nn.LeakyReLU(0.1), MaxPool(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map."""
        y: Tensor = self.end(self.residual(x) + self.shortcut(x))
        return y
