"""A space of small backbones for few-shot learning on images of 28×28 to 84×84 pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, ClassVar, final

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import nn

from nas.backbone import BackboneSpace, Kinship
from nas.counting import count_once
from nas.drawing.graph import Graph
from nas.errors import Infeasible
from nas.space import Architecture, Decision, TaskShape
from nas.supernet import Supernet
from search_spaces.cells import drawn, edges_of
from search_spaces.few_shot_cells import (
    DOWN,
    OPERATIONS,
    PAIRS,
    PATHS,
    WEIGHTLESS,
    FewShotCell,
    Path,
    counterparts,
    down,
    operation,
    paths,
    routes,
    scale,
    tensors,
)
from search_spaces.few_shot_supernet import FewShotSupernet
from search_spaces.operations import Backbone, averaged, image_channels, on_edge

_STAGE = re.compile(r"(\w+)\|(\w+)~0\|\+\|(\w+)~0\|(\w+)~1\|", re.ASCII)


@final
class FewShot(BackboneSpace):
    """Stages that halve the map and double the channels, each with a small cell of its own.

    A stage begins with a 3×3 convolution and pooling of 2×2 (decision `down`). Its cell has an input, one
    node and an output; each of the three edges carries an operation. Batch norm, ReLU and global average
    pooling end the network.

    Layout and operations were chosen on Omniglot's validation classes (`docs/results/few_shot_space.md`). The
    defaults suit 28×28 pixels; for 84×84 set `stages = 4` and `channels = 8`.

    A stage is written as `down|…~0|+|…~0|…~1|`, with the edges as in the strings of NAS-Bench-201, and stages
    are joined by `/`. The canonical key is that of the cells as sums of paths (see `paths`).
    """

    name: ClassVar[str] = "few_shot"

    def __init__(
        self,
        *,
        channels: Annotated[int, Field(ge=1, description="channels C of the first stage")] = 24,
        stages: Annotated[int, Field(ge=1, le=6, description="stages, each with twice the channels")] = 2,
    ) -> None:
        self.channels = channels
        self.stages = stages
        self.decisions = tuple(
            decision
            for stage in range(1, stages + 1)
            for decision in (
                Decision(f"stage{stage}.down", DOWN),
                *(on_edge(f"stage{stage}.node{n}.from{s}", OPERATIONS) for s, n in PAIRS),
            )
        )

    @property
    def named(self) -> Mapping[str, Architecture]:
        """`residual`: max pooling, and two 3×3 convolutions parallel to a skip connection, in each stage."""
        return {"residual": self._parse("/".join([RESIDUAL] * self.stages))}

    def encode(self, architecture: Architecture) -> str:
        """Return the stages, such as `max_pool|conv_3x3~0|+|skip_connect~0|conv_3x3~1|`, joined by `/`."""
        return "/".join(f"{d}|{a}~0|+|{b}~0|{c}~1|" for d, (a, b, c) in self.stages_of(architecture))

    def decode(self, text: str) -> Architecture:
        """Read stages or a name."""
        return self.named.get(text) or self._parse(text)

    def stages_of(self, architecture: Architecture) -> list[tuple[str, tuple[str, ...]]]:
        """Return how each stage begins, and the operations of its edges."""
        chosen = [str(value) for value in self.values(self.check(architecture)).values()]
        step = 1 + len(PAIRS)
        return [(chosen[i], tuple(chosen[i + 1 : i + step])) for i in range(0, len(chosen), step)]

    def feasible_stages_of(self, architecture: Architecture) -> list[tuple[str, tuple[str, ...]]]:
        """Return what `stages_of` does.

        Raises:
            Infeasible: a cell is zero whatever its input.
        """
        stages = self.stages_of(architecture)
        for number, (_, operations) in enumerate(stages, 1):
            if not routes(operations):
                raise Infeasible(f"The cell of stage {number} is zero: every path through it meets a 'none'.")
        return stages

    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        """Return the cell of each stage."""
        return tuple(
            drawn(
                f"stage {stage}: 3×3 convolution, {begin} 2×2, then a cell of {channels} channels",
                ("input", "node", "output"),
                edges_of(PAIRS, ((name,) for name in operations)),
            )
            for stage, (begin, operations) in enumerate(self.stages_of(architecture), 1)
            for channels in (self.channels * 2 ** (stage - 1),)
        )

    def canonical(self, architecture: Architecture) -> str:
        """Return each stage as its beginning and its cell's expression in its input `0`."""
        stages = self.stages_of(architecture)
        return "/".join(f"{begin} {_expression(paths(operations))}" for begin, operations in stages)

    def features(self, architecture: Architecture) -> npt.NDArray[np.float32]:
        """Return for each stage whether it begins with `avg_pool`, and how often its cell has each path.

        Raises:
            Infeasible: a cell is zero whatever its input.
        """
        found = []
        for begin, operations in self.feasible_stages_of(architecture):
            cell = paths(operations)
            found += [begin == DOWN[1], *(cell.count(path) for path in PATHS)]
        return np.array(found, dtype=np.float32)

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse tasks whose inputs are no images."""
        image_channels(shape, self.name)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network.

        Raises:
            Infeasible: the inputs are no images, or a cell is zero whatever its input.
        """
        in_channels = image_channels(shape, self.name)
        stages = self.feasible_stages_of(architecture)
        return self.backbone(
            in_channels,
            lambda stage, *widths: count_once(down, stages[stage][0], *widths, first=not stage),
            lambda stage, width: FewShotCell(
                nn.Sequential(*(count_once(operation, name, width) for name in path))
                for path in paths(stages[stage][1])
            ),
        )

    def kinship(self, heir: Architecture, parent: Architecture) -> Kinship:
        """Return weights path by path: those of an equal path, else of one with an equal operation in place.

        A path without a counterpart that ends in batch norm adds nothing at first, so that a network with
        one more path begins as the function that it was.
        """
        names, silent = dict[str, str | None](), set[str]()
        pairs = zip(self.feasible_stages_of(heir), self.feasible_stages_of(parent), strict=True)
        for stage, ((_, own), (_, other)) in enumerate(pairs):
            cell = f"body.{2 * stage + 1}.paths"
            for place, path, akin, before in counterparts(paths(own), paths(other)):
                for step, name in enumerate(path):
                    same = before[step : step + 1] == (name,)
                    for tensor in tensors(name):
                        source = f"{cell}.{akin}.{step}.{tensor}" if same else None
                        names[f"{cell}.{place}.{step}.{tensor}"] = source
                learned = [step for step, name in enumerate(path) if name not in WEIGHTLESS]
                if akin is None and learned:
                    silent.add(f"{cell}.{place}.{learned[-1]}.{scale(path[learned[-1]])}")
        return Kinship(names, frozenset(silent))

    def supernet(self, shape: TaskShape) -> Supernet:
        """Build every architecture at once; see `FewShotSupernet`.

        Raises:
            Infeasible: the inputs are no images.
        """
        return FewShotSupernet(self, image_channels(shape, self.name))

    def backbone(
        self,
        in_channels: int,
        begin: Callable[[int, int, int], nn.Module],
        cell: Callable[[int, int], nn.Module],
    ) -> Backbone:
        """Return the network around its stages.

        Args:
            in_channels: of the images.
            begin: makes what halves the map, for a stage (from 0), channels and new channels.
            cell: makes a stage's cell, for a stage and its channels.
        """
        widths = [in_channels, *(self.channels * 2**stage for stage in range(self.stages))]
        body: list[nn.Module] = []
        for stage in range(self.stages):
            body += [begin(stage, widths[stage], widths[stage + 1]), cell(stage, widths[stage + 1])]
        return Backbone(nn.Sequential(*body, *averaged(widths[-1])), widths[-1])

    def _parse(self, text: str) -> Architecture:
        stages = [_STAGE.fullmatch(stage) for stage in text.split("/")]
        if len(stages) != self.stages or None in stages:
            raise self.unreadable(text, f"{self.stages} stages joined by '/', each such as '{RESIDUAL}'")
        values = (value for match in stages if match for value in match.groups())
        return self.choosing({d.name: own for d, own in zip(self.decisions, values, strict=True)})


RESIDUAL = "max_pool|conv_3x3~0|+|skip_connect~0|conv_3x3~1|"


def _expression(cell: Iterable[Path]) -> str:
    terms = []
    for path in cell:
        term = "0"
        for name in path:
            term = f"{name}({term})"
        terms.append(term)
    return "+".join(terms) or "#"
