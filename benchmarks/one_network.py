"""A space of one network of another space: for searches that choose everything but the network."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from nas.backbone import BackboneSpace
from nas.plugins import load
from nas.space import Architecture, Decision, TaskShape


class OneNetwork(BackboneSpace):
    """The network of a space that a text names, or its default."""

    name: ClassVar[str] = "one_network"

    def __init__(
        self,
        *,
        of: Annotated[str, Field(description="the space, at its own settings")] = "chain",
        network: Annotated[str | None, Field(description="its text; by default the space's default")] = None,
    ) -> None:
        self._space: BackboneSpace = load("space", of)()
        space = self._space
        self._network = space.default if network is None else space.decode(network)
        self.decisions = (Decision("network", (space.text(self._network),)),)

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse what the space refuses."""
        self._space.check_shape(shape)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network."""
        self.check(architecture)
        return self._space.build(self._network, shape)

    def canonical(self, architecture: Architecture) -> str:
        """There is one."""
        return self.encode(architecture)
