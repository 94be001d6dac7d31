"""The micro space of ENAS (Pham et al., ICML 2018, §2.4): two cells of five blocks, and their supernet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, final

from pydantic import Field
from torch import nn

from nas.space import Architecture, TaskShape
from nas.supernet import Supernet
from search_spaces import separable
from search_spaces.blocks import Block, BlockCell, BlockSpace
from search_spaces.cells import SKIP
from search_spaces.enas_micro_supernet import EnasMicroSupernet
from search_spaces.operations import image_channels, relu_conv_bn
from search_spaces.stacked import Place

OPERATIONS = ("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", SKIP)
"""In the order of the paper's code."""

_S3, _S5, _AVG, _MAX, _ = OPERATIONS

ENAS = {
    "normal": BlockCell(
        (
            Block((_AVG, 0), (_S3, 0)),
            Block((SKIP, 0), (_S5, 0)),
            Block((SKIP, 0), (_S5, 1)),
            Block((_S3, 1), (_S5, 0)),
            Block((_AVG, 0), (_S5, 1)),
        )
    ),
    "reduce": BlockCell(
        (
            Block((_S3, 1), (_S3, 1)),
            Block((_MAX, 0), (_AVG, 0)),
            Block((_S5, 1), (_S5, 3)),
            Block((_S3, 1), (SKIP, 0)),
            Block((_MAX, 0), (_S5, 1)),
        )
    ),
}
"""The cells that the paper's code trains (`cifar10_micro_final.sh`)."""


@final
class EnasMicro(BlockSpace):
    """A normal and a reduction cell of blocks that add up two operations on two earlier states.

    The layout is that of `nasnet`: a stem of 3C channels, N cells, twice a reduction cell and N normal cells,
    ReLU and global average pooling. A cell's output has the states of the blocks that no block reads. The
    output of the cell before passes two 1×1 convolutions, as in the paper's code. The cells that this code
    trains have, with N = 6 and C = 36, the 4.6 M parameters that the paper prints.

    The canonical key is that of the cells' graphs, see `blocks.graph`.
    """

    name: ClassVar[str] = "enas_micro"

    def __init__(
        self,
        *,
        channels: Annotated[int, Field(ge=2, description="channels C of the first cell's blocks")] = 4,
        repeats: Annotated[int, Field(ge=1, description="normal cells N in each of the three stages")] = 1,
        blocks: Annotated[int, Field(ge=1, le=8, description="blocks of a cell")] = 5,
    ) -> None:
        super().__init__(channels=channels, repeats=repeats, blocks=blocks, operations=OPERATIONS)

    @property
    def named(self) -> Mapping[str, Architecture]:
        """`enas`, the cells that the paper's code trains, where cells have five blocks."""
        return {"enas": self.architecture_of(ENAS)} if self.blocks == len(ENAS["normal"].blocks) else {}

    def operation(self, name: str, channels: int, stride: int) -> nn.Module:
        """Return a fresh operation; an identity of stride 2 is a factorized reduction."""
        return separable.operation(name, channels, stride)

    def fitted(self, place: Place, state: int) -> nn.Module:
        """Return what fits an input to a cell, for the cell before with one more 1×1 convolution."""
        fit = place.preprocessing(state)
        if state == 0:
            return fit
        assert isinstance(fit, nn.Sequential)
        return nn.Sequential(*fit, *relu_conv_bn(place.channels, place.channels, 1))

    def supernet(self, shape: TaskShape) -> Supernet:
        """Build every architecture at once; see `EnasMicroSupernet`.

        Raises:
            Infeasible: the inputs are no images.
        """
        return EnasMicroSupernet(self, image_channels(shape, self.name))
