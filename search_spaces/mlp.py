"""Multilayer perceptrons for vectors, such as the sinusoid regression of MAML (Finn et al. 2017, §5.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, final

from pydantic import Field
from torch import nn

from nas.backbone import BackboneSpace
from nas.drawing.graph import Graph, Vertex, chained
from nas.errors import ConfigError
from nas.space import Architecture, Decision, TaskShape
from search_spaces.operations import Backbone

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU}


@final
class Mlp(BackboneSpace):
    """Hidden layers of a chosen width, 0 for none, that share one activation.

    The text form lists the widths and the activation: `40-40-0-relu`. The canonical key leaves absent layers
    out: `40-40-relu`; it is `identity` if none is left.
    """

    name: ClassVar[str] = "mlp"

    def __init__(
        self,
        *,
        layers: Annotated[int, Field(ge=1, le=16, description="hidden layers at most")] = 3,
        widths: Annotated[
            tuple[Annotated[int, Field(ge=0)], ...],
            Field(min_length=1, description="widths of a layer to choose from; 0: no layer"),
        ] = (0, 20, 40, 80),
    ) -> None:
        if len(set(widths)) < len(widths):
            raise ConfigError(f"space.widths: a choice is given twice (given: {list(widths)})")
        self.decisions = (
            *(Decision(f"layer{layer}.width", tuple(widths)) for layer in range(1, layers + 1)),
            Decision("activation", tuple(ACTIVATIONS)),
        )

    @property
    def named(self) -> Mapping[str, Architecture]:
        """`maml`, two layers of 40 and ReLU (Finn et al. 2017, §5.1)."""
        parts = ["40", "40", *["0"] * (len(self.decisions) - 3), "relu"]
        try:
            return {"maml": self._parse(parts)}
        except ValueError:
            return {}

    def encode(self, architecture: Architecture) -> str:
        """Return widths and activation: `40-40-0-relu`."""
        return "-".join(map(str, self.values(self.check(architecture)).values()))

    def decode(self, text: str) -> Architecture:
        """Read widths and activation, or a name."""
        if text in self.named:
            return self.named[text]
        try:
            return self._parse(text.split("-"))
        except ValueError:
            choices = "-".join(f"({'|'.join(map(str, d.choices))})" for d in self.decisions)
            example = "-".join(str(d.choices[-1]) for d in self.decisions)
            raise self.unreadable(text, f"{choices}, such as {example}") from None

    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        """Return the layers that are there."""
        hidden, activation = self._read(architecture)
        row = (Vertex(f"linear, {activation}", str(width)) for width in hidden)
        return (chained("network", (Vertex("input"), *row, Vertex("features"))),)

    def canonical(self, architecture: Architecture) -> str:
        """Return the widths of the layers that are there, and the activation."""
        hidden, activation = self._read(architecture)
        return "-".join([*map(str, hidden), activation]) if hidden else "identity"

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network; images are flattened, and so are its features if no layer is there."""
        hidden, activation = self._read(architecture)
        width = math.prod(shape.input)
        body: list[nn.Module] = [nn.Flatten()]
        for out in hidden:
            body += [nn.Linear(width, out), ACTIVATIONS[activation]()]
            width = out
        return Backbone(nn.Sequential(*body), width)

    def _read(self, architecture: Architecture) -> tuple[list[int], str]:
        *widths, activation = self.values(self.check(architecture)).values()
        return [int(width) for width in widths if width], str(activation)

    def _parse(self, parts: list[str]) -> Architecture:
        """Return the architecture with these widths and activation.

        Raises:
            ValueError: the space has none.
        """
        decisions = zip(self.decisions, parts, strict=True)
        return Architecture(self.name, tuple([str(c) for c in d.choices].index(p) for d, p in decisions))
