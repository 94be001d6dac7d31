"""Settings to choose from, as a space."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, TypeAlias, final

from nas.errors import ConfigError
from nas.space import Architecture, Choice, Decision, Space, TaskShape

Values: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""What a setting is chosen from: its values, or the section of a plugin in which some settings are lists.

Such a list holds the values of its setting, one of which is chosen; or texts and lists, of which the text of
the setting is put together: `["rotate:", [0, 5, 9], "/flip:", [0, 1]]` makes `rotate:5/flip:1`.
"""


@final
class Settings(Space[dict[str, Any]]):
    """A few values for each of some settings of one section, such as `lr` of a learner.

    A value that is the section of a plugin is called by the plugin's name and settings, in one word:
    `shift_rotate(shift:2.0,angle:10.0)`.

    Args:
        section: whose settings they are; the space is called so.
        choices: the values of each setting, no two alike: texts, numbers or sections of plugins.
        given: what the section says without a choice: the default, where it is one of the values.
    """

    def __init__(self, section: str, choices: Mapping[str, Values], given: Mapping[str, Any]) -> None:
        self._section, self._given = section, dict(given)
        self._options = {setting: Options(setting, values) for setting, values in choices.items()}
        self.decisions = tuple(d for options in self._options.values() for d in options.decisions)

    @property
    def name(self) -> str:
        """That of the section."""
        return self._section

    @property
    def default(self) -> Architecture:
        """What the section says; of a setting whose value there is none of the choices, the first."""
        chosen = (options.usual(self._given.get(name)) for name, options in self._options.items())
        return Architecture(self.name, tuple(index for own in chosen for index in own))

    def build(self, architecture: Architecture, shape: TaskShape) -> dict[str, Any]:
        """Return the value of each setting, as `chosen` does."""
        return self.chosen(architecture)

    def chosen(self, architecture: Architecture) -> dict[str, Any]:
        """Return the value of each setting."""
        return {name: options.value(own) for name, (options, own) in self._parted(architecture).items()}

    def find(self, values: Mapping[str, Any]) -> Architecture:
        """Return the architecture that chooses these values, the inverse of `chosen`.

        Raises:
            ConfigError: a setting has no such value to choose.
        """
        chosen = list[int]()
        for name, options in self._options.items():
            own = options.read(str(word(values[name])))
            if own is None:
                raise ConfigError(f"slots.{self.name}.{name}: {word(values[name])} is none of its choices.")
            chosen += own
        return Architecture(self.name, tuple(chosen))

    def canonical(self, architecture: Architecture) -> str:
        """Return the text: other values make another training."""
        return self.encode(architecture)

    def encode(self, architecture: Architecture) -> str:
        """Return each setting with its value, `lr=0.01 augmentation=shift_rotate(shift:2.0,angle:10.0)`.

        Where these are not words, or two choices of a setting read alike, it is the indices of choices,
        joined by dots.
        """
        parted = self._parted(architecture)
        if self._values_tell:
            text = " ".join(f"{name}={options.word(own)}" for name, (options, own) in parted.items())
            if self._valued(text) == architecture.choices:
                return text
        return ".".join(map(str, architecture.choices))

    def _valued(self, text: str) -> tuple[int, ...] | None:
        words = [pair.partition("=") for pair in text.split()]
        if [name for name, _, _ in words] != [*self._options]:
            return None
        read = [self._options[name].read(word) for name, _, word in words]
        found = [index for own in read if own is not None for index in own]
        return None if None in read else tuple(found)

    def _parted(self, architecture: Architecture) -> dict[str, tuple[Options, tuple[int, ...]]]:
        """Return the indices chosen for each setting."""
        chosen = self.check(architecture).choices
        ends = accumulate((len(options.decisions) for options in self._options.values()), initial=0)
        pairs = zip(self._options.items(), pairwise(ends), strict=True)
        return {name: (options, chosen[start:end]) for (name, options), (start, end) in pairs}


