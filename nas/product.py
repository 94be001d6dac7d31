"""Spaces side by side: candidates that choose a network and, with it, settings of what trains it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast, final

import numpy as np
import numpy.typing as npt

from nas.errors import ConfigError
from nas.space import Architecture, Decision, Space, TaskShape

if TYPE_CHECKING:
    from nas.backbone import BackboneSpace
    from nas.settings_space import Settings

MAIN = "backbone"
"""The slot of the network."""


@final
class Product(Space[dict[str, Any]]):
    """A space for each slot; an architecture of the product is one of each.

    Decisions are called `slot.decision`, slot after slot. The text is that of the first slot, then those of
    the others after their names: `16.8 | learner: lr=0.01 schedule=cosine | tasks: train_ways=40`. A slot
    that a text leaves out is at its default.

    Attributes:
        slots: the space of each slot; the first gives the product its name.
    """

    slots: Mapping[str, Space[Any]]

    def __init__(self, slots: Mapping[str, Space[Any]]) -> None:
        self.slots = dict(slots)
        self._main, *self._others = self.slots
        self.decisions = tuple(self._decisions())

    @property
    def name(self) -> str:
        """That of the first slot's space."""
        return self.slots[self._main].name

    def _decisions(self) -> Iterator[Decision]:
        offset = 0
        for slot, space in self.slots.items():
            for decision in space.decisions:
                anchors = tuple(tuple(offset + i for i in choice) for choice in decision.anchors)
                yield replace(decision, name=f"{slot}.{decision.name}", anchors=anchors)
            offset += len(space.decisions)

    def parts(self, architecture: Architecture) -> dict[str, Architecture]:
        """Return what is chosen for each slot.

        Raises:
            ConfigError: it is no architecture of this product.
        """
        choices = iter(self.check(architecture).choices)
        return {
            slot: Architecture(space.name, tuple(next(choices) for _ in space.decisions))
            for slot, space in self.slots.items()
        }

    def join(self, parts: Mapping[str, Architecture]) -> Architecture:
        """Return the architecture of these parts; slots without one are at their default."""
        chosen = (parts.get(slot, space.default) for slot, space in self.slots.items())
        return Architecture(self.name, tuple(choice for part in chosen for choice in part.choices))

    @property
    def default(self) -> Architecture:
        """Every slot at its default."""
        return self.join({})

    def mutate(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """Change one decision; where it is one of a slot with mutations of its own, one of these happens."""
        if not any(space.mutations for space in self.slots.values()):
            return super().mutate(architecture, rng)
        changed = self._changed(architecture, rng)
        before, after = self.parts(architecture), self.parts(changed)
        for slot, space in self.slots.items():
            if before[slot] != after[slot] and space.mutations:
                return self.join({**before, slot: space.mutate(before[slot], rng)})
        return changed

    def build(self, architecture: Architecture, shape: TaskShape) -> dict[str, Any]:
        """Build the part of every slot."""
        parts = self.parts(architecture)
        return {slot: space.build(parts[slot], shape) for slot, space in self.slots.items()}

    def canonical(self, architecture: Architecture) -> str:
        """Return the keys of the slots, one after the other; a bar within a key is doubled."""
        parts = self.parts(architecture)
        keys = (space.canonical(parts[slot]).replace("|", "||") for slot, space in self.slots.items())
        return " | ".join(keys)

    def features(self, architecture: Architecture) -> npt.NDArray[np.float32]:
        """Return the features of the slots, one after the other.

        Raises:
            Infeasible: a slot has none.
        """
        parts = self.parts(architecture)
        return np.concatenate([space.features(parts[slot]) for slot, space in self.slots.items()])

    def text(self, architecture: Architecture) -> str:
        """Return the text form, with the network by its name if it has one."""
        return self._written(architecture, lambda space, part: space.text(part))

    def encode(self, architecture: Architecture) -> str:
        """Return the text form; where it would be read as another one, the indices of choices."""
        return self._written(architecture, lambda space, part: space.encode(part))

    def _written(self, architecture: Architecture, write: Callable[[Space[Any], Architecture], str]) -> str:
        parts = self.parts(architecture)
        main, *others = (write(space, parts[slot]) for slot, space in self.slots.items())
        named = (f"{slot}: {text}" for slot, text in zip(self._others, others, strict=True))
        text = " | ".join([main, *named])
        try:
            if self.decode(text) == architecture:
                return text
        except ConfigError:
            pass
        return ".".join(map(str, architecture.choices))

    def decode(self, text: str) -> Architecture:
        """Read a text form, or the indices of all choices joined by dots.

        Raises:
            ConfigError: the text is no architecture of this product.
        """
        indices = self._indices(text)
        if indices is not None and len(indices) == len(self.decisions):
            return self.check(Architecture(self.name, indices))
        parts: dict[str, Architecture] = {}
        for slot in reversed(self._others):
            rest, mark, own = text.rpartition(f" | {slot}: ")
            if mark:
                text, parts[slot] = rest, self.slots[slot].decode(own)
        return self.join({**parts, self._main: self.slots[self._main].decode(text)})


class Candidate(NamedTuple):
    """What an architecture of a search's space means for a training.

    Attributes:
        space: of the network.
        architecture: of the network.
        settings: what was chosen for settings of sections, by section.
    """

    space: BackboneSpace
    architecture: Architecture
    settings: Mapping[str, Mapping[str, Any]]

    @property
    def key(self) -> str:
        """Canonical key of the network alone."""
        return self.space.canonical(self.architecture)


def backbone_of(space: Space[Any]) -> BackboneSpace:
    """Return the space of networks of a search's space: itself, or a slot of it."""
    return cast("BackboneSpace", space.slots[MAIN] if isinstance(space, Product) else space)


def candidate_of(space: Space[Any], architecture: Architecture) -> Candidate:
    """Return what an architecture of a search's space means for a training."""
    if not isinstance(space, Product):
        return Candidate(backbone_of(space), architecture, {})
    parts = space.parts(architecture)
    settings = {
        slot: cast("Settings", space.slots[slot]).chosen(part) for slot, part in parts.items() if slot != MAIN
    }
    return Candidate(backbone_of(space), parts[MAIN], settings)


def default_with(space: Space[Any], network: Architecture) -> Architecture:
    """Return the architecture of a search's space with this network, and all else at its default."""
    return space.join({MAIN: network}) if isinstance(space, Product) else network
