"""Convolutional networks with skip connections, layer by layer (Zoph & Le, ICLR 2017, §3.2-3.3)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeAlias, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nas.backbone import BackboneSpace, Published
from nas.drawing.graph import Arrow, Graph, Vertex
from nas.errors import ConfigError
from nas.space import Architecture, Decision, TaskShape
from search_spaces.isomorphism import canonical_order, form
from search_spaces.operations import MaxPool, conv_bn_relu, image_channels

FIELDS = {"height": "kernels", "width": "kernels", "stride": "strides", "channels": "channels"}
"""What is chosen of each layer, and the setting that gives the choices."""

Downsample: TypeAlias = Annotated[
    Literal["stride", "pool"],
    Field(description="what shrinks a map: the convolution's own stride, or max-pooling after it"),
]

Readout: TypeAlias = Annotated[
    Literal["average", "flatten"],
    Field(
        description="what is kept of the last maps: the average of each channel, or every pixel; they differ "
        "where a map is larger than 1 × 1"
    ),
]

Numbers = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]

_NUMBER = "[1-9][0-9]{0,8}"
_LAYER = re.compile(f"({_NUMBER})x({_NUMBER})/({_NUMBER}):({_NUMBER})(?:@({_NUMBER}(?:[+]{_NUMBER})*))?")


class Layer(NamedTuple):
    """A convolution and the layers that feed it, counted from 0; none: it sees the image."""

    shape: tuple[int, ...]
    """Kernel height, kernel width, stride, channels."""
    sources: tuple[int, ...]


_MAML = ("maml", "anil", "meta_sgd", "reptile", "pretrain")
_COMPARING = ("prototypical", "matching")

PUBLISHED = {
    "conv4": Published(
        "conv4",
        {"downsample": "stride", "readout": "average"},
        "strides and averaged maps, of Finn et al. (2017) on Omniglot",
        _MAML,
        28,
    ),
    "conv4_pool": Published(
        "conv4",
        {"downsample": "pool", "readout": "flatten"},
        "max-pooling and flattened maps, of Vinyals et al. (2016) and Snell et al. (2017)",
        _COMPARING,
        28,
    ),
    "conv4_pool32": Published(
        "3x3/2:32,3x3/2:32@1,3x3/2:32@2,3x3/2:32@3",
        {"downsample": "pool", "readout": "flatten"},
        "max-pooling, 32 channels and flattened maps, of Finn et al. (2017) on miniImageNet",
        _MAML,
        84,
    ),
}


@final
class Chain(BackboneSpace):
    """Layers of convolution, batch norm and ReLU, each fed by any of those before it.

    A layer of stride s shrinks its map s times: by a convolution of that stride (rounded up), or with
    `downsample` "pool" by max-pooling over s × s pixels (rounded down; a smaller map is pooled whole).

    A layer without a source sees the image. The maps of several sources are concatenated, small ones padded
    with zeros to the largest. Layers that feed no other are the ends: each is averaged over its own map, and
    the means are concatenated. With `readout` "flatten" every pixel of each end is a feature.

    The text form writes a layer as `height x width / stride : channels @ sources`, layers counted from 1:
    `3x3/2:64,3x3/2:64@1,1x5/1:32@1+2`. The canonical key is the text of a renumbering that depends on the
    network alone: equal keys if and only if isomorphic. On maps of a single pixel a stride has no effect, so
    that networks with different keys may compute the same there.
    """

    name: ClassVar[str] = "chain"
    published: ClassVar[Mapping[str, Published]] = PUBLISHED

    def __init__(
        self,
        *,
        layers: Annotated[int, Field(ge=1, le=16, description="number of layers")] = 4,
        kernels: Annotated[Numbers, Field(description="kernel heights and widths")] = (1, 3, 5),
        strides: Annotated[Numbers, Field(description="strides")] = (1, 2),
        channels: Annotated[Numbers, Field(description="numbers of channels")] = (16, 32, 64),
        downsample: Downsample = "stride",
        readout: Readout = "average",
    ) -> None:
        settings = {"kernels": kernels, "strides": strides, "channels": channels}
        for setting, choices in settings.items():
            if len(set(choices)) < len(choices):
                raise ConfigError(f"space.{setting}: a choice is given twice (given: {list(choices)})")
        self._choices = {field: tuple(settings[setting]) for field, setting in FIELDS.items()}
        self._layers = layers
        self._downsample: Downsample = downsample
        self._flatten = readout == "flatten"
        decisions: list[Decision] = []
        last: list[int] = []
        for layer in range(1, layers + 1):
            decisions += [
                Decision(f"layer{layer}.{field}", chosen) for field, chosen in self._choices.items()
            ]
            decisions += [
                Decision(f"layer{layer}.from{source}", (0, 1), ((), (anchor,)))
                for source, anchor in enumerate(last, 1)
            ]
            last.append(len(decisions) - 1)
        self.decisions = tuple(decisions)

    @property
    def named(self) -> Mapping[str, Architecture]:
        """`conv4`: four 3×3 convolutions of stride 2, 64 channels each (Finn et al. 2017, §5.2).

        With `downsample` "pool" and `readout` "flatten" it is `conv4_pool` of `published`: the same weights,
        3.7 times the multiplications on images of 28 × 28.
        """
        conv4 = [Layer((3, 3, 2, 64), (layer - 1,) if layer else ()) for layer in range(4)]
        try:
            return {"conv4": self.architecture_of(conv4)}
        except ConfigError:
            return {}

    def encode(self, architecture: Architecture) -> str:
        """Return the layers, such as `3x3/2:64,3x3/2:64@1,1x5/1:32@1+2`."""
        return _text(self.layers_of(architecture))

    def decode(self, text: str) -> Architecture:
        """Read layers or a name."""
        if text in self.named:
            return self.named[text]
        layers = []
        for part in text.split(","):
            match = _LAYER.fullmatch(part)
            if match is None:
                example = "3x3/2:64,3x3/2:64@1 (height x width / stride : channels @ sources)"
                raise self.unreadable(text, f"{self._layers} layers such as {example}")
            *shape, sources = match.groups()
            numbers = tuple(int(source) - 1 for source in sources.split("+")) if sources else ()
            layers.append(Layer(tuple(map(int, shape)), numbers))
        return self.architecture_of(layers)

    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        """Return the layers with their kernel, stride and channels, and what the features are made of."""
        layers = self.layers_of(architecture)
        vertices = [
            Vertex(
                f"{number}: {height}×{width}" + (f" /{stride}" if stride > 1 else ""), f"{channels} channels"
            )
            for number, ((height, width, stride, channels), _) in enumerate(layers, 1)
        ]
        arrows = [
            Arrow(source + 1, place)
            for place, layer in enumerate(layers, 1)
            for source in (layer.sources or (-1,))
        ]
        last = Vertex("flatten" if self._flatten else "average")
        into = (Arrow(end + 1, len(layers) + 1) for end in _ends([layer.sources for layer in layers]))
        return (Graph("network", (Vertex("image"), *vertices, last), (*arrows, *into)),)

    def canonical(self, architecture: Architecture) -> str:
        """Return the text of the network with its layers renumbered."""
        return _text(self._renumbered(architecture))

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse tasks whose inputs are no images."""
        image_channels(shape, self.name)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network in canonical order: under one seed isomorphic encodings get equal weights.

        Raises:
            Infeasible: the inputs are no images.
        """
        layers, channels = self._renumbered(architecture), image_channels(shape, self.name)
        return ChainNetwork(layers, channels, self._downsample, shape.input[1:] if self._flatten else None)

    def _renumbered(self, architecture: Architecture) -> list[Layer]:
        shapes, sources = zip(*self.layers_of(architecture), strict=True)
        order = canonical_order(shapes, sources)
        return [Layer(*vertex) for vertex in form(order, shapes, sources)]

    def layers_of(self, architecture: Architecture) -> list[Layer]:
        """Return the layers that an architecture describes."""
        values = self.values(self.check(architecture))
        return [
            Layer(
                tuple(int(values[f"layer{layer}.{field}"]) for field in FIELDS),
                tuple(s - 1 for s in range(1, layer) if values[f"layer{layer}.from{s}"]),
            )
            for layer in range(1, self._layers + 1)
        ]

    def architecture_of(self, layers: Sequence[Layer]) -> Architecture:
        """Return the architecture with these layers.

        Raises:
            ConfigError: the space has none.
        """
        if len(layers) != self._layers:
            raise ConfigError(f"{len(layers)} layers where setting `space.layers` asks for {self._layers}.")
        choices: list[int] = []
        for number, layer in enumerate(layers, 1):
            for (field, allowed), value in zip(self._choices.items(), layer.shape, strict=True):
                if value not in allowed:
                    raise ConfigError(
                        f"Layer {number} has {field} {value}; setting `space.{FIELDS[field]}` allows "
                        f"{', '.join(map(str, allowed))}."
                    )
                choices.append(allowed.index(value))
            if list(layer.sources) != sorted(set(layer.sources) & set(range(number - 1))):
                raise ConfigError(
                    f"The sources of layer {number} must be layers before it, ascending and each once."
                )
            choices += [int(source in layer.sources) for source in range(number - 1)]
        return Architecture(self.name, tuple(choices))


def _text(layers: Sequence[Layer]) -> str:
    parts = []
    for (height, width, stride, channels), sources in layers:
        fed = "@" + "+".join(str(source + 1) for source in sources) if sources else ""
        parts.append(f"{height}x{width}/{stride}:{channels}{fed}")
    return ",".join(parts)


@final
class ChainNetwork(nn.Module):
    """Wired layers: `[B, in_channels, H, W]` to `[B, out_features]`.

    Args:
        layers: with their sources before them.
        in_channels: of the images.
        downsample: what shrinks a map.
        image: height and width of the images, if each pixel of the last maps is a feature; None: each
            channel's average is.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        in_channels: int,
        downsample: Downsample,
        image: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.sources = tuple(layer.sources for layer in layers)
        self.ends = _ends(self.sources)
        widths = [layer.shape[-1] for layer in layers]
        sizes = None if image is None else _sizes(layers, image, downsample)
        self.flatten = sizes is not None
        self.out_features = sum(widths[end] * (math.prod(sizes[end]) if sizes else 1) for end in self.ends)
        self.layers = nn.ModuleList()
        for (height, width, stride, channels), sources in layers:
            fan_in = sum(widths[source] for source in sources) if sources else in_channels
            striding = stride if downsample == "stride" else 1
            layer = conv_bn_relu(fan_in, channels, (height, width), striding)
            if striding < stride:
                layer.append(MaxPool(stride))
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a batch."""
        maps: list[Tensor] = []
        for layer, sources in zip(self.layers, self.sources, strict=True):
            maps.append(layer(join([maps[source] for source in sources]) if sources else x))
        ends = [maps[end] for end in self.ends]
        return torch.cat([end.flatten(1) if self.flatten else end.mean((2, 3)) for end in ends], 1)


def _ends(sources: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the layers that feed no other."""
    return tuple(sorted(set(range(len(sources))).difference(*sources)))


def _sizes(layers: Sequence[Layer], image: Sequence[int], downsample: Downsample) -> list[tuple[int, int]]:
    """Return the height and width of each layer's map."""
    found: list[tuple[int, int]] = []
    for (height, width, stride, _), sources in layers:
        sides = []
        for axis, kernel in enumerate((height, width)):
            side = max((found[source][axis] for source in sources), default=image[axis])
            padded = side + 2 * (kernel // 2) - kernel
            sides.append(padded // stride + 1 if downsample == "stride" else max(1, (padded + 1) // stride))
        found.append((sides[0], sides[1]))
    return found


def join(maps: Sequence[Tensor]) -> Tensor:
    """Concatenate maps `[B, C, H, W]`, padded with zeros at the bottom and right to the largest H and W."""
    height, width = (max(m.shape[axis] for m in maps) for axis in (2, 3))
    return torch.cat([F.pad(m, (0, width - m.shape[3], 0, height - m.shape[2])) for m in maps], 1)
