"""The stages of the few-shot space: how one begins, its cell as paths, and the module that computes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import TypeAlias, final

from torch import Tensor, nn

from search_spaces import cells
from search_spaces.cells import Edge
from search_spaces.operations import AveragePool, relu_conv_bn
from search_spaces.separable import relu_separable_bn

DOWN = ("max_pool", "avg_pool")
"""How a stage halves the map: by pooling 2×2 after its first convolution."""


OPERATIONS = ("none", "skip_connect", "conv_1x1", "conv_3x3", "sep_conv_3x3", "avg_pool_3x3")


WEIGHTLESS = ("none", "skip_connect", "avg_pool_3x3")
"""Operations that compute the same wherever they see the same."""


NODES = 3
"""Node 0 is the cell's input, node 2 its output."""


PAIRS = cells.pairs(NODES)
"""Each edge's source and node."""


Path: TypeAlias = tuple[str, ...]
"""Operations one after another; none: the identity."""


PATHS: tuple[Path, ...] = tuple(
    path for length in range(3) for path in product(OPERATIONS[2:], repeat=length)
)
"""Every path that a cell can have."""


def routes(operations: Sequence[str]) -> list[tuple[Edge, ...]]:
    """Return the ways from a cell's input to its output that meet no `none`."""
    return cells.routes(operations, NODES)


def paths(operations: Sequence[str]) -> tuple[Path, ...]:
    """Return a cell as the sorted paths whose ends it adds up, without identities and without dead edges.

    Two equal paths without weights are one. Their sum is the path times 2, and a cell's output meets a batch
    norm before anything else that tells it from its double: the next stage's, behind ReLU and a convolution
    without bias, or the last one.

    No edge serves two paths, so that equal paths mean equal networks. Different ones mean different networks
    on maps of more than one pixel; on a single pixel pooling is the identity.
    """
    ways = routes(operations)
    found = sorted(tuple(edge.operation for edge in way if edge.operation != "skip_connect") for way in ways)
    same = len(set(found)) == 1 and all(name in WEIGHTLESS for name in found[0])
    return tuple(found[:1] if same else found)


def operation(name: str, channels: int) -> nn.Module:
    """Return a fresh operation that keeps the shape `[B, channels, H, W]`."""
    match name:
        case "skip_connect":
            return nn.Identity()
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


def tensors(name: str) -> list[str]:
    """Return the names of an operation's tensors."""
    return list(operation(name, 1).state_dict())


def scale(name: str) -> str:
    """Return the name of the scale of the batch norm that an operation with weights ends in."""
    return [tensor for tensor, _ in operation(name, 1).named_parameters()][-2]


def counterparts(own: Sequence[Path], other: Sequence[Path]) -> Iterator[tuple[int, Path, int | None, Path]]:
    """Yield each path of a cell with the path of another cell that it is akin to, each of these once.

    Equal paths are paired first, then those with most equal operations in the same place; one without any has
    no counterpart.

    Yields:
        the place of the path, itself, the place of the other (None: there is none) and that one itself.
    """
    left = dict(enumerate(other))

    def alike(place: int, path: Path) -> tuple[bool, int]:
        return left[place] == path, sum(a == b for a, b in zip(left[place], path, strict=False))

    for place, path in sorted(enumerate(own), key=lambda item: item[1] not in other):
        near = max(left, key=lambda i: alike(i, path), default=None)
        if near is None or alike(near, path) == (False, 0):
            yield place, path, None, ()
        else:
            yield place, path, near, left.pop(near)


@final
class FewShotCell(nn.Module):
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
