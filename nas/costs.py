"""What a network costs besides the score that it earns: the names, and limits."""

from __future__ import annotations

from collections.abc import Mapping

COUNTED = ("parameters", "macs", "activations")
"""Counted of an architecture without running it; see `nas.backbone.Cost`."""

MEASURED = ("latency", "latency_batch")
"""Measured of a network before it is trained: seconds of a forward pass, of one example and of a batch."""

OWN = (*COUNTED, *MEASURED)
"""What a network costs, whatever it is trained for."""

COSTS = (*OWN, "seconds")
"""All that a trial costs, in the order in which it is told: `seconds` of a worker, too. Less is better."""

_UNITS = {"activations": "bytes of activations"} | {name: f"s of {name}" for name in MEASURED}


def excess(costs: Mapping[str, float], limits: Mapping[str, float]) -> str | None:
    """Return which limits, by cost, are broken and by how much; None: none is."""
    broken = [
        f"{_number(costs[name])} {_UNITS.get(name, name)}, {_number(costs[name] - limit)} more than "
        f"constraints.max_{name} = {_number(limit)}"
        for name, limit in limits.items()
        if costs[name] > limit
    ]
    return "; ".join(broken) or None


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}"
