"""NAS-Bench-201 (Dong & Yang, ICLR 2020): one cell of four nodes and five operations, 15,625 encodings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, final

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.counting import count_once
from nas.drawing.graph import Graph, Vertex, chained
from nas.errors import Infeasible
from nas.space import Architecture, TaskShape
from nas.supernet import Supernet
from search_spaces.cells import drawn
from search_spaces.nasbench201_cells import (
    OPERATIONS,
    PAIRS,
    Cell,
    edges_of,
    expression,
    operation,
    paths,
    representative,
)
from search_spaces.nasbench201_supernet import NasBench201Supernet, mixed_cell
from search_spaces.operations import Backbone, averaged, image_channels, on_edge, relu_conv_bn

RESNET = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"
"""The residual block, the paper's hand-made reference."""

_EDGE = r"(\w+)~"
_NODES = dict.fromkeys(node for _, node in PAIRS)
_CELL = re.compile(
    r"\+".join(r"\|" + "".join(rf"{_EDGE}{s}\|" for s, end in PAIRS if end == node) for node in _NODES),
    re.ASCII,
)


@final
class NasBench201(BackboneSpace):
    """The cells of NAS-Bench-201, written in its published strings.

    A stem; three stages of cells with C, 2C and 4C channels, a residual block of stride 2 between two stages;
    batch norm, ReLU and global average pooling (§2.1). The paper's networks have C = 16 and 5 cells a stage;
    the defaults suit few-shot tasks on 28×28 images, where a trial takes seconds.

    The canonical key is the paper's test of isomorphism, with 6,466 groups. It does not tell one convolution
    used twice from two convolutions that see the same input, so each group is built as one network: its cell
    with the most convolutions, without dead edges. With `prune=False` each of the 15,625 cells is built as
    published and is a group of its own.
    """

    name: ClassVar[str] = "nasbench201"
    decisions = tuple(on_edge(f"node{node}.from{source}", OPERATIONS) for source, node in PAIRS)

    def __init__(
        self,
        *,
        channels: Annotated[int, Field(ge=1, description="channels C of the first stage")] = 8,
        cells: Annotated[int, Field(ge=1, description="cells in each of the three stages")] = 1,
        prune: Annotated[
            bool, Field(description="fold isomorphic cells and leave out dead edges; false: as published")
        ] = True,
    ) -> None:
        self.channels = channels
        self.cells = cells
        self.prune = prune

    @property
    def named(self) -> Mapping[str, Architecture]:
        """The residual block as `resnet`."""
        return {"resnet": self._parse(RESNET)}

    def encode(self, architecture: Architecture) -> str:
        """Return the published string: `|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|`."""
        nodes = dict.fromkeys(_NODES, "|")
        for (source, node), chosen in zip(PAIRS, self._operations(architecture), strict=True):
            nodes[node] += f"{chosen}~{source}|"
        return "+".join(nodes.values())

    def decode(self, text: str) -> Architecture:
        """Read a published string or a name."""
        return self.named.get(text) or self._parse(text)

    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        """Return the network's stages, and its cell."""
        several = f"{self.cells} × cell" if self.cells > 1 else "cell"
        first, second, third = (Vertex(several, f"{self.channels * 2**stage} channels") for stage in range(3))
        stem, halved = Vertex("conv 3×3", f"{self.channels} channels"), Vertex("residual /2")
        row = Vertex("image"), stem, first, halved, second, halved, third, Vertex("average")
        values = "input", *(f"node {node}" for node in list(_NODES)[:-1]), "output"
        return chained("network", row), drawn("cell", values, edges_of(self._operations(architecture)))

    def canonical(self, architecture: Architecture) -> str:
        """Return the output as an expression in the input, or the published string if nothing is folded."""
        return expression(self._operations(architecture)) if self.prune else self.encode(architecture)

    def features(self, architecture: Architecture) -> npt.NDArray[np.float32]:
        """Return how often each of `WAYS` leads from the input to the output, `[40]`.

        That is the path encoding of White et al. (2021, BANANAS, §4) with counts in place of bits, and
        without skip connections on the way: isomorphic cells have equal features.

        Raises:
            Infeasible: the pruned cell is zero whatever its input.
        """
        counts = paths(self._operations(architecture))
        if self.prune and not any(counts):
            raise self._zero(architecture)
        return np.array(counts, dtype=np.float32)

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse tasks whose inputs are no images."""
        image_channels(shape, self.name)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network, cells with equal operations and their own weights.

        Raises:
            Infeasible: the inputs are no images, or the pruned cell is zero whatever its input.
        """
        in_channels = image_channels(shape, self.name)
        operations = self._operations(architecture)
        edges = representative(operations) if self.prune else edges_of(operations)
        if self.prune and not edges:
            raise self._zero(architecture)
        body = self._body(
            in_channels,
            lambda width: Cell(edges, [count_once(operation, edge.operation, width) for edge in edges]),
        )
        return Backbone(nn.Sequential(*body), 4 * self.channels)

    def supernet(self, shape: TaskShape) -> Supernet:
        """Build every cell at once; see `NasBench201Supernet`.

        Raises:
            Infeasible: the inputs are no images.
        """
        body = self._body(image_channels(shape, self.name), mixed_cell)
        return NasBench201Supernet(self, body, 4 * self.channels)

    def _body(self, in_channels: int, cell: Callable[[int], nn.Module]) -> list[nn.Module]:
        """Return the network around its cells, which are made for a number of channels."""
        widths = (self.channels, 2 * self.channels, 4 * self.channels)
        body: list[nn.Module] = [
            count_once(nn.Conv2d, in_channels, self.channels, 3, padding=1, bias=False),
            count_once(nn.BatchNorm2d, self.channels),
        ]
        for stage, width in enumerate(widths):
            if stage:
                body.append(count_once(Reduction, widths[stage - 1], width))
            body += [cell(width) for _ in range(self.cells)]
        return [*body, *averaged(widths[-1])]

    def _zero(self, architecture: Architecture) -> Infeasible:
        return Infeasible(
            f"The cell '{self.encode(architecture)}' is zero: every path from its input to its output "
            "meets a 'none'."
        )

    def _operations(self, architecture: Architecture) -> tuple[str, ...]:
        return tuple(OPERATIONS[choice] for choice in self.check(architecture).choices)

    def _parse(self, text: str) -> Architecture:
        match = _CELL.fullmatch(text)
        if match is None:
            raise self.unreadable(text, f"a string such as '{RESNET}', of {', '.join(OPERATIONS)}")
        return self.choosing({d.name: own for d, own in zip(self.decisions, match.groups(), strict=True)})


@final
class Reduction(nn.Module):
    """The residual block between two stages: `[B, C, H, W]` to `[B, out, ⌈H/2⌉, ⌈W/2⌉]`."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            relu_conv_bn(channels, out_channels, 3, stride=2), relu_conv_bn(out_channels, out_channels, 3)
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, stride=2, ceil_mode=True), nn.Conv2d(channels, out_channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both branches."""
        total: Tensor = self.residual(x) + self.shortcut(x)
        return total
