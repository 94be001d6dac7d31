"""The layers of a backbone, each with what it returns and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.counting import Counter
from nas.space import Architecture, TaskShape


@dataclass(frozen=True, slots=True)
class LayerRow:
    """A module without modules in it, in the order in which it ran.

    Attributes:
        layer: its path in the network.
        kind: its class, with what torch says of it.
        output: shape of what it returns for one example, `4×14×14`.
        parameters: trainable weights.
        macs: multiply-accumulates for one example.
    """

    layer: str
    kind: str
    output: str
    parameters: int
    macs: int


def layers(space: BackboneSpace, architecture: Architecture, shape: TaskShape) -> list[LayerRow]:
    """Return what a network's layers cost, counted on the meta device: nothing is allocated.

    A layer that runs twice is there twice, the second time without its weights. What a network computes
    outside of such modules, such as a sum of maps, is no layer; its MACs are in `BackboneSpace.cost` alone.

    Raises:
        Infeasible: the architecture has no network for this shape.
    """
    with torch.device("meta"):
        backbone = space.build(architecture, shape).eval()
        example = torch.empty(1, *shape.input)
    found, seen = list[LayerRow](), set[int]()
    began = list[int]()

    def before(module: nn.Module, given: Any) -> None:
        began.append(counter.flops)

    def after(module: nn.Module, given: Any, output: Any) -> None:
        macs = (counter.flops - began.pop()) // 2
        fresh = [p for p in module.parameters() if p.requires_grad and id(p) not in seen]
        seen.update(map(id, fresh))
        returned = "×".join(map(str, output.shape[1:])) if isinstance(output, Tensor) else ""
        parameters = sum(p.numel() for p in fresh)
        found.append(LayerRow(names[module], _kind(module), returned, parameters, macs))

    names = {module: name for name, module in backbone.named_modules()}
    with torch.no_grad(), Counter(example) as counter:
        for module in backbone.modules():
            if not any(module.children()):
                module.register_forward_pre_hook(before)
                module.register_forward_hook(after)
        backbone(example)
    return found


def _kind(module: nn.Module) -> str:
    """Return a module's class, and of convolutions and pooling what they are like."""
    name = "Identity" if isinstance(module, nn.Sequential) else type(module).__name__
    kernel = getattr(module, "kernel_size", getattr(module, "kernel", None))
    if kernel is None:
        return name
    sides = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    stride = getattr(module, "stride", 1)
    stride = stride[0] if isinstance(stride, tuple) else stride
    groups = getattr(module, "groups", 1)
    told = [name, "×".join(map(str, sides))]
    return " ".join(told + [f"/{stride}"] * (stride > 1) + [f"groups {groups}"] * (groups > 1))
