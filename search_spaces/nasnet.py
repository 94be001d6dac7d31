"""The cells of NASNet (Zoph et al., CVPR 2018), and those of AmoebaNet and PNAS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple, final

from pydantic import Field
from torch import nn

from nas.space import Architecture
from search_spaces import separable
from search_spaces.blocks import ADD, CONCAT, Block, BlockCell, BlockSpace
from search_spaces.cells import SKIP
from search_spaces.operations import relu_conv_bn
from search_spaces.separable import FactorizedReduction

_COMMON = (SKIP, "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "avg_pool_3x3", "max_pool_3x3")


class Variant(NamedTuple):
    """What a paper lets its search choose.

    Attributes:
        operations: of a block.
        combinations: of its two terms.
        single: whether one cell serves for both kinds, and a reduction is the first of a stage's cells.
    """

    operations: tuple[str, ...]
    combinations: tuple[str, ...] = (ADD,)
    single: bool = False


VARIANTS = {
    "nasnet": Variant(
        (
            *_COMMON,
            "max_pool_5x5",
            "max_pool_7x7",
            "conv_1x1",
            "conv_3x3",
            "conv_1x3_3x1",
            "conv_1x7_7x1",
            "dilated_conv_3x3",
        ),
        (ADD, CONCAT),
    ),
    "amoebanet": Variant((*_COMMON, "conv_1x7_7x1", "dilated_conv_3x3")),
    "pnas": Variant((*_COMMON, "conv_1x7_7x1", "dilated_conv_3x3"), single=True),
}
"""Zoph et al. (2018, §3), Real et al. (2019, §3.1) and Liu et al. (2018, Progressive NAS, §3.1)."""

_S3, _S5, _S7 = "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7"
_MAX, _AVG = "max_pool_3x3", "avg_pool_3x3"

NASNET_A = {
    "normal": BlockCell(
        (
            Block((_S5, 1), (_S3, 0)),
            Block((_S5, 0), (_S3, 0)),
            Block((_AVG, 1), (SKIP, 0)),
            Block((_AVG, 0), (_AVG, 0)),
            Block((_S3, 1), (SKIP, 1)),
        ),
        (0,),
    ),
    "reduce": BlockCell(
        (
            Block((_S5, 1), (_S7, 0)),
            Block((_MAX, 1), (_S7, 0)),
            Block((_AVG, 1), (_S5, 0)),
            Block((SKIP, 3), (_AVG, 2)),
            Block((_S3, 2), (_MAX, 1)),
        ),
        (3,),
    ),
}
AMOEBANET_A = {
    "normal": BlockCell(
        (
            Block((_AVG, 1), (_MAX, 1)),
            Block((_S3, 0), (SKIP, 0)),
            Block((SKIP, 1), (_AVG, 0)),
            Block((_S3, 1), (_S5, 2)),
            Block((_AVG, 5), (_S3, 1)),
        ),
        (0,),
    ),
    "reduce": BlockCell(
        (
            Block((_S3, 0), (_AVG, 1)),
            Block((_MAX, 1), (_S7, 2)),
            Block((_MAX, 0), (_MAX, 1)),
            Block((_S3, 4), ("conv_1x7_7x1", 1)),
            Block((_AVG, 0), (_S7, 1)),
        ),
        (2, 4),
    ),
}
PNAS_5 = {
    "cell": BlockCell(
        (
            Block((_S5, 0), (_MAX, 0)),
            Block((_S7, 1), (_MAX, 1)),
            Block((_S5, 1), (_S3, 1)),
            Block((_S3, 4), (_MAX, 1)),
            Block((_S3, 0), (SKIP, 1)),
        ),
        (4,),
    )
}
"""The cells of the papers' networks, with the states of their outputs, as in the code of their authors."""

_BOTTLENECK = {"conv_1x3_3x1": 3 / 8}
"""Inner channels of a convolution that is not separable, as a share of C; a quarter for the others."""


