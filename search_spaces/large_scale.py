"""Large-scale evolution of image classifiers (Real et al., ICML 2017): networks that grow by mutation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Annotated, ClassVar, final

import numpy as np
from pydantic import Field
from torch import nn

from nas.backbone import BackboneSpace, Kinship
from nas.drawing.graph import Arrow, Graph, Vertex
from nas.errors import ConfigError, Infeasible
from nas.space import Architecture, Decision, Mutation, TaskShape
from search_spaces.large_scale_layers import IDENTITY, LINEAR, RELU, GrownLayer, GrownNetwork, widths
from search_spaces.operations import image_channels

ABSENT_LAYER = "none"

Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]

_LAYER = re.compile(r"(\w+):(\w+)/(\d{1,4}):(\d{1,5})(?:@(\d{1,2}(?:\+\d{1,2})*))?", re.ASCII)

Change = Callable[[list[GrownLayer], np.random.Generator], list[GrownLayer] | None]


@final
class LargeScale(BackboneSpace):
    """A row of layers, none at first, that the paper's mutations insert, alter and remove.

    A layer is an edge from the value before, a convolution or an identity; what earlier values add to it by
    skip edges, brought to its size by nearest pixels and to its channels by cutting or padding; and batch
    norm and ReLU, or nothing (`linear`). The mean of the last map is the output; where it does not come from
    batch norm, one is added, so that features are of one scale. The network without layers, `trivial`, is the
    mean of each channel of the image: the paper's evolution starts from it.

    All decisions of a layer that is not there are inactive, and so are skip edges that lead from nowhere. A
    layer is written `relu:3x3/1:16@0+2`, with its stride, its channels and what it adds, the image as 0;
    one that is not there stands in parentheses. The canonical key leaves out what is inactive.

    The mutations are the paper's (§3.2), each as likely: insert or remove a convolution, alter a stride, the
    channels or the filter's size, insert a layer with an identity, add or remove a skip edge. Altering the
    learning rate is a matter of `slots.learner`. `lamarckian` lets a mutant's layers begin with the weights
    of its parent's where shapes match; which layer came from which is told by their likeness.
    """

    name: ClassVar[str] = "large_scale"

    def __init__(
        self,
        *,
        layers: Annotated[int, Field(ge=1, le=32, description="layers at most")] = 10,
        kernels: Annotated[Counts, Field(description="sizes of filters, odd")] = (1, 3, 5),
        strides: Annotated[Counts, Field(description="strides")] = (1, 2),
        channels: Annotated[Counts, Field(description="numbers of channels")] = (8, 16, 32, 64),
    ) -> None:
        for setting, values in {"kernels": kernels, "strides": strides, "channels": channels}.items():
            if len(set(values)) < len(values):
                raise ConfigError(f"space.{setting}: a choice is given twice (given: {list(values)})")
        if not all(kernel % 2 and kernel < 10 for kernel in kernels):
            raise ConfigError(f"space.kernels: filters are odd and below 10 (given: {list(kernels)})")
        self.layers, self.strides, self.channels = layers, tuple(strides), tuple(channels)
        self.edges = tuple(f"{kernel}x{kernel}" for kernel in kernels)
        decisions = list[Decision]()
        for layer in range(1, layers + 1):
            decisions += [
                Decision(f"layer{layer}.kind", (ABSENT_LAYER, RELU, LINEAR)),
                Decision(f"layer{layer}.edge", (IDENTITY, *self.edges)),
                Decision(f"layer{layer}.stride", self.strides),
                Decision(f"layer{layer}.channels", self.channels),
                *(Decision(f"layer{layer}.skip{source}", (0, 1)) for source in range(layer - 1)),
            ]
        self.decisions = tuple(decisions)

    @property
    def named(self) -> Mapping[str, Architecture]:
        """`trivial`, the network without layers."""
        return {"trivial": Architecture(self.name, (0,) * len(self.decisions))}

    @property
    def mutations(self) -> Mapping[str, Mutation]:
        """The paper's (§3.2)."""
        changes: dict[str, Change] = {
            "insert_convolution": self._insert_convolution,
            "remove_convolution": self._remove_convolution,
            "alter_stride": lambda layers, rng: self._alter(layers, rng, "stride", self.strides),
            "alter_channels": lambda layers, rng: self._alter(layers, rng, "channels", self.channels),
            "filter_size": lambda layers, rng: self._alter(layers, rng, "edge", self.edges),
            "insert_one_to_one": self._insert_one_to_one,
            "add_skip": self._add_skip,
            "remove_skip": self._remove_skip,
        }

        def mutation(change: Change) -> Mutation:
            def apply(architecture: Architecture, rng: np.random.Generator) -> Architecture | None:
                changed = change(self.layers_of(architecture), rng)
                return None if changed is None else self.architecture_of(changed)

            return apply

        return {name: mutation(change) for name, change in changes.items()}

    def _insert(
        self, layers: list[GrownLayer], rng: np.random.Generator, make: Callable[[int], GrownLayer]
    ) -> list[GrownLayer] | None:
        if len(layers) == self.layers:
            return None
        place = int(rng.integers(len(layers) + 1))
        after = [
            layer._replace(skips=tuple(skip + (skip > place) for skip in layer.skips))
            for layer in layers[place:]
        ]
        return [*layers[:place], make(place), *after]

    def _insert_convolution(
        self, layers: list[GrownLayer], rng: np.random.Generator
    ) -> list[GrownLayer] | None:
        def make(place: int) -> GrownLayer:
            # With the channels of what it is put behind, as the paper has it, where these can be chosen.
            before = widths(layers[:place], self.channels[0])[-1]
            kind = (RELU, LINEAR)[int(rng.integers(2))]
            edge = "3x3" if "3x3" in self.edges else self.edges[0]
            return GrownLayer(kind, edge, self.strides[0], before)

        return self._insert(layers, rng, make)

    def _insert_one_to_one(
        self, layers: list[GrownLayer], rng: np.random.Generator
    ) -> list[GrownLayer] | None:
        kind = (RELU, LINEAR)[int(rng.integers(2))]
        return self._insert(
            layers, rng, lambda place: GrownLayer(kind, IDENTITY, self.strides[0], self.channels[0])
        )

    def _remove_convolution(
        self, layers: list[GrownLayer], rng: np.random.Generator
    ) -> list[GrownLayer] | None:
        places = [place for place, layer in enumerate(layers) if layer.edge != IDENTITY]
        if not places:
            return None
        place = places[int(rng.integers(len(places)))]
        after = [
            layer._replace(skips=tuple(skip - (skip > place) for skip in layer.skips if skip != place + 1))
            for layer in layers[place + 1 :]
        ]
        # What skipped to the value before the removed layer now follows it.
        fixed = [
            layer._replace(skips=tuple(skip for skip in layer.skips if skip < number))
            for number, layer in enumerate(after, place)
        ]
        return [*layers[:place], *fixed]

    def _alter(
        self,
        layers: list[GrownLayer],
        rng: np.random.Generator,
        field: str,
        choices: Sequence[int | str],
    ) -> list[GrownLayer] | None:
        places = [place for place, layer in enumerate(layers) if layer.edge != IDENTITY]
        if not places or len(choices) < 2:
            return None
        place = places[int(rng.integers(len(places)))]
        own = layers[place]._asdict()
        others = [choice for choice in choices if choice != own[field]]
        changed = GrownLayer(**{**own, field: others[int(rng.integers(len(others)))]})
        return [*layers[:place], changed, *layers[place + 1 :]]

    def _add_skip(self, layers: list[GrownLayer], rng: np.random.Generator) -> list[GrownLayer] | None:
        free = [
            (place, skip)
            for place, layer in enumerate(layers)
            for skip in range(place)
            if skip not in layer.skips
        ]
        if not free:
            return None
        place, skip = free[int(rng.integers(len(free)))]
        changed = layers[place]._replace(skips=tuple(sorted((*layers[place].skips, skip))))
        return [*layers[:place], changed, *layers[place + 1 :]]

    def _remove_skip(self, layers: list[GrownLayer], rng: np.random.Generator) -> list[GrownLayer] | None:
        there = [(place, skip) for place, layer in enumerate(layers) for skip in layer.skips]
        if not there:
            return None
        place, skip = there[int(rng.integers(len(there)))]
        changed = layers[place]._replace(skips=tuple(s for s in layers[place].skips if s != skip))
        return [*layers[:place], changed, *layers[place + 1 :]]

    def encode(self, architecture: Architecture) -> str:
        """Return the layers joined by blanks, those that are not there in parentheses."""
        kinds = self.values(self.check(architecture))
        texts = []
        for number, layer in enumerate(self._all(architecture), 1):
            there = kinds[f"layer{number}.kind"] != ABSENT_LAYER
            texts.append(str(layer) if there else f"({layer})")
        return " ".join(texts)

    def decode(self, text: str) -> Architecture:
        """Read layers, fewer than the space has too, or a name."""
        if text in self.named:
            return self.named[text]
        form = (
            f"up to {self.layers} layers joined by blanks, such as 'relu:3x3/1:16 linear:1x1/2:32@0' "
            "(kind : edge / stride : channels @ skip edges)"
        )
        parts, chosen = text.split(" "), dict[str, str | int]()
        if len(parts) > self.layers:
            raise self.unreadable(text, form)
        parts += [f"({ABSENT_LAYER}:{IDENTITY}/{self.strides[0]}:{self.channels[0]})"] * (
            self.layers - len(parts)
        )
        for number, part in enumerate(parts, 1):
            absent = part.startswith("(") and part.endswith(")")
            match = _LAYER.fullmatch(part[1:-1] if absent else part)
            if match is None or absent != (match[1] == ABSENT_LAYER):
                raise self.unreadable(text, form)
            skips = {int(skip) for skip in match[5].split("+")} if match[5] else set()
            chosen |= {
                f"layer{number}.kind": match[1],
                f"layer{number}.edge": match[2],
                f"layer{number}.stride": int(match[3]),
                f"layer{number}.channels": int(match[4]),
            }
            sources = sorted({*range(number - 1), *skips})
            chosen |= {f"layer{number}.skip{source}": int(source in skips) for source in sources}
        return self.choosing(chosen)

    def _all(self, architecture: Architecture) -> list[GrownLayer]:
        """Return every layer, those that are not there as well."""
        values = self.values(self.check(architecture))
        return [
            GrownLayer(
                str(values[f"layer{layer}.kind"]),
                str(values[f"layer{layer}.edge"]),
                int(values[f"layer{layer}.stride"]),
                int(values[f"layer{layer}.channels"]),
                tuple(source for source in range(layer - 1) if values[f"layer{layer}.skip{source}"]),
            )
            for layer in range(1, self.layers + 1)
        ]

    def layers_of(self, architecture: Architecture) -> list[GrownLayer]:
        """Return the layers that are there, without inactive skip edges."""
        place, found = {0: 0}, list[GrownLayer]()
        for number, layer in enumerate(self._all(architecture), 1):
            if layer.kind != ABSENT_LAYER:
                skips = (place[skip] for skip in layer.skips if skip in place)
                own = tuple(sorted(skip for skip in skips if skip < len(found)))
                channels = self.channels[0] if layer.edge == IDENTITY else layer.channels
                found.append(layer._replace(skips=own, channels=channels))
                place[number] = len(found)
        return found

    def architecture_of(self, layers: Sequence[GrownLayer]) -> Architecture:
        """Return the architecture with these layers at the first places."""
        absent = GrownLayer(ABSENT_LAYER, IDENTITY, self.strides[0], self.channels[0])
        chosen = dict[str, str | int]()
        for number, layer in enumerate([*layers, *[absent] * (self.layers - len(layers))], 1):
            prefix = f"layer{number}"
            chosen |= {f"{prefix}.kind": layer.kind, f"{prefix}.edge": layer.edge}
            chosen |= {f"{prefix}.stride": layer.stride, f"{prefix}.channels": layer.channels}
            chosen |= {f"{prefix}.skip{source}": int(source in layer.skips) for source in range(number - 1)}
        return self.choosing(chosen)

    def canonical(self, architecture: Architecture) -> str:
        """Return the layers that are there, without those that change nothing, or `trivial`."""
        return " ".join(map(str, self._active(architecture))) or "trivial"

    def _active(self, architecture: Architecture) -> list[GrownLayer]:
        """Return the layers without linear ones that pass on what comes before."""
        value, found = {0: 0}, list[GrownLayer]()
        for number, layer in enumerate(self.layers_of(architecture), 1):
            skips = tuple(sorted(value[skip] for skip in layer.skips))
            idle = layer.kind == LINEAR and layer.edge == IDENTITY and layer.stride == 1 and not skips
            if not idle:
                found.append(layer._replace(skips=skips))
            value[number] = len(found)
        return found

    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        """Return the layers that are there, and their skip edges."""
        vertices, arrows = [Vertex("image")], list[Arrow]()
        for number, layer in enumerate(self._active(architecture), 1):
            stride = f" /{layer.stride}" if layer.stride > 1 else ""
            detail = layer.kind + (f", {layer.channels} channels" if layer.edge != IDENTITY else "")
            vertices.append(Vertex(f"{number}: {layer.edge}{stride}", detail))
            arrows += [Arrow(number - 1, number), *(Arrow(skip, number) for skip in layer.skips)]
        last = len(vertices)
        return (Graph("network", (*vertices, Vertex("average")), (*arrows, Arrow(last - 1, last))),)

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse tasks whose inputs are no images."""
        image_channels(shape, self.name)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build the network.

        Raises:
            Infeasible: the inputs are no images, or too small for the strides.
        """
        in_channels, layers = image_channels(shape, self.name), self._active(architecture)
        side, total = min(shape.input[1:]), 1
        for number, layer in enumerate(layers, 1):
            total *= layer.stride
            if total > 2 * side:
                raise Infeasible(
                    f"Layer {number} halves maps of one pixel: the strides up to it come to {total}, and the "
                    f"images have {shape.input[1]} × {shape.input[2]} pixels."
                )
        return GrownNetwork(layers, in_channels)

    def kinship(self, heir: Architecture, parent: Architecture) -> Kinship:
        """Return weights layer by layer: those of the layers that stayed, where their shapes match."""
        own, other = self._active(heir), self._active(parent)
        matcher = SequenceMatcher(
            None, [_told(layer) for layer in own], [_told(layer) for layer in other], False
        )
        akin = dict[int, int]()
        for tag, a, b, c, d in matcher.get_opcodes():
            if tag == "equal" or (tag == "replace" and b - a == d - c):
                akin.update(zip(range(a, b), range(c, d), strict=True))
        names = dict[str, str | None]()
        inputs = widths(own, 0), widths(other, 0)
        for place, layer in enumerate(own):
            before = akin.get(place)
            kept = set[str]()
            if before is not None and inputs[0][place + 1] == inputs[1][before + 1]:
                kept = set(_tensors(layer)) & set(_tensors(other[before]))
                if layer.edge != other[before].edge or inputs[0][place] != inputs[1][before]:
                    kept.discard(_CONVOLUTION)
            for tensor in _tensors(layer):
                names[f"layers.{place}.{tensor}"] = f"layers.{before}.{tensor}" if tensor in kept else None
        same = inputs[0][-1] == inputs[1][-1] and _ends_linear(other)
        names |= {f"norm.{name}": f"norm.{name}" if same else None for name in _NORM if _ends_linear(own)}
        return Kinship(names)


def _told(layer: GrownLayer) -> tuple[str, str, int, int]:
    """Return what tells a layer of a parent in an heir: all but what it skips to."""
    return layer.kind, layer.edge, layer.stride, layer.channels


_CONVOLUTION = "convolution.weight"

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _ends_linear(layers: Sequence[GrownLayer]) -> bool:
    return not layers or layers[-1].kind == LINEAR


def _tensors(layer: GrownLayer) -> list[str]:
    convolution = [] if layer.edge == IDENTITY else [_CONVOLUTION]
    return [*convolution, *(f"norm.{name}" for name in _NORM if layer.kind == RELU)]
