"""The size of a network as a proxy: what every other proxy has to beat."""

from __future__ import annotations

from typing import final

from nas.proxies.base import Proxy, Subject


@final
class Parameters(Proxy):
    """The number of trainable weights of the backbone."""

    name = counts = "parameters"

    def measure(self, subject: Subject) -> float:
        """Return the count."""
        return subject.cost.parameters


@final
class Macs(Proxy):
    """The multiply-accumulates of the backbone for one example."""

    name = counts = "macs"

    def measure(self, subject: Subject) -> float:
        """Return the count."""
        return subject.cost.macs
