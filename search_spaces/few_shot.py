"""A space of small backbones for few-shot learning on images of 28×28 to 84×84 pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, ClassVar, TypeAlias, final

from pydantic import Field
from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.errors import Infeasible
from nas.space import Architecture, Decision, TaskShape
from nas.supernet import Supernet
from search_spaces.operations import AveragePool, Backbone, image_channels, relu_conv_bn
from search_spaces.separable import relu_separable_bn

DOWN = ("max_pool", "avg_pool")
"""How a stage halves the map: by pooling 2×2 after its first convolution."""

OPERATIONS = ("none", "skip_connect", "conv_1x1", "conv_3x3", "sep_conv_3x3", "avg_pool_3x3")

WEIGHTLESS = ("none", "skip_connect", "avg_pool_3x3")
"""Operations that compute the same wherever they see the same."""

PAIRS = ((0, 1), (0, 2), (1, 2))
"""Each edge's source and node: node 0 is the cell's input, node 2 its output."""

Path: TypeAlias = tuple[str, ...]
"""Operations one after another; none: the identity."""

Route: TypeAlias = tuple[tuple[int, str], ...]
"""Edges one after another, each as its place in `PAIRS` and its operation."""

_OPERATION = "(" + "|".join(OPERATIONS) + ")"
_STAGE = re.compile(rf"({'|'.join(DOWN)})\|{_OPERATION}~0\|\+\|{_OPERATION}~0\|{_OPERATION}~1\|")


def routes(operations: Sequence[str]) -> list[Route]:
    """Return the ways from a cell's input to its output that meet no `none`."""
    first, direct, second = enumerate(operations)
    return [way for way in ((direct,), (first, second)) if all(name != "none" for _, name in way)]


def paths(operations: Sequence[str]) -> tuple[Path, ...]:
    """Return a cell as the sorted paths whose ends it adds up, without identities and without dead edges.

    Two equal paths without weights are one. Their sum is the path times 2, and a cell's output meets a batch
    norm before anything else that tells it from its double: the next stage's, behind ReLU and a convolution
    without bias, or the last one.

    No edge serves two paths, so that equal paths mean equal networks. Different ones mean different networks
    on maps of more than one pixel; on a single pixel pooling is the identity.
    """
    ways = routes(operations)
    found = sorted(tuple(name for _, name in way if name != "skip_connect") for way in ways)
    same = len(set(found)) == 1 and all(name in WEIGHTLESS for name in found[0])
    return tuple(found[:1] if same else found)


def operation(name: str, channels: int) -> nn.Module:
    """Return a fresh operation that keeps the shape `[B, channels, H, W]`."""
    match name:
        case "conv_1x1" | "conv_3x3":
            return relu_conv_bn(channels, channels, int(name[-1]))
        case "sep_conv_3x3":
            return relu_separable_bn(channels, 3)
        case "avg_pool_3x3":
            return AveragePool(3)
        case _:
            raise ValueError(f"No module for operation '{name}'.")


def down(name: str, channels: int, out_channels: int, *, first: bool) -> nn.Module:
    """Return what begins a stage: `[B, channels, H, W]` to `[B, out_channels, ⌈H/2⌉, ⌈W/2⌉]`.

    The first sees an image, not through a ReLU.
    """
    pool = nn.MaxPool2d(2, ceil_mode=True) if name == "max_pool" else nn.AvgPool2d(2, ceil_mode=True)
    return nn.Sequential(*list(relu_conv_bn(channels, out_channels, 3))[first:], pool)


