"""Operations on images of strokes and photographs, by name, on a whole batch: each image has its strength."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, reduce
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.errors import ConfigError, UnknownName

Kind = Literal["strokes", "photographs"]
"""What images show: ink 1 on paper 0 in one channel, or a scene in one channel or three."""

PAPER: Mapping[Kind, float] = {"strokes": 0.0, "photographs": 0.5}
"""What comes in from outside, and what is cut out."""

KNOTS = 4
"""Of the field of an elastic operation, along each axis: displacements in between are cubic."""

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luminance of ITU-R 601."""

Pixelwise: TypeAlias = Callable[[Tensor, Tensor, Tensor, Kind], Tensor]
"""From images `[B, C, H, W]`, strengths `[B, 1, 1, 1]` and places `[B, 2]` to images."""


class Draw(NamedTuple):
    """What a batch of images passes through, one operation after the other; on the CPU.

    Attributes:
        which: `[B, N]` int64, an operation's place in the list of those in use; −1: none.
        magnitude: `[B, N]`, from −1 to 1, a share of what the operation does at most; at 0 an image stays as
            it is, to the bit. The sign counts where an operation has two directions.
        place: `[B, N, 2]`, from 0 to 1: what is cut out, down and across.
        bend: `[B, N, 2, KNOTS, KNOTS]`, from −1 to 1: of an elastic operation, across and down.
    """

    which: Tensor
    magnitude: Tensor
    place: Tensor
    bend: Tensor

    def at(self, rows: Tensor) -> Draw:
        """Return what these images of the batch pass through."""
        return Draw(*(each[rows] for each in self))

    def step(self, number: int) -> Draw:
        """Return one operation for each image, without the axis of N."""
        return Draw(*(each[:, number] for each in self))


def draw(which: Tensor, magnitude: Tensor, generator: torch.Generator) -> Draw:
    """Draw directions and places for operations and magnitudes `[B, N]`; numbers are float32 on the CPU."""
    shape = which.shape
    sign = 2 * torch.randint(2, shape, generator=generator) - 1
    place = torch.rand((*shape, 2), generator=generator)
    bend = 2 * torch.rand((*shape, 2, KNOTS, KNOTS), generator=generator) - 1
    return Draw(which, magnitude * sign, place, bend)


@dataclass(frozen=True, slots=True)
class Operation:
    """What can be done to an image.

    Attributes:
        most: what it does at magnitude 1, by what images show; it is for those alone.
        pixels: what it does; None: it moves pixels, see `Operations`.
        changes: for what an image shows it gives another class, so that whole classes alone pass through it.
        channels: that it needs; None: any.
    """

    most: Mapping[Kind, float]
    pixels: Pixelwise | None = None
    changes: frozenset[Kind] = field(default_factory=frozenset)
    channels: int | None = None


