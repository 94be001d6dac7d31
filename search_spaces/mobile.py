"""Stages of inverted bottlenecks, elastic in kernel, expansion, depth and width (Cai et al., ICLR 2020)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, final

from pydantic import Field
from torch import nn

from nas.backbone import BackboneSpace
from nas.counting import count_once
from nas.drawing.graph import Graph, Vertex, chained
from nas.errors import ConfigError, Infeasible
from nas.space import Architecture, Decision, TaskShape
from nas.supernet import Supernet
from search_spaces.mobile_blocks import BlockPlan, InvertedBottleneck, StagePlan
from search_spaces.mobile_supernet import MobileSupernet
from search_spaces.operations import Backbone, conv_bn_relu, image_channels

Sizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]

_STAGE = re.compile(r"(\d{1,5}):(.+)", re.ASCII)
_BLOCK = re.compile(r"k(\d)e(\d{1,2})(s?)", re.ASCII)


@final
class Mobile(BackboneSpace):
    """Stages of inverted bottlenecks: how wide, how many, and of each its kernel, expansion and squeeze.

    A 3×3 convolution of stride 1; stages whose first block halves the map; global average pooling. A stage's
    width is chosen among `widths`, doubled from stage to stage. What is chosen of blocks beyond the depth is
    inactive.

    A stage is written as its width and its blocks, `16:k3e4,k5e2s`, with `s` for squeeze and excitation;
    stages are joined by a blank, and inactive blocks stand in parentheses, `16:k3e4,(k5e2s)`. The key leaves
    them out. Its supernet slices the weights of the largest network, as in Once-for-all.
    """

    name: ClassVar[str] = "mobile"

    def __init__(
        self,
        *,
        stages: Annotated[int, Field(ge=1, le=6, description="stages, each of which halves the map")] = 2,
        stem: Annotated[int, Field(ge=1, description="channels of the first convolution")] = 16,
        depths: Annotated[Sizes, Field(description="blocks of a stage")] = (1, 2),
        widths: Annotated[
            Sizes, Field(description="channels of the first stage's blocks, doubled by each further stage")
        ] = (12, 16, 24),
        kernels: Annotated[Sizes, Field(description="kernels, odd")] = (3, 5),
        expansions: Annotated[
            Sizes, Field(description="hidden channels of a block, in multiples of its input's")
        ] = (2, 4, 6),
    ) -> None:
        given = {"depths": depths, "widths": widths, "kernels": kernels, "expansions": expansions}
        for setting, values in given.items():
            if list(values) != sorted(set(values)):
                raise ConfigError(f"space.{setting}: give it ascending, each once (given: {list(values)})")
        if not all(kernel % 2 and kernel < 10 for kernel in kernels):
            raise ConfigError(f"space.kernels: kernels are odd and below 10 (given: {list(kernels)})")
        depths, widths, kernels, expansions = map(tuple, (depths, widths, kernels, expansions))
        self.stages, self.stem_channels = stages, stem
        self.depths, self.widths, self.kernels, self.expansions = depths, widths, kernels, expansions
        decisions = list[Decision]()
        for stage in range(1, stages + 1):
            own = tuple(width * 2 ** (stage - 1) for width in widths)
            decisions += [Decision(f"stage{stage}.width", own), Decision(f"stage{stage}.depth", depths)]
            for block in range(1, depths[-1] + 1):
                prefix = f"stage{stage}.block{block}"
                decisions += [
                    Decision(f"{prefix}.kernel", kernels),
                    Decision(f"{prefix}.expansion", expansions),
                    Decision(f"{prefix}.squeeze", (0, 1)),
                ]
        self.decisions = tuple(decisions)

    @property
    def named(self) -> Mapping[str, Architecture]:
        """`mobilenet_v2`: the widest and deepest, 3×3 kernels, expansion 6, no squeeze, where allowed."""
        if 3 not in self.kernels or 6 not in self.expansions:
            return {}
        chosen = {
            decision.name: {"kernel": 3, "expansion": 6, "squeeze": 0}.get(
                decision.name.rpartition(".")[2], decision.choices[-1]
            )
            for decision in self.decisions
        }
        return {"mobilenet_v2": self.choosing(chosen)}

    def plans_of(self, architecture: Architecture) -> list[StagePlan]:
        """Return the stages that an architecture describes, without inactive blocks."""
        return [plan._replace(blocks=plan.blocks[:depth]) for plan, depth in self._written(architecture)]

    def _written(self, architecture: Architecture) -> list[tuple[StagePlan, int]]:
        """Return each stage with all its blocks, and how many of them are active."""
        values = {name: int(value) for name, value in self.values(self.check(architecture)).items()}
        found = []
        for stage in (f"stage{number}" for number in range(1, self.stages + 1)):
            blocks = tuple(
                BlockPlan(
                    *(values[f"{stage}.block{b}.{what}"] for what in ("kernel", "expansion", "squeeze"))
                )
                for b in range(1, self.depths[-1] + 1)
            )
            found.append((StagePlan(values[f"{stage}.width"], blocks), values[f"{stage}.depth"]))
        return found

    def encode(self, architecture: Architecture) -> str:
        """Return the stages, such as `16:k3e4,(k5e2s) 32:k3e4,k3e4`."""
        return " ".join(
            f"{plan.channels}:"
            + ",".join(_block(b) if i < depth else f"({_block(b)})" for i, b in enumerate(plan.blocks))
            for plan, depth in self._written(architecture)
        )

    def decode(self, text: str) -> Architecture:
        """Read stages or a name."""
        if text in self.named:
            return self.named[text]
        form = (
            f"{self.stages} stages of {self.depths[-1]} blocks joined by blanks, each such as "
            f"'{self.encode(self.default).split(' ')[0]}' (width : kernel and expansion, s to squeeze, "
            "inactive blocks in parentheses)"
        )
        stages, chosen = text.split(" "), dict[str, str | int]()
        for number, part in enumerate(stages, 1):
            match = _STAGE.fullmatch(part)
            blocks = match[2].split(",") if match else []
            active = [not block.startswith("(") for block in blocks]
            read = [
                _BLOCK.fullmatch(b if there else b[1:-1]) for b, there in zip(blocks, active, strict=True)
            ]
            closed = all(there or block.endswith(")") for there, block in zip(active, blocks, strict=True))
            if match is None or None in read or not closed or active != sorted(active, reverse=True):
                raise self.unreadable(text, form)
            if len(blocks) != self.depths[-1] or len(stages) != self.stages:
                raise self.unreadable(text, form)
            chosen |= {f"stage{number}.width": int(match[1]), f"stage{number}.depth": sum(active)}
            for block, own in enumerate((own for own in read if own), 1):
                prefix = f"stage{number}.block{block}"
                chosen |= {f"{prefix}.kernel": int(own[1]), f"{prefix}.expansion": int(own[2])}
                chosen[f"{prefix}.squeeze"] = int(bool(own[3]))
        return self.choosing(chosen)

    def canonical(self, architecture: Architecture) -> str:
        """Return the stages without inactive blocks."""
        return " ".join(
            f"{channels}:" + ",".join(map(_block, blocks)) for channels, blocks in self.plans_of(architecture)
        )

    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        """Return the blocks in a row."""
        row = [Vertex("image"), Vertex("conv 3×3", f"{self.stem_channels} channels")]
        for channels, blocks in self.plans_of(architecture):
            for number, (kernel, expansion, squeeze) in enumerate(blocks):
                name = f"{kernel}×{kernel}" + ("" if number else " /2") + (" + SE" if squeeze else "")
                row.append(Vertex(name, f"×{expansion}, {channels} channels"))
        return (chained("network of inverted bottlenecks", (*row, Vertex("average"))),)

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse tasks whose inputs are no images, or smaller than the strides take."""
        image_channels(shape, self.name)
        self._fits(shape)

    def _fits(self, shape: TaskShape) -> None:
        least = 2 ** (self.stages - 1) + 1
        if min(shape.input[1:]) < least:
            raise Infeasible(
                f"{self.stages} stages halve the map {self.stages} times, which takes images of at least "
                f"{least} × {least} pixels; these have {shape.input[1]} × {shape.input[2]}. "
                "Set space.stages lower."
            )

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network.

        Raises:
            Infeasible: the inputs are no images, or too small for the strides.
        """
        in_channels, plans = image_channels(shape, self.name), self.plans_of(architecture)
        self._fits(shape)
        body: list[nn.Module] = [count_once(self.stem, in_channels)]
        width = self.stem_channels
        for channels, blocks in plans:
            for number, plan in enumerate(blocks):
                body.append(count_once(InvertedBottleneck, width, channels, plan, 1 if number else 2))
                width = channels
        return Backbone(nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width)

    def stem(self, in_channels: int) -> nn.Sequential:
        """Return the first convolution."""
        return conv_bn_relu(in_channels, self.stem_channels, (3, 3), 1)

    def supernet(self, shape: TaskShape) -> Supernet:
        """Build every architecture at once; see `MobileSupernet`.

        Raises:
            Infeasible: as `build`.
        """
        in_channels = image_channels(shape, self.name)
        self._fits(shape)
        return MobileSupernet(self, in_channels)


def _block(plan: BlockPlan) -> str:
    return f"k{plan.kernel}e{plan.expansion}{'s' * plan.squeeze}"
