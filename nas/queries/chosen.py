"""What trials chose along with their networks, read from their texts: no plugin is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from nas.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from nas.settings_space import Options, Settings

Rows = TypeVar("Rows")


class Texts:
    """Reads what the candidates of one search chose; see `nas.product.Product` for their texts.

    Args:
        slots: of the search: by section, the values of each setting; None or empty: nothing is chosen.
    """

    def __init__(self, slots: Mapping[str, Mapping[str, Any]] | None) -> None:
        self._spaces: dict[str, Settings] = {}
        if slots:
            from nas.settings_space import Settings  # imports numpy, which few questions need

            self._spaces = {slot: Settings(slot, choices, {}) for slot, choices in slots.items()}

    def chosen(self, text: str | None) -> dict[str, Any]:
        """Return the settings that a candidate chose, by their path.

        Args:
            text: of the candidate, or the indices of all its choices joined by dots; None: it is a supernet,
                which chose none.
        """
        if text is None:
            return {}
        found: dict[str, dict[str, Any]] = {}
        indices = text.split(".")
        whole = all(index.isdigit() for index in indices)
        for slot, space in reversed(self._spaces.items()):
            if whole:
                own = ".".join(indices[-len(space.decisions) :])
                del indices[-len(space.decisions) :]
            else:
                text, _, own = text.rpartition(f" | {slot}: ")
            found[slot] = space.chosen(space.decode(own))
        return {f"{slot}.{setting}": value for slot in self._spaces for setting, value in found[slot].items()}


def condition(text: str) -> tuple[str, str]:
    """Return the path and the value of a condition `learner.lr=0.01`.

    Raises:
        ConfigError: it has no value.
    """
    path, equals, value = text.partition("=")
    if not equals or not path or not value:
        raise ConfigError(f"where: expected SETTING=VALUE, such as learner.lr=0.01 (given: {text}).")
    return path.strip(), value.strip()


def check(conditions: Sequence[tuple[str, str]], by: str | None, known: Iterable[tuple[str, Any]]) -> None:
    """Refuse settings that no search chooses, and values that none can have.

    Args:
        conditions: settings and values that are asked for.
        by: another setting.
        known: settings by their path, each with what it is chosen from.

    Raises:
        UnknownName: the first of them.
    """
    from nas.settings_space import Options

    options: dict[str, list[tuple[Any, Options]]] = {}
    for path, values in known:
        options.setdefault(path, []).append((values, Options(path, values)))
    for path in [*(path for path, _ in conditions), *([] if by is None else [by])]:
        if path not in options:
            raise UnknownName("setting that a search chose", path, sorted(options))
    for path, text in conditions:
        if not any(_among(values, own, text) for values, own in options[path]):
            words = dict.fromkeys(told for values, own in options[path] for told in _words(values, own))
            raise UnknownName("value", text, list(words), of=path)


def _among(values: Any, options: Options, text: str) -> bool:
    """Return whether a value is called so, or a plug-in of values has this name."""
    if isinstance(values, Mapping):
        return text == values["name"] or options.read(text) is not None
    return any(_equal(value, text) for value in values)


def _words(values: Any, options: Options) -> Iterable[str]:
    return [str(options)] if isinstance(values, Mapping) else map(str, options.decisions[0].choices)


def settings(slots: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what each setting is chosen from, by its path."""
    return {f"{slot}.{setting}": values for slot, own in slots.items() for setting, values in own.items()}


def apart(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for a table: its text is that of the network alone, and what it chose stands by itself."""
    if not row["chosen"]:
        return {**row, "chosen": None}
    slots = [path.partition(".")[0] for path in row["chosen"]]
    return {**row, "architecture": network(row["architecture"], slots), "chosen": told(row["chosen"])}


def network(text: str, slots: Iterable[str] | None) -> str:
    """Return the text of a candidate's network alone.

    Args:
        text: of the candidate.
        slots: of its search, in their order; None or empty: it has no others.
    """
    first = next(iter(slots or ()), None)
    return text if first is None else text.partition(f" | {first}: ")[0]


def told(values: Mapping[str, Any]) -> str:
    """Return settings by their path, each with what its value is called in a candidate's text."""
    from nas.settings_space import word

    return " ".join(f"{path}={word(value)}" for path, value in values.items())


def meets(chosen: Mapping[str, Any], conditions: Sequence[tuple[str, str]]) -> bool:
    """Return whether all conditions hold; numbers are compared as numbers."""
    return all(path in chosen and _equal(chosen[path], value) for path, value in conditions)


def best_of_each(rows: Sequence[tuple[Rows, Mapping[str, Any]]], path: str) -> list[Rows]:
    """Return the first row of each value of a setting; rows that did not choose it are left out.

    Args:
        rows: in their order, each with what it chose.
        path: of the setting.
    """
    from nas.settings_space import word

    first: dict[str, Rows] = {}
    for row, chosen in rows:
        if path in chosen:
            first.setdefault(str(word(chosen[path])), row)
    return list(first.values())


def choices(slots: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the settings of slots by their path, each with what its values are called."""
    from nas.settings_space import Options

    return " ".join(f"{path}={Options(path, values)}" for path, values in settings(slots).items())


def _equal(value: Any, text: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return value == float(text)
        except ValueError:
            return False
    from nas.settings_space import word

    called = str(word(value))
    return text in (called, called.lower()) or (isinstance(value, Mapping) and text == value["name"])