def _blended(plain: Tensor, x: Tensor, strength: Tensor) -> Tensor:
    """Return the point beyond `x`, seen from `plain`, by a strength; at −1 it is `plain`."""
    return (plain + (x - plain) * (1 + strength)).clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    """Return the luminance `[B, 1, H, W]`."""
    if x.shape[1] == 1:
        return x
    return (x * x.new_tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _brightness(x: Tensor, strength: Tensor, place: Tensor, kind: Kind) -> Tensor:
    return (x * (1 + strength)).clamp(0, 1)


def _contrast(x: Tensor, strength: Tensor, place: Tensor, kind: Kind) -> Tensor:
    return _blended(_grey(x).mean((1, 2, 3), keepdim=True), x, strength)


def _colour(x: Tensor, strength: Tensor, place: Tensor, kind: Kind) -> Tensor:
    return _blended(_grey(x), x, strength)


def _sharpness(x: Tensor, strength: Tensor, place: Tensor, kind: Kind) -> Tensor:
    kernel = x.new_ones(1, 1, 3, 3)
    kernel[..., 1, 1] = 5
    smooth = x.clone()
    inner = F.conv2d(x.flatten(0, 1)[:, None], kernel / 13)
    smooth[..., 1:-1, 1:-1] = inner.view(*x.shape[:2], *inner.shape[-2:])
    return _blended(smooth, x, strength)


def _autocontrast(x: Tensor, strength: Tensor, place: Tensor, kind: Kind) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    flat = high <= low
    return torch.where(flat, x, (x - low) / torch.where(flat, 1, high - low))


def _equalize(x: Tensor, strength: Tensor, place: Tensor, kind: Kind) -> Tensor:
    values = (255 * x).round().clamp(0, 255).long().flatten(2).flatten(0, 1)
    counts = values.new_zeros(len(values), 256).scatter_add_(1, values, torch.ones_like(values))
    step = (values.shape[1] - counts.gather(1, values.amax(1, keepdim=True))) // 255
    table = (counts.cumsum(1) - counts + step // 2) // step.clamp(min=1)
    equal = table.clamp(max=255).gather(1, values).view_as(x).to(x) / 255
    return torch.where((step > 0).view(*x.shape[:2], 1, 1), equal, x)


def _posterize(x: Tensor, strength: Tensor, place: Tensor, kind: Kind) -> Tensor:
    lost = 2 ** strength.abs().round()
    return torch.where(lost > 1, ((255 * x).round() / lost).floor() * lost / 255, x)


def _solarize(x: Tensor, strength: Tensor, place: Tensor, kind: Kind) -> Tensor:
    return torch.where(x >= 1 - strength.abs(), 1 - x, x)


def _invert(x: Tensor, strength: Tensor, place: Tensor, kind: Kind) -> Tensor:
    return 1 - x


def _cutout(x: Tensor, strength: Tensor, place: Tensor, kind: Kind) -> Tensor:
    inside = []
    for side, centre in zip(x.shape[-2:], place.unbind(1), strict=True):
        middles = torch.arange(side, device=x.device).to(x) + 0.5
        inside.append((middles - side * centre[:, None]).abs() < side * strength.abs().view(-1, 1) / 2)
    return torch.where((inside[0][:, :, None] & inside[1][:, None])[:, None], PAPER[kind], x)


def _widest(x: Tensor) -> Tensor:
    """Return the largest value within a pixel of 28, along each axis after the other."""
    reach = max(1, round(min(x.shape[-2:]) / 28))
    for axis in (-2, -1):
        around = [0, 0, 0, 0]
        around[2 if axis == -2 else 0 : 4 if axis == -2 else 2] = reach, reach
        padded = F.pad(x, around, value=-torch.inf)
        x = reduce(torch.maximum, (padded.narrow(axis, at, x.shape[axis]) for at in range(2 * reach + 1)))
    return x


def _thicken(x: Tensor, strength: Tensor, place: Tensor, kind: Kind) -> Tensor:
    return x + strength.abs() * (_widest(x) - x)


def _thin(x: Tensor, strength: Tensor, place: Tensor, kind: Kind) -> Tensor:
    return x + strength.abs() * (-_widest(-x) - x)


def _quarter_turn(x: Tensor, strength: Tensor, place: Tensor, kind: Kind) -> Tensor:
    return torch.where(strength > 0, x.rot90(1, (-2, -1)), x.rot90(-1, (-2, -1)))


def _flip_x(x: Tensor, strength: Tensor, place: Tensor, kind: Kind) -> Tensor:
    return x.flip(-1)


def _flip_y(x: Tensor, strength: Tensor, place: Tensor, kind: Kind) -> Tensor:
    return x.flip(-2)


@cache
def _basis(height: int, width: int) -> Tensor:
    """Return what places in an image are sums of, `[3 + KNOTS², height · width]`.

    The first three rows are where the middle of each pixel is, across and down, from −1 to 1, and 1; the
    others, how much each knot of an elastic field counts there: the outermost are in the corners.
    """
    down, across = ((2 * torch.arange(side) + 1) / side - 1 for side in (height, width))
    unit = torch.eye(KNOTS**2).view(-1, 1, KNOTS, KNOTS)
    knots = F.interpolate(unit, (height, width), mode="bicubic", align_corners=True)
    rows = (across.expand(height, -1), down[:, None].expand(-1, width), torch.ones(height, width))
    return torch.cat([torch.stack(rows).flatten(1), knots.flatten(1)])


def _photographs(most: float) -> Mapping[Kind, float]:
    return {"photographs": most}


def _strokes(most: float) -> Mapping[Kind, float]:
    return {"strokes": most}


ALWAYS: Mapping[Kind, float] = {"strokes": 1.0, "photographs": 1.0}
BOTH: frozenset[Kind] = frozenset(("strokes", "photographs"))

OPERATIONS: Mapping[str, Operation] = {
    "rotate": Operation({"strokes": 15, "photographs": 30}),
    "shear_x": Operation({"strokes": 0.2, "photographs": 0.3}),
    "shear_y": Operation({"strokes": 0.2, "photographs": 0.3}),
    "translate_x": Operation({"strokes": 2 / 28, "photographs": 10 / 32}),
    "translate_y": Operation({"strokes": 2 / 28, "photographs": 10 / 32}),
    "scale": Operation(_strokes(0.15)),
    "elastic": Operation(_strokes(2 / 28)),
    "thicken": Operation(_strokes(1), _thicken),
    "thin": Operation(_strokes(1), _thin),
    "cutout": Operation({"strokes": 0.2, "photographs": 0.2}, _cutout),
    "autocontrast": Operation(_photographs(1), _autocontrast),
    "equalize": Operation(_photographs(1), _equalize),
    "invert": Operation(_photographs(1), _invert),
    "posterize": Operation(_photographs(4), _posterize),
    "solarize": Operation(_photographs(1), _solarize),
    "brightness": Operation(_photographs(0.9), _brightness),
    "contrast": Operation(_photographs(0.9), _contrast),
    "colour": Operation(_photographs(0.9), _colour, channels=3),
    "sharpness": Operation(_photographs(0.9), _sharpness),
    "flip_x": Operation(ALWAYS, _flip_x, changes=frozenset(("strokes",))),
    "flip_y": Operation(ALWAYS, _flip_y, changes=BOTH),
    "quarter_turn": Operation(ALWAYS, _quarter_turn, changes=BOTH),
}
"""Every operation by its name.

`rotate` counts in degrees, `shear` in pixels per pixel of the other axis, `translate`, `cutout` and, at
`KNOTS` × `KNOTS` points, `elastic` in shares of the side, `posterize` in bits that are lost, `solarize` in
the share of the range, from the brightest down, that is inverted; the others in shares of their whole, or
of the factor 1.
"""


def usual(kind: Kind) -> tuple[str, ...]:
    """Return the names of the operations on such images after which they are of the same class."""
    return tuple(name for name, each in OPERATIONS.items() if kind in each.most and kind not in each.changes)


class Operations:
    """Some operations on a batch of images of one shape.

    Args:
        kind: what the images show.
        names: of the operations; a draw's `which` counts in this order.

    Raises:
        UnknownName: no operation has such a name.
        ConfigError: an operation is for images that show something else.
    """

    def __init__(self, kind: Kind, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in OPERATIONS:
                raise UnknownName(
                    "operation", name, [n for n, each in OPERATIONS.items() if kind in each.most]
                )
            if kind not in OPERATIONS[name].most:
                raise ConfigError(f"'{name}' is no operation on {kind}. There are {', '.join(usual(kind))}.")
        self.kind, self.names = kind, names

    @property
    def changing(self) -> tuple[str, ...]:
        """Those after which an image is of another class."""
        return tuple(name for name in self.names if self.kind in OPERATIONS[name].changes)

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse images that some of the operations are not for.

        Args:
            shape: of one image, channels first.

        Raises:
            ConfigError: these are no images, strokes have several channels, or an operation needs other
                channels or a square.
        """
        if len(shape) != 3:
            raise ConfigError(f"these operations are on images, and the inputs are of shape {shape}.")
        channels, height, width = shape
        if self.kind == "strokes" and channels != 1:
            raise ConfigError(f"strokes have one channel, and these images {channels}. Set photographs.")
        for name in self.names:
            if OPERATIONS[name].channels not in (None, channels):
                raise ConfigError(
                    f"'{name}' needs {OPERATIONS[name].channels} channels, and these images have {channels}. "
                    "Set strokes, or name the operations without it."
                )
        if "quarter_turn" in self.names and height != width:
            raise ConfigError(f"'quarter_turn' needs square images, and these are of shape {shape}.")

    def __call__(self, x: Tensor, drawn: Draw) -> Tensor:
        """Return images `[B, C, H, W]` after what was drawn for each; differentiable in the magnitude.

        Gradients of `cutout`, `posterize`, `solarize` and of what is done as a whole are those of the pixels
        alone.
        """
        for number in range(drawn.which.shape[1]):
            x = self._step(x, drawn.step(number))
        return x

    def _step(self, x: Tensor, drawn: Draw) -> Tensor:
        active = torch.where(drawn.magnitude == 0, -1, drawn.which)
        moving = torch.tensor([i for i, name in enumerate(self.names) if OPERATIONS[name].pixels is None])
        out = x.clone()
        for place, name in enumerate(self.names):
            operation = OPERATIONS[name]
            if operation.pixels is None:
                continue
            rows = (active == place).nonzero()[:, 0]
            if len(rows):
                strength = (operation.most[self.kind] * drawn.magnitude[rows]).view(-1, 1, 1, 1).to(x)
                where, rows = drawn.place[rows].to(x), rows.to(x.device)
                out[rows] = operation.pixels(x[rows], strength, where, self.kind)
        rows = torch.isin(active, moving).nonzero()[:, 0]
        if len(rows):
            own, rows = drawn.at(rows), rows.to(x.device)
            out[rows] = self._moved(x[rows], own)
        return out

    def _moved(self, x: Tensor, drawn: Draw) -> Tensor:
        """Move the pixels of all images at once: each has one operation, and the others' strengths are 0."""
        height, width = x.shape[-2:]
        names = [name for name, operation in OPERATIONS.items() if operation.pixels is None]
        most = torch.tensor([OPERATIONS[name].most.get(self.kind, 0) for name in names])
        own = torch.tensor([names.index(n) if n in names else -1 for n in self.names])[drawn.which]
        strengths = torch.where(own[:, None] == torch.arange(len(names)), most * drawn.magnitude[:, None], 0)
        strength = dict(zip(names, strengths.unbind(1), strict=True))
        turn, zoom = torch.deg2rad(strength["rotate"]), 1 / (1 + strength["scale"])
        cos, sin = turn.cos() * zoom, turn.sin()
        # From places in the result to places in the image, both from −1 to 1 along each axis.
        places = (
            *(cos, (strength["shear_x"] - sin) * height / width, 2 * strength["translate_x"]),
            *((strength["shear_y"] + sin) * width / height, cos, 2 * strength["translate_y"]),
        )
        bend = 2 * strength["elastic"].abs()[:, None, None] * drawn.bend.flatten(2)
        of_basis = torch.cat([torch.stack(places, 1).view(-1, 2, 3), bend], 2).to(x)
        grid = of_basis.flatten(0, 1) @ _basis(height, width).to(x)
        grid = grid.view(-1, 2, height, width).permute(0, 2, 3, 1)
        paper = PAPER[self.kind]
        inside = x - paper if paper else x
        moved = F.grid_sample(inside, grid, padding_mode="zeros", align_corners=False)
        return moved + paper if paper else moved