@final
class NasNet(BlockSpace):
    """A normal and a reduction cell of blocks: two operations on two earlier states, combined.

    A stem of 3C channels; N cells of C channels; twice a reduction cell, which doubles the channels, and N
    normal cells; ReLU and global average pooling. A cell's output has the states of the blocks that no block
    reads, side by side. `variant` is the paper: `nasnet` chooses among 13 operations and adds or
    concatenates, `amoebanet` among 8 and adds, `pnas` has one cell for both kinds, and a reduction is the
    first of a stage's N cells.

    The networks that the papers print join further states to the outputs of their cells, which `joins` lets a
    search choose. With it, NASNet-A (C = 32, N = 6), AmoebaNet-A (C = 36, N = 6) and PNASNet-5 (C = 48,
    N = 3) are those of their authors' code. The canonical key is that of the cells' graphs (`blocks.graph`).
    """

    name: ClassVar[str] = "nasnet"

    def __init__(
        self,
        *,
        variant: Annotated[
            Literal["nasnet", "amoebanet", "pnas"],
            Field(description="whose operations, combinations and cells"),
        ] = "nasnet",
        channels: Annotated[int, Field(ge=2, description="channels C of the first cell's blocks")] = 4,
        repeats: Annotated[int, Field(ge=1, description="normal cells N in each of the three stages")] = 1,
        blocks: Annotated[int, Field(ge=1, le=8, description="blocks of a cell")] = 5,
        joins: Annotated[
            bool,
            Field(
                description="choose which states a cell's output has besides those of blocks that no block "
                "reads; the papers' printed networks need it"
            ),
        ] = False,
    ) -> None:
        self.variant = variant
        own = VARIANTS[variant]
        super().__init__(
            channels=channels,
            repeats=repeats,
            blocks=blocks,
            operations=own.operations,
            combinations=own.combinations,
            joins=joins,
            single=own.single,
        )

    @property
    def named(self) -> Mapping[str, Architecture]:
        """The papers' cells that the variant has; without `joins` their outputs have no further states."""
        known = {"nasnet_a": NASNET_A, "amoebanet_a": AMOEBANET_A} if not self.single else {"pnas_5": PNAS_5}
        if self.blocks != len(next(iter(known.values()))[self.cell_kinds[0]].blocks):
            return {}
        return {
            name: self.architecture_of(
                cells if self.joins else {kind: cell._replace(joined=()) for kind, cell in cells.items()}
            )
            for name, cells in known.items()
        }

    def operation(self, name: str, channels: int, stride: int) -> nn.Module:
        """Return a fresh operation; convolutions that are not separable work on a share of the channels."""
        match name:
            case "skip_connect" if stride > 1:
                return relu_conv_bn(channels, channels, 1, stride)
            case "conv_1x1":
                return relu_conv_bn(channels, channels, 1, stride)
            case "conv_3x3" | "dilated_conv_3x3" | "conv_1x3_3x1" | "conv_1x7_7x1":
                return _bottleneck(name, channels, stride)
        return separable.operation(name, channels, stride)

    def halved(self, channels: int) -> nn.Module:
        """Return a factorized reduction."""
        return FactorizedReduction(channels, channels)


def _bottleneck(name: str, channels: int, stride: int) -> nn.Sequential:
    """Return a convolution between two 1×1 convolutions, each after a ReLU and before batch norm."""
    inner = int(channels * _BOTTLENECK.get(name, 1 / 4))
    if inner < 1:
        return nn.Sequential(*_convolutions(name, channels, stride))
    return nn.Sequential(
        *relu_conv_bn(channels, inner, 1),
        *_convolutions(name, inner, stride),
        *relu_conv_bn(inner, channels, 1),
    )


def _convolutions(name: str, channels: int, stride: int) -> list[nn.Module]:
    if name in ("conv_3x3", "dilated_conv_3x3"):
        reach = 2 if name.startswith("dilated") else 1
        windows = [((3, 3), (stride, stride), (reach, reach), reach)]
    else:
        k = int(name[-3])
        windows = [((1, k), (1, stride), (0, k // 2), 1), ((k, 1), (stride, 1), (k // 2, 0), 1)]
    layers = list[nn.Module]()
    for kernel, strides, padding, dilation in windows:
        layers += [
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel, strides, padding, dilation, bias=False),
            nn.BatchNorm2d(channels),
        ]
    return layers
