"""The layers of ENAS's macro space: operations, what joins skip connections, and the network of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

from torch import Tensor, nn

from nas.counting import count_once
from search_spaces.operations import AveragePool, relu_conv_bn
from search_spaces.separable import FactorizedReduction, relu_separable_bn

OPERATIONS = ("conv_3x3", "sep_conv_3x3", "conv_5x5", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3")
"""In the order of the paper's code."""


def operation(name: str, channels: int) -> nn.Sequential:
    """Return a fresh operation behind a 1×1 convolution: `[B, channels, H, W]` to the same shape."""
    fit, kernel = relu_conv_bn(channels, channels, 1), int(name[-1])
    if name.startswith("conv"):
        return nn.Sequential(*fit, *relu_conv_bn(channels, channels, kernel))
    if name.startswith("sep"):
        return nn.Sequential(*fit, *relu_separable_bn(channels, kernel))
    pool = AveragePool(kernel) if name.startswith("avg") else nn.MaxPool2d(kernel, 1, kernel // 2)
    return nn.Sequential(*fit, pool)


def _mixing(channels: int) -> nn.Conv2d:
    return count_once(nn.Conv2d, channels, channels, 1, bias=False)


@final
class Join(nn.Module):
    """What a layer's operation brings, joined with earlier maps: ReLU, 1×1 convolution, batch norm.

    The convolution of all maps side by side is written as one for each, whose results are added up.

    Args:
        channels: of each map.
        skips: the values that can be joined.
    """

    def __init__(self, channels: int, skips: Iterable[int]) -> None:
        super().__init__()
        self.own = _mixing(channels)
        self.skips = nn.ModuleDict({str(s): _mixing(channels) for s in skips})
        self.norm = count_once(nn.BatchNorm2d, channels)

    def only(self, skips: Iterable[int]) -> Join:
        """Return this module for some of its values."""
        other = Join(1, ())
        other.own, other.norm = self.own, self.norm
        other.skips = nn.ModuleDict({str(skip): self.skips[str(skip)] for skip in skips})
        return other

    def forward(
        self, y: Tensor, maps: Mapping[int, Tensor], weights: Mapping[int, Tensor] | None = None
    ) -> Tensor:
        """Return the layer's map.

        Args:
            y: what the operation brings.
            maps: the values that are joined.
            weights: of these; None: 1.
        """
        total: Tensor = self.own(y.relu())
        for skip, x in maps.items():
            term = self.skips[str(skip)](x.relu())
            total = total + (term if weights is None else weights[skip] * term)
        out: Tensor = self.norm(total)
        return out


Halvings = Mapping[tuple[int, int], nn.Module]
"""What halves a value, after a layer."""


@final
class MacroNetwork(nn.Module):
    """A chain of layers with skip connections: `[B, in, H, W]` to `[B, out]`, averaged over the map.

    Args:
        stem: makes value 0.
        layers: operations on the value before, for values 1, 2…
        joins: of the layers after the first.
        halvings: what is halved after which layer.
        skips: of each layer.
    """

    def __init__(
        self,
        stem: nn.Module,
        layers: Iterable[nn.Module],
        joins: Iterable[nn.Module],
        halvings: Halvings,
        skips: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        self.stem = stem
        self.layers = nn.ModuleList(layers)
        self.joins = nn.ModuleList(joins)
        self.halvings = nn.ModuleDict({f"{value}_{end}": m for (value, end), m in halvings.items()})
        self.ends = sorted({end for _, end in halvings})
        self.skips = tuple(map(tuple, skips))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a batch."""
        return self.walk(
            x, self.skips, lambda _, module, y: module(y), lambda _, join, y, maps: join(y, maps)
        )

    def walk(
        self,
        x: Tensor,
        skips: Sequence[Sequence[int]],
        apply: Callable[[int, nn.Module, Tensor], Tensor],
        join: Callable[[int, nn.Module, Tensor, Mapping[int, Tensor]], Tensor],
    ) -> Tensor:
        """Return the features of a batch.

        Args:
            x: images.
            skips: of each layer, those that are taken.
            apply: what a layer, numbered from 0, does with its module and the value before.
            join: what it does with its join, and the values that are taken.
        """
        values: dict[int, Tensor] = {0: self.stem(x)}
        for layer, module in enumerate(self.layers):
            y = apply(layer, module, values[layer])
            if layer:
                y = join(layer, self.joins[layer - 1], y, {skip: values[skip] for skip in skips[layer]})
            values[layer + 1] = y
            if layer + 1 in self.ends:
                later = {layer + 1}.union(*skips[layer + 1 :])
                values = {
                    value: self.halvings[f"{value}_{layer + 1}"](old)
                    for value, old in values.items()
                    if value in later
                }
        features: Tensor = values[len(self.layers)].mean((2, 3))
        return features


def halved(skips: Sequence[Sequence[int]], ends: Iterable[int]) -> list[tuple[int, int]]:
    """Return which values are halved after which layers: those that are still read."""
    return [
        (value, end)
        for end in ends
        for value in sorted({end}.union(*skips[end:]))
        if value <= end < len(skips)
    ]


def fresh(
    stem: nn.Module,
    skips: Sequence[Sequence[int]],
    widths: Sequence[int],
    ends: Sequence[int],
    make: Callable[[int, int], nn.Module],
) -> MacroNetwork:
    """Return a network with fresh weights.

    Args:
        stem: makes value 0.
        skips: of each layer.
        widths: channels of each value.
        ends: the layers after which maps are halved.
        make: makes a layer's operation, numbered from 0, of channels.
    """
    layers, joins = list[nn.Module](), list[nn.Module]()
    for layer, own in enumerate(skips):
        layers.append(make(layer, widths[layer + 1]))
        if layer:
            joins.append(Join(widths[layer + 1], own))
    before = {end: widths[end] for end in ends}
    halvings = {
        (value, end): count_once(FactorizedReduction, before[end], 2 * before[end])
        for value, end in halved(skips, ends)
    }
    return MacroNetwork(stem, layers, joins, halvings, skips)
