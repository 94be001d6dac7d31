"""The elastic supernet of inverted bottlenecks: every network is a slice of the largest (Cai et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.space import Architecture
from nas.supernet import Mixture
from search_spaces.mixed.mixing import DirectSupernet, nonzero, of_the_batch, one_hot
from search_spaces.mobile_blocks import squeezed

if TYPE_CHECKING:
    from search_spaces.mobile import Mobile

Weighed: TypeAlias = Mapping[int, Tensor]
"""Values of a decision, or of several together, each with its weight."""

_EXPAND, _DEPTHWISE, _PROJECT, _SQUEEZE, _EXCITE = "expand", "depthwise", "project", "squeeze", "excite"


class ChosenBlock(NamedTuple):
    """What a mixture makes of a block: the values that have a weight, ascending."""

    kernel: Weighed
    expansion: Weighed
    squeeze: Weighed


class ChosenStage(NamedTuple):
    """What a mixture makes of a stage."""

    width: Weighed
    depth: Weighed
    blocks: tuple[ChosenBlock, ...]


def _mask(sizes: Weighed) -> Tensor:
    """Return how much of each channel there is, `[1, most, 1, 1]`: the weights of the sizes beyond it."""
    most = max(sizes)
    total = sum(F.pad(weight.expand(size), (0, most - size)) for size, weight in sizes.items())
    assert isinstance(total, Tensor)
    return total.view(1, -1, 1, 1)


def _products(a: Weighed, b: Weighed) -> dict[int, Tensor]:
    """Return the products of values, each with the weight of the pairs that make it."""
    found = dict[int, Tensor]()
    for x, v in a.items():
        for y, w in b.items():
            found[x * y] = found[x * y] + v * w if x * y in found else v * w
    return found


def _convolved(x: Tensor, layer: nn.Conv2d, out: int, stride: int = 1) -> Tensor:
    """Apply the first outputs of a 1×1 convolution to its first inputs, without its bias."""
    weight = layer.weight[..., :out, : x.shape[1], :, :]
    return torch.conv2d(x, weight, None, stride)


def _normalized(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, None, None, True, 0.0, 1e-5)


@final
class ElasticBlock(nn.Module):
    """The largest inverted bottleneck of a place, of which others are slices.

    A smaller kernel is the middle of the largest, fewer channels are the first ones. Mixed kernels are one
    kernel, mixed widths weigh each channel by how much of it there is.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.kernel, self.stride = kernel, stride
        self.expand = nn.Conv2d(channels, hidden, 1, bias=False)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, groups=hidden, bias=False)
        self.project = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.squeeze = nn.Conv2d(hidden, squeezed(hidden), 1, bias=False)
        self.excite = nn.Conv2d(squeezed(hidden), hidden, 1, bias=False)

    def only(self, *, squeeze: bool) -> ElasticBlock:
        """Return this block with the weights that a network has."""
        other = ElasticBlock(1, 1, 1, 1, self.stride)
        other.kernel = self.kernel
        other.expand, other.depthwise, other.project = self.expand, self.depthwise, self.project
        del other.squeeze, other.excite
        if squeeze:
            other.squeeze, other.excite = self.squeeze, self.excite
        return other

    def forward(self, x: Tensor, width: Weighed, chosen: ChosenBlock, out: Weighed) -> Tensor:
        """Return the block's map, `[B, most of out, …]`.

        Args:
            x: `[B, most of width, …]`, each channel weighed by how much of it there is.
            width: of the input.
            chosen: of the block.
            out: of the output.
        """
        hidden = _products(width, chosen.expansion)
        y = _normalized(_convolved(x, self.expand, max(hidden))).clamp(0, 6)
        y = _normalized(self._depthwise(y, chosen.kernel)).clamp(0, 6) * _mask(hidden)
        y = self._weighed(y, hidden, chosen.squeeze)
        y = _normalized(_convolved(y, self.project, max(out))) * _mask(out)
        return x + y if self.stride == 1 else y

    def _depthwise(self, y: Tensor, kernels: Weighed) -> Tensor:
        most, total = max(kernels), None
        for kernel, weight in kernels.items():
            edge, rim = (self.kernel - kernel) // 2, (most - kernel) // 2
            window = self.depthwise.weight[..., : y.shape[1], :, edge : edge + kernel, edge : edge + kernel]
            term = weight * F.pad(window, (rim,) * 4) if rim else weight * window
            total = term if total is None else total + term
        assert total is not None
        return torch.conv2d(y, total, None, self.stride, most // 2, 1, y.shape[1])

    def _weighed(self, y: Tensor, hidden: Weighed, squeeze: Weighed) -> Tensor:
        if 1 not in squeeze:
            return y * squeeze[0]
        inner = dict[int, Tensor]()
        for size, weight in hidden.items():
            own = squeezed(size)
            inner[own] = inner[own] + weight if own in inner else weight
        mean = _convolved(y.mean((2, 3), keepdim=True), self.squeeze, max(inner)).relu() * _mask(inner)
        gate = squeeze[1] * _convolved(mean, self.excite, y.shape[1]).sigmoid()
        return y * (gate + squeeze[0] if 0 in squeeze else gate)


@final
class ElasticNetwork(nn.Module):
    """One network of slices: `[B, in, H, W]` to `[B, out_features]`, zeros for channels that it has not."""

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Sequence[ElasticBlock]],
        stem_channels: int,
        chosen: Sequence[ChosenStage] | None,
        out_features: int,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(nn.ModuleList(blocks) for blocks in stages)
        self.stem_channels, self.chosen, self.out_features = stem_channels, chosen, out_features

    def forward(self, x: Tensor, chosen: Sequence[ChosenStage] | None = None) -> Tensor:
        """Return the features of a batch."""
        plan = self.chosen if chosen is None else chosen
        assert plan is not None
        x = self.stem(x)
        width: Weighed = {self.stem_channels: x.new_ones(())}
        for blocks, own in zip(self.stages, plan, strict=True):
            assert isinstance(blocks, nn.ModuleList)
            total: Tensor | None = None
            for number, (block, choice) in enumerate(zip(blocks, own.blocks, strict=False), 1):
                x = block(x, width, choice, own.width)
                width = own.width
                if number in own.depth:
                    term = own.depth[number] * x
                    total = term if total is None else total + term
            assert total is not None
            x = total
        features = x.mean((2, 3))
        return F.pad(features, (0, self.out_features - features.shape[1]))


