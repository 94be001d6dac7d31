"""What trials chose along with their networks, read from their texts: no plugin is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from nas.errors import ConfigError, UnknownName

Rows = TypeVar("Rows")


def of_text(slots: Mapping[str, Mapping[str, Sequence[Any]]], text: str) -> dict[str, Any]:
    """Return the settings that a candidate chose, by their path; see `nas.product.Product` for the text.

    Args:
        slots: of the search: by section, the values of each setting.
        text: of the candidate, or the indices of all its choices joined by dots.
    """
    if not slots:
        return {}
    from nas.settings_space import Settings  # imports numpy, which few questions need

    found: dict[str, dict[str, Any]] = {}
    spaces = {slot: Settings(slot, choices, {}) for slot, choices in slots.items()}
    indices = text.split(".")
    whole = all(index.isdigit() for index in indices)
    for slot, space in reversed(spaces.items()):
        if whole:
            own = ".".join(indices[-len(space.decisions) :])
            del indices[-len(space.decisions) :]
        else:
            text, _, own = text.rpartition(f" | {slot}: ")
        found[slot] = space.chosen(space.decode(own))
    return {f"{slot}.{setting}": value for slot in spaces for setting, value in found[slot].items()}


def condition(text: str) -> tuple[str, str]:
    """Return the path and the value of a condition `learner.lr=0.01`.

    Raises:
        ConfigError: it has no value.
    """
    path, equals, value = text.partition("=")
    if not equals or not path or not value:
        raise ConfigError(f"where: expected SETTING=VALUE, such as learner.lr=0.01 (given: {text}).")
    return path.strip(), value.strip()


def check(paths: Iterable[str], known: Iterable[str]) -> None:
    """Refuse settings that no search chooses.

    Raises:
        UnknownName: the first of them.
    """
    names = sorted(set(known))
    for path in paths:
        if path not in names:
            raise UnknownName("setting that a search chose", path, names)


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


def _equal(value: Any, text: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return value == float(text)
        except ValueError:
            return False
    from nas.settings_space import word

    called = str(word(value))
    return text in (called, called.lower()) or (isinstance(value, Mapping) and text == value["name"])
