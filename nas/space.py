"""What can be chosen: decisions, architectures and the spaces that they span."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import chain
from typing import Generic, NoReturn, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from nas.drawing.graph import Graph
from nas.errors import ConfigError, UnknownName

Part = TypeVar("Part", covariant=True)

Choice = str | int | float


class Role(StrEnum):
    """What a choice does, where code must know it: its name is the space's own affair."""

    IDENTITY = "identity"
    """Passes on what it is given: a skip connection."""
    ABSENT = "absent"
    """Stands for nothing: an edge that is not there."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One named categorical decision, such as `normal.node2.op1`.

    Attributes:
        name: unique in its space.
        choices: what can be chosen.
        anchors: for each choice that takes earlier parts of the network as its input, the indices of the
            decisions made last about those parts; controllers may attend to them (Zoph & Le 2017, §3.3).
            Empty: no choice does.
        roles: of each choice, None where it has none. Empty: no choice has one.
    """

    name: str
    choices: tuple[Choice, ...]
    anchors: tuple[tuple[int, ...], ...] = ()
    roles: tuple[Role | None, ...] = ()

    def role(self, choice: int) -> Role | None:
        """Return the role of a choice, given by its index."""
        return self.roles[choice] if self.roles else None


@dataclass(frozen=True, slots=True)
class Architecture:
    """One choice per decision of a space, each an index into that decision's choices."""

    space: str
    choices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TaskShape:
    """What a network must fit.

    Attributes:
        input: shape of one example: (channels, height, width), or (features,).
        outputs: classes of one task, or dimensions of the target in regression.
        train_classes: of all training tasks together; None where tasks have no classes, or do not tell.
    """

    input: tuple[int, ...]
    outputs: int
    train_classes: int | None = None


Mutation: TypeAlias = Callable[[Architecture, np.random.Generator], Architecture | None]
"""What may happen to an architecture: another one of the space; None: it does not apply to this one."""


