"""Motifs of motifs (Liu et al., ICLR 2018, §2): graphs whose edges are operations, or graphs again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor, nn

from nas.counting import count_once
from search_spaces.cells import ABSENT, SKIP, pairs
from search_spaces.isomorphism import canonical_order, form
from search_spaces.operations import AveragePool, conv_bn_relu

PRIMITIVES = (ABSENT, SKIP, "conv_1x1", "depthwise_3x3", "sep_conv_3x3", "max_pool_3x3", "avg_pool_3x3")
"""The operations of the first level, and the edge that is not there."""

Motif: TypeAlias = tuple[str, ...]
"""What each edge of a motif carries, by node, then source: an operation, the number of a motif, or `none`."""


class Step(NamedTuple):
    """What is computed of earlier values; value 0 is the input, value 1 + i that of step i.

    Attributes:
        operation: that is applied to one value; empty: several are merged.
        sources: the values.
    """

    operation: str
    sources: tuple[int, ...]


Plan: TypeAlias = tuple[Step, ...]
"""The steps of a motif, the last of which is its output; none: it passes on its input."""


@lru_cache(8192)
def plan_of(motif: Motif, nodes: int, passed: frozenset[str], dropped: frozenset[str]) -> Plan | None:
    """Return what a motif computes, in an order that depends on its graph alone; None: it is zero.

    What does not reach the output is left out, an edge that passes on its source is no step, and a node of
    one incoming edge is what this edge brings.

    Args:
        motif: what its edges carry.
        nodes: of the motif, its input and its output among them.
        passed: what passes on its source.
        dropped: what is zero.
    """
    edges = dict(zip(pairs(nodes), motif, strict=True))
    steps, values = list[Step](), [0, *[None] * (nodes - 1)]
    for node in range(1, nodes):
        arriving = list[int]()
        for source in range(node):
            carried, value = edges[source, node], values[source]
            if carried in dropped or value is None:
                continue
            if carried in passed:
                arriving.append(value)
            else:
                steps.append(Step(carried, (value,)))
                arriving.append(len(steps))
        if len(arriving) > 1:
            steps.append(Step("", tuple(sorted(arriving))))
            values[node] = len(steps)
        elif arriving:
            values[node] = arriving[0]
    last = values[-1]
    return None if last is None else _ordered(steps, last)


def _ordered(steps: Sequence[Step], last: int) -> Plan:
    """Return the steps that the output needs, renumbered; the output comes last."""
    needed = {last}
    for value in range(len(steps), 0, -1):
        if value in needed:
            needed.update(steps[value - 1].sources)
    kept = [value for value in range(len(steps) + 1) if value in needed]
    if not last:
        return ()
    place = {value: i for i, value in enumerate(kept)}
    names = sorted({steps[value - 1].operation for value in kept if value})
    labels = [(0,), *((1 + names.index(steps[value - 1].operation),) for value in kept[1:])]
    sources = [(), *(tuple(place[s] for s in steps[value - 1].sources) for value in kept[1:])]
    order = canonical_order(labels, sources)
    rows = form(order, labels, sources)
    return tuple(Step(names[label[0] - 1], own) for label, own in rows[1:])


def written(plan: Plan | None) -> str:
    """Return a plan as text."""
    if plan is None:
        return "#"
    steps = (f"{step.operation}({'+'.join(map(str, step.sources))})" for step in plan)
    return " ".join(steps) or "0"


def primitive(name: str, channels: int) -> nn.Module:
    """Return a fresh operation that keeps the shape; convolutions end in batch norm and ReLU."""
    match name:
        case "conv_1x1":
            return conv_bn_relu(channels, channels, (1, 1), 1)
        case "depthwise_3x3":
            return depthwise_bn_relu(channels)
        case "sep_conv_3x3":
            return separable_bn_relu(channels, channels, 1)
        case "max_pool_3x3":
            return nn.MaxPool2d(3, 1, padding=1)
        case "avg_pool_3x3":
            return AveragePool(3)
    raise ValueError(f"No module for operation '{name}'.")


def depthwise_bn_relu(channels: int) -> nn.Sequential:
    """Return a depthwise 3×3 convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


def separable_bn_relu(channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Return a depthwise and a pointwise convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        *conv_bn_relu(channels, out_channels, (1, 1), 1),
    )


def motif(plan: Plan, channels: int) -> MotifNetwork:
    """Return a motif of fresh operations."""
    return MotifNetwork(plan, channels, lambda name: count_once(primitive, name, channels))


@final
class MotifNetwork(nn.Module):
    """The steps of a motif: `[B, C, H, W]` to the same shape.

    What is merged is concatenated, and a 1×1 convolution with batch norm and ReLU fits it to C channels.

    Args:
        plan: its steps.
        channels: C.
        make: makes what a step applies, by its name.
    """

    def __init__(self, plan: Plan, channels: int, make: Callable[[str], nn.Module]) -> None:
        super().__init__()
        self.sources = tuple(step.sources for step in plan)
        self.steps = nn.ModuleList(
            make(step.operation)
            if step.operation
            else count_once(conv_bn_relu, len(step.sources) * channels, channels, (1, 1), 1)
            for step in plan
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output."""
        values = [x]
        for module, sources in zip(self.steps, self.sources, strict=True):
            maps = [values[source] for source in sources]
            values.append(module(torch.cat(maps, 1) if len(maps) > 1 else maps[0]))
        return values[-1]