@final
class Options:
    """What one setting is chosen from.

    Attributes:
        decisions: one for its values; of a section, those of its settings that are lists, called
            `augmentation.angle`, and of a text that is put together `augmentation.policy.1` and so on.

    Args:
        setting: its name.
        values: see `Values`.
    """

    def __init__(self, setting: str, values: Values) -> None:
        self._values = values
        self._pieces = [tuple(map(word, values))] if isinstance(values, Sequence) else [*_pieces(values)]
        names = [setting] if isinstance(values, Sequence) else [*_names(setting, values)]
        lists = [piece for piece in self._pieces if isinstance(piece, tuple)]
        self.decisions = tuple(Decision(name, choices) for name, choices in zip(names, lists, strict=True))

    def usual(self, given: Any) -> tuple[int, ...]:
        """Return the indices of a value, or of the first choices."""
        if isinstance(self._values, Sequence):
            own = list(self._values)
            return (own.index(given) if given in own else 0,)
        return (0,) * len(self.decisions)

    def value(self, chosen: Sequence[int]) -> Any:
        """Return the value that is chosen by these indices."""
        if isinstance(self._values, Sequence):
            return self._values[chosen[0]]
        indices = iter(chosen)
        return {
            key: _chosen(own, indices) if isinstance(own, Sequence) and not isinstance(own, str) else own
            for key, own in self._values.items()
        }

    def word(self, chosen: Sequence[int]) -> str:
        """Return what the value that is chosen by these indices is called."""
        indices = iter(chosen)
        return "".join(
            piece if isinstance(piece, str) else str(piece[next(indices)]) for piece in self._pieces
        )

    def read(self, word: str) -> tuple[int, ...] | None:
        """Return the indices of a value by what it is called; None: no value is called so."""
        lists = [list(map(str, decision.choices)) for decision in self.decisions]
        found = re.fullmatch("".join(map(_pattern, self._pieces)), word)
        return found and tuple(own.index(text) for own, text in zip(lists, found.groups(), strict=True))

    def __str__(self) -> str:
        """Return its values, or the section with the number of decisions of each list."""
        if isinstance(self._values, Sequence):
            return ",".join(str(word(value)) for value in self._values)
        own = {
            key: f"{sum(isinstance(part, list) for part in value)} decisions"
            if _composed(value)
            else "|".join(map(str, value))
            if isinstance(value, list)
            else value
            for key, value in self._values.items()
        }
        return str(word(own))


def candidates(values: Values) -> list[Any]:
    """Return values such that each choice of each decision is in one of them, as few as that takes."""
    if isinstance(values, Sequence):
        return list(values)
    options = Options("", values)
    sizes = [len(decision.choices) for decision in options.decisions]
    return [options.value([min(i, size - 1) for size in sizes]) for i in range(max(sizes))]


def word(value: Any) -> Choice:
    """Return what the value of a setting is called among the choices of its decision."""
    if not isinstance(value, Mapping):
        choice: Choice = value
        return choice
    settings = ",".join(f"{key}:{own}" for key, own in value.items() if key != "name")
    return f"{value['name']}({settings})" if settings else str(value["name"])


def _composed(value: Any) -> bool:
    """Return whether a setting's text is put together of parts."""
    return isinstance(value, list) and any(isinstance(part, list) for part in value)


def _parts(value: Any) -> list[str | tuple[Choice, ...]]:
    """Return what the word of a setting of a section is made of: texts, and choices."""
    if _composed(value):
        return [tuple(part) if isinstance(part, list) else part for part in value]
    return [tuple(value) if isinstance(value, list) else str(value)]


def _pieces(section: Mapping[str, Any]) -> Iterator[str | tuple[Choice, ...]]:
    """Yield what the word of a section is made of: texts, and choices."""
    yield str(section["name"])
    before = "("
    for key, value in section.items():
        if key != "name":
            yield f"{before}{key}:"
            yield from _parts(value)
            before = ","
    yield ")"


def _names(setting: str, section: Mapping[str, Any]) -> Iterator[str]:
    for key, value in section.items():
        if _composed(value):
            count = sum(isinstance(part, list) for part in value)
            yield from (f"{setting}.{key}.{number}" for number in range(1, count + 1))
        elif isinstance(value, list):
            yield f"{setting}.{key}"


def _chosen(value: Sequence[Any], indices: Iterator[int]) -> Any:
    if not _composed(value):
        return value[next(indices)]
    return "".join(str(part[next(indices)]) if isinstance(part, list) else part for part in value)


def _pattern(piece: str | tuple[Choice, ...]) -> str:
    if isinstance(piece, str):
        return re.escape(piece)
    return f"({'|'.join(re.escape(text) for text in sorted(map(str, piece), key=len, reverse=True))})"