class Space(ABC, Generic[Part]):
    """An ordered list of categorical decisions, and how a choice of them becomes a part of a training.

    A concrete space sets `name` and `decisions`, and implements `build` and `canonical`. `encode` and
    `decode` may be replaced where the literature has a notation of its own, and `named` filled with
    architectures that have a name. All else follows from the decisions. Where the literature has mutations of
    its own, `mutations` names them, for every controller that mutates.
    """

    decisions: tuple[Decision, ...]

    @property
    @abstractmethod
    def name(self) -> str:
        """What its architectures say that they belong to."""

    @abstractmethod
    def build(self, architecture: Architecture, shape: TaskShape) -> Part:
        """Build what an architecture of this space is, such as a network.

        Raises:
            Infeasible: there is none for this shape.
        """

    @abstractmethod
    def canonical(self, architecture: Architecture) -> str:
        """Return a key such that equal keys mean equal parts: isomorphic encodings fold into one."""

    @property
    def default(self) -> Architecture:
        """What stands for this space where nobody chooses: the first choice of each decision."""
        return Architecture(self.name, (0,) * len(self.decisions))

    @property
    def named(self) -> Mapping[str, Architecture]:
        """Architectures of this space that the literature knows by a name; `decode` reads those names."""
        return {}

    def text(self, architecture: Architecture) -> str:
        """Return an architecture as people know it, which `decode` reads: by its name, or its text form."""
        names = (name for name, known in self.named.items() if known == architecture)
        return next(names, None) or self.encode(architecture)

    def encode(self, architecture: Architecture) -> str:
        """Return the text form, the inverse of `decode`: each decision with its value, `layer0=16 layer1=8`.

        Where these are not words, or two choices of a decision read alike, it is the indices of choices,
        joined by dots.
        """
        chosen = self.check(architecture).choices
        if not self._values_tell:
            return ".".join(map(str, chosen))
        return " ".join(
            f"{decision.name}={decision.choices[i]}"
            for decision, i in zip(self.decisions, chosen, strict=True)
        )

    def decode(self, text: str) -> Architecture:
        """Read a text form, a name from `named`, or the indices of choices joined by dots.

        Raises:
            ConfigError: the text is no architecture of this space.
        """
        if text in self.named:
            return self.named[text]
        choices = self._indices(text) or self._valued(text)
        if choices is None:
            example = self.encode(self.default)
            form = f"a value for each of its {len(self.decisions)} decisions, such as '{example}'"
            raise self.unreadable(text, form)
        return self.check(Architecture(self.name, choices))

    def choosing(self, values: Mapping[str, Choice]) -> Architecture:
        """Return the architecture of some values, one for each decision by its name.

        Raises:
            ConfigError: a decision has no such value, or none is given, or there is no such decision; the
                message names it, its position and what it allows.
        """
        names = [decision.name for decision in self.decisions]
        unknown = [name for name in values if name not in names]
        if unknown:
            raise ConfigError(f"Space '{self.name}' has no decision '{unknown[0]}' under its settings.")
        return Architecture(
            self.name,
            tuple(
                decision.choices.index(values[decision.name])
                if values.get(decision.name) in decision.choices
                else self._unavailable(place, values.get(decision.name))
                for place, decision in enumerate(self.decisions)
            ),
        )

    def _unavailable(self, place: int, value: object) -> NoReturn:
        """Refuse a value of the decision at a place."""
        decision = self.decisions[place]
        given = "has no value" if value is None else f"is '{value}'"
        raise ConfigError(
            f"Decision '{decision.name}' ({place + 1} of the {len(self.decisions)} of space '{self.name}') "
            f"{given}. Allowed: {', '.join(map(str, decision.choices))}."
        )

    def _indices(self, text: str) -> tuple[int, ...] | None:
        parts = text.split(".")
        return tuple(map(int, parts)) if all(re.fullmatch("-?[0-9]{1,9}", part) for part in parts) else None

    def _valued(self, text: str) -> tuple[int, ...] | None:
        values = [pair.partition("=") for pair in text.split()]
        if [name for name, _, _ in values] != [decision.name for decision in self.decisions]:
            return None
        known = [[*map(str, decision.choices)] for decision in self.decisions]
        read = [(texts, value) for texts, (_, _, value) in zip(known, values, strict=True)]
        return tuple(
            texts.index(value) if value in texts else self._unavailable(place, value)
            for place, (texts, value) in enumerate(read)
        )

    @cached_property
    def _values_tell(self) -> bool:
        """Whether names and values are words, and no two values of a decision read alike."""
        choices = [[*map(str, decision.choices)] for decision in self.decisions]
        words = [*(decision.name for decision in self.decisions), *chain.from_iterable(choices)]
        return all(re.fullmatch(r"[^\s=]+", word) for word in words) and all(
            len(set(texts)) == len(texts) for texts in choices
        )

    def unreadable(self, text: str, form: str) -> ConfigError:
        """Return the error for a text that `decode` cannot read.

        Args:
            text: as given.
            form: describes the texts that it can read, with an example.
        """
        if self.named and text.isidentifier():
            return UnknownName(
                "architecture", text, self.named, f"Or give {form}.", of=f"the space '{self.name}'"
            )
        names = f"; or a name: {', '.join(sorted(self.named))}" if self.named else ""
        return ConfigError(f"'{text}' is no architecture of space '{self.name}': expected {form}{names}.")

    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        """Return what is drawn of an architecture, from the whole to its parts; by default nothing."""
        self.check(architecture)
        return ()

    @cached_property
    def operations(self) -> tuple[str, ...]:
        """What can be chosen that has a name and no role, in order; each has a colour in drawings."""
        named = (
            choice
            for decision in self.decisions
            for i, choice in enumerate(decision.choices)
            if isinstance(choice, str) and decision.role(i) is None
        )
        return tuple(dict.fromkeys(named))

    def check(self, architecture: Architecture) -> Architecture:
        """Return the architecture if it belongs to this space.

        Raises:
            ConfigError: another space's architecture, or a choice out of range.
        """
        if architecture.space != self.name:
            raise ConfigError(f"An architecture of space '{architecture.space}' was given to '{self.name}'.")
        if len(architecture.choices) != len(self.decisions):
            raise ConfigError(
                f"Space '{self.name}' has {len(self.decisions)} decisions, the architecture makes "
                f"{len(architecture.choices)} choices."
            )
        for decision, choice in zip(self.decisions, architecture.choices, strict=True):
            if not 0 <= choice < len(decision.choices):
                raise ConfigError(
                    f"Choice {choice} of decision '{decision.name}' in space '{self.name}' is out of range: "
                    f"it has {len(decision.choices)} choices."
                )
        return architecture

    def values(self, architecture: Architecture) -> dict[str, Choice]:
        """Return what was chosen, by decision name."""
        return {d.name: d.choices[i] for d, i in zip(self.decisions, architecture.choices, strict=True)}

    @cached_property
    def size(self) -> int:
        """Number of encodings, isomorphic ones counted apart."""
        return math.prod(len(d.choices) for d in self.decisions)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw every choice uniformly and independently."""
        return Architecture(self.name, tuple(int(rng.integers(len(d.choices))) for d in self.decisions))

    @property
    def mutations(self) -> Mapping[str, Mutation]:
        """What can happen to an architecture, by name, where the space has mutations of its own.

        By default it has none, and `mutate` changes one decision.
        """
        return {}

    def mutate(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """Apply one of the space's own mutations, each that applies as likely.

        Where it has none, change one decision, drawn uniformly among those that have a choice, to another
        choice.
        """
        own = list(self.mutations.values())
        while own:
            mutant = own.pop(int(rng.integers(len(own))))(architecture, rng)
            if mutant is not None:
                return mutant
        return self._changed(architecture, rng)

    def _changed(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """Change one decision."""
        free = [i for i, d in enumerate(self.decisions) if len(d.choices) > 1]
        if not free:
            return architecture
        site = free[int(rng.integers(len(free)))]
        shift = 1 + int(rng.integers(len(self.decisions[site].choices) - 1))
        return self._with(architecture, site, shift)

    def crossover(self, a: Architecture, b: Architecture, rng: np.random.Generator) -> Architecture:
        """Take each choice from one of two parents with equal probability (uniform crossover)."""
        take = rng.random(len(self.decisions)) < 0.5
        pairs = zip(a.choices, b.choices, take, strict=True)
        return Architecture(self.name, tuple(x if first else y for x, y, first in pairs))

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """Yield every architecture that differs in exactly one decision."""
        for site, decision in enumerate(self.decisions):
            for shift in range(1, len(decision.choices)):
                yield self._with(architecture, site, shift)

    def _with(self, architecture: Architecture, site: int, shift: int) -> Architecture:
        choices = list(architecture.choices)
        choices[site] = (choices[site] + shift) % len(self.decisions[site].choices)
        return Architecture(self.name, tuple(choices))

    def one_hot(self, architecture: Architecture) -> npt.NDArray[np.float32]:
        """Return the concatenated one-hot choices, `[Σ choices]`."""
        return np.concatenate(
            [
                np.eye(len(d.choices), dtype=np.float32)[i]
                for d, i in zip(self.decisions, architecture.choices, strict=True)
            ]
        )

    def features(self, architecture: Architecture) -> npt.NDArray[np.float32]:
        """Return what a regression learns scores from, `[features]`; by default the one-hot choices.

        A space that folds encodings into one key replaces this, so that equal keys have equal features.

        Raises:
            Infeasible: the architecture has no network, whatever the shape.
        """
        return self.one_hot(architecture)

    def from_one_hot(self, vector: Sequence[float] | npt.NDArray[np.float32]) -> Architecture:
        """Return the architecture with the largest entry of each decision's block of `[Σ choices]`."""
        ends = np.cumsum([len(d.choices) for d in self.decisions])
        blocks = np.split(np.asarray(vector), ends[:-1])
        return Architecture(self.name, tuple(int(block.argmax()) for block in blocks))
