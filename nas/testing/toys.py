"""A toy search space whose best architecture is known, and its deterministic score."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, final

from pydantic import Field
from torch import nn

from nas.backbone import BackboneSpace
from nas.errors import Infeasible
from nas.space import Architecture, Decision, TaskShape

WIDTHS = (2, 4, 8, 16)


@final
class Toy(BackboneSpace):
    """A stack of linear layers: how many, how wide each, and which activation.

    It has what makes spaces awkward: the widths of layers beyond the chosen depth are dead, so that encodings
    fold into one canonical key; a first layer wider than the input is infeasible; one decision has a single
    choice; choices are numbers and strings.
    """

    name: ClassVar[str] = "toy"

    def __init__(self, *, layers: Annotated[int, Field(ge=1, description="layers at most")] = 8) -> None:
        self.decisions = (
            Decision("layers", tuple(range(1, layers + 1))),
            *(Decision(f"width{i}", WIDTHS) for i in range(layers)),
            Decision("activation", ("relu", "tanh")),
            Decision("bias", ("learned",)),
        )

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the stack; see `BackboneSpace.build`."""
        widths, activation = self._live(architecture)
        features = math.prod(shape.input)
        if widths[0] > features:
            raise Infeasible(f"A first layer of width {widths[0]} is wider than the input, {features}.")
        modules: list[nn.Module] = [nn.Flatten()]
        for wide, narrow in zip((features, *widths), widths, strict=False):
            modules += [nn.Linear(wide, narrow), nn.ReLU() if activation == "relu" else nn.Tanh()]
        return _Stack(*modules)

    def canonical(self, architecture: Architecture) -> str:
        """Return the live widths and the activation."""
        widths, activation = self._live(architecture)
        return f"{'-'.join(map(str, widths))}-{activation}"

    def score(self, architecture: Architecture) -> float:
        """Score an architecture without training: 1 at best, at full depth with widths 2, 4, 8, 16, 2, ….

        Each live layer adds up to one part in `layers`, less the farther its width is from its target. Equal
        canonical keys score alike; the activation is worth nothing.
        """
        widths, _ = self._live(architecture)
        layers, steps = len(self.decisions[0].choices), len(WIDTHS) - 1
        off = (abs(WIDTHS.index(width) - i % len(WIDTHS)) for i, width in enumerate(widths))
        return sum(1 - distance / steps for distance in off) / layers

    def _live(self, architecture: Architecture) -> tuple[tuple[int, ...], str]:
        """Return the widths of the layers that exist, and the activation."""
        depth, *widths, activation, _ = self.check(architecture).choices
        chosen = self.decisions[-2].choices[activation]
        return tuple(WIDTHS[width] for width in widths[: depth + 1]), str(chosen)


class _Stack(nn.Sequential):
    @property
    def out_features(self) -> int:
        return int(next(m for m in reversed(list(self)) if isinstance(m, nn.Linear)).out_features)