@final
class MobileSupernet(DirectSupernet):
    """Every network as a slice of the largest one; its decisions are the space's.

    Widths are the first channels, kernels the middle of the largest, depths the first blocks. Outputs have
    room for the widest last stage; channels that a network has not are zeros. The batch norms of blocks have
    neither scale nor shift, and squeezes no biases.

    Args:
        space: whose blocks these are.
        in_channels: of the images.
    """

    space: Mobile

    def __init__(self, space: Mobile, in_channels: int) -> None:
        super().__init__(space)
        widths = [space.stem_channels, *(space.widths[-1] * 2**stage for stage in range(space.stages))]
        stages = [
            [
                ElasticBlock(
                    widths[stage + bool(block)],
                    widths[stage + 1],
                    space.kernels[-1],
                    space.expansions[-1],
                    1 if block else 2,
                )
                for block in range(space.depths[-1])
            ]
            for stage in range(space.stages)
        ]
        stem = of_the_batch(space.stem(in_channels))
        self.out_features = widths[-1]
        self.body = ElasticNetwork(stem, stages, space.stem_channels, None, widths[-1])

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Return the features of a batch; see `Supernet`."""
        features: Tensor = self.body(x, self._chosen(mixture))
        return features

    def extract(self, architecture: Architecture) -> nn.Module:
        """Return one network, with the slices' whole tensors."""
        choices = self.space.check(architecture).choices
        chosen = self._chosen(one_hot(choices, self.decisions, next(self.parameters())))
        stages = []
        for own, plan in zip(self.body.stages, chosen, strict=True):
            assert isinstance(own, nn.ModuleList)
            blocks = list[ElasticBlock]()
            for block, choice in zip(own, plan.blocks, strict=False):
                assert isinstance(block, ElasticBlock)
                blocks.append(block.only(squeeze=1 in choice.squeeze))
            stages.append(blocks)
        return ElasticNetwork(self.body.stem, stages, self.space.stem_channels, chosen, self.out_features)

    def _chosen(self, mixture: Mixture) -> list[ChosenStage]:
        kept = nonzero(mixture, self.decisions)
        weighed = [
            {int(decision.choices[i]): weights[i] for i in own}
            for decision, weights, own in zip(self.decisions, mixture, kept, strict=True)
        ]
        size, found = 2 + 3 * self.space.depths[-1], list[ChosenStage]()
        for start in range(0, len(weighed), size):
            width, depth, *rest = weighed[start : start + size]
            blocks = (ChosenBlock(*rest[i : i + 3]) for i in range(0, 3 * max(depth), 3))
            found.append(ChosenStage(width, depth, tuple(blocks)))
        return found