@final
class FewShot(BackboneSpace):
    """Stages that halve the map and double the channels, each with a small cell of its own.

    A stage begins with a 3×3 convolution and pooling of 2×2 (decision `down`). Its cell has an input, one
    node and an output; each of the three edges carries an operation. Batch norm, ReLU and global average
    pooling end the network.

    Layout and operations were chosen on Omniglot's validation classes (`docs/results/few_shot_space.md`). The
    defaults suit 28×28 pixels; for 84×84 set `stages = 4` and `channels = 8`.

    A stage is written as `down|…~0|+|…~0|…~1|`, with the edges as in the strings of NAS-Bench-201, and stages
    are joined by `/`. The canonical key is that of the cells as sums of paths (see `paths`).
    """

    name: ClassVar[str] = "few_shot"

    def __init__(
        self,
        *,
        channels: Annotated[int, Field(ge=1, description="channels C of the first stage")] = 24,
        stages: Annotated[int, Field(ge=1, le=6, description="stages, each with twice the channels")] = 2,
    ) -> None:
        self.channels = channels
        self.stages = stages
        self.decisions = tuple(
            decision
            for stage in range(1, stages + 1)
            for decision in (
                Decision(f"stage{stage}.down", DOWN),
                *(Decision(f"stage{stage}.node{n}.from{s}", OPERATIONS) for s, n in PAIRS),
            )
        )

    @property
    def named(self) -> Mapping[str, Architecture]:
        """`residual`: max pooling, and two 3×3 convolutions parallel to a skip connection, in each stage."""
        return {"residual": self._parse("/".join([RESIDUAL] * self.stages))}

    def encode(self, architecture: Architecture) -> str:
        """Return the stages, such as `max_pool|conv_3x3~0|+|skip_connect~0|conv_3x3~1|`, joined by `/`."""
        return "/".join(f"{d}|{a}~0|+|{b}~0|{c}~1|" for d, (a, b, c) in self.stages_of(architecture))

    def decode(self, text: str) -> Architecture:
        """Read stages or a name."""
        return self.named.get(text) or self._parse(text)

    def stages_of(self, architecture: Architecture) -> list[tuple[str, tuple[str, ...]]]:
        """Return how each stage begins, and the operations of its edges."""
        chosen = [str(value) for value in self.values(self.check(architecture)).values()]
        step = 1 + len(PAIRS)
        return [(chosen[i], tuple(chosen[i + 1 : i + step])) for i in range(0, len(chosen), step)]

    def feasible_stages_of(self, architecture: Architecture) -> list[tuple[str, tuple[str, ...]]]:
        """Return what `stages_of` does.

        Raises:
            Infeasible: a cell is zero whatever its input.
        """
        stages = self.stages_of(architecture)
        for number, (_, operations) in enumerate(stages, 1):
            if not routes(operations):
                raise Infeasible(f"The cell of stage {number} is zero: every path through it meets a 'none'.")
        return stages

    def canonical(self, architecture: Architecture) -> str:
        """Return each stage as its beginning and its cell's expression in its input `0`."""
        stages = self.stages_of(architecture)
        return "/".join(f"{begin} {_expression(paths(operations))}" for begin, operations in stages)

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse tasks whose inputs are no images."""
        image_channels(shape, self.name)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network.

        Raises:
            Infeasible: the inputs are no images, or a cell is zero whatever its input.
        """
        in_channels = image_channels(shape, self.name)
        stages = self.feasible_stages_of(architecture)
        return self.backbone(
            in_channels,
            lambda stage, *widths: down(stages[stage][0], *widths, first=not stage),
            lambda stage, width: Cell(
                nn.Sequential(*(operation(name, width) for name in path)) for path in paths(stages[stage][1])
            ),
        )

    def supernet(self, shape: TaskShape) -> Supernet:
        """Build every architecture at once; see `FewShotSupernet`.

        Raises:
            Infeasible: the inputs are no images.
        """
        from search_spaces.few_shot_supernet import FewShotSupernet

        return FewShotSupernet(self, image_channels(shape, self.name))

    def backbone(
        self,
        in_channels: int,
        begin: Callable[[int, int, int], nn.Module],
        cell: Callable[[int, int], nn.Module],
    ) -> Backbone:
        """Return the network around its stages.

        Args:
            in_channels: of the images.
            begin: makes what halves the map, for a stage (from 0), channels and new channels.
            cell: makes a stage's cell, for a stage and its channels.
        """
        widths = [in_channels, *(self.channels * 2**stage for stage in range(self.stages))]
        body: list[nn.Module] = []
        for stage in range(self.stages):
            body += [begin(stage, widths[stage], widths[stage + 1]), cell(stage, widths[stage + 1])]
        end = [nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return Backbone(nn.Sequential(*body, *end), widths[-1])

    def _parse(self, text: str) -> Architecture:
        stages = [_STAGE.fullmatch(stage) for stage in text.split("/")]
        if len(stages) != self.stages or None in stages:
            raise self.unreadable(text, f"{self.stages} stages joined by '/', each such as '{RESIDUAL}'")
        values = (value for match in stages if match for value in match.groups())
        return Architecture(
            self.name, tuple(d.choices.index(v) for d, v in zip(self.decisions, values, strict=True))
        )


RESIDUAL = "max_pool|conv_3x3~0|+|skip_connect~0|conv_3x3~1|"


def _expression(cell: Iterable[Path]) -> str:
    terms = []
    for path in cell:
        term = "0"
        for name in path:
            term = f"{name}({term})"
        terms.append(term)
    return "+".join(terms) or "#"


@final
class Cell(nn.Module):
    """The sum of what paths bring: `[B, C, H, W]` to the same shape.

    Args:
        paths: at least one.
    """

    def __init__(self, paths: Iterable[nn.Module]) -> None:
        super().__init__()
        self.paths = nn.ModuleList(paths)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output node."""
        first, *others = (path(x) for path in self.paths)
        total: Tensor = first
        for other in others:
            total = total + other
        return total
