"""Slots: settings of sections that a search chooses together with the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from nas import plugins
from nas.errors import ConfigError, UnknownName
from nas.learners.base import Learner
from nas.settings.sections import BASES
from nas.tasks.base import TaskSource

Slots: TypeAlias = dict[str, dict[str, list[Any]]]
"""By section, the values of each setting that is chosen."""

SECTIONS = ("learner", "tasks")
"""The sections whose settings a search can choose."""


def resolved(
    slot: str, choices: Mapping[str, list[Any]], section: Mapping[str, Any] | None
) -> dict[str, list[Any]]:
    """Return the values of a slot as the plugin of its section takes them, each checked like a setting.

    Args:
        slot: name of the section.
        choices: the values of each setting.
        section: resolved; None: the search has none.

    Raises:
        UnknownName: no such slot, or no such setting.
        ConfigError: a value is wrong, or no word, number or truth; two are equal; there is none; the section
            sets the setting, too; or scores under its values would not compare.
    """
    where = f"slots.{slot}"
    if slot not in SECTIONS:
        raise UnknownName("slot", slot, SECTIONS)
    if section is None:
        raise ConfigError(f"{where}: the search has no {slot}, so none of its settings can be chosen.")
    cls: type = plugins.load(slot, section["name"], BASES[slot])
    given = {key: value for key, value in section.items() if key != "name"}
    found = {}
    for setting, values in choices.items():
        if setting not in plugins.settings(cls):
            raise UnknownName("setting", setting, plugins.settings(cls), of=f"the {slot}")
        if issubclass(cls, TaskSource) and setting not in cls.training_settings:
            raise ConfigError(
                f"{where}.{setting}: '{section['name']}' would score trials on other tasks. Only settings of "
                f"training tasks can be chosen: {', '.join(cls.training_settings) or 'it has none'}."
            )
        if issubclass(cls, Learner) and setting in cls.protocol_settings:
            raise ConfigError(
                f"{where}.{setting}: scores under different values do not compare, so that no search can "
                f"choose one by its score. Set {slot}.{setting}, in a search for each."
            )
        others = {key: value for key, value in given.items() if key != setting}
        if plugins.settings(cls)[setting].is_required() or plugins.resolve(cls, others, slot) != given:
            raise ConfigError(
                f"{where}.{setting}: {slot}.{setting} = {json.dumps(given[setting])} sets it, too. Leave one "
                "of them out."
            )
        found[setting] = _values(cls, where, given, setting, values)
    return found


def explicit(slot: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved section with what it leaves out: the names of defaults that plugins fill."""
    own = plugins.slots(plugins.load(slot, section["name"], BASES[slot]))
    return {setting: default.name for setting, (_, default) in own.items()} | dict(section)


def varied(slot: str, section: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved section with what was chosen, resolved."""
    given = {key: value for key, value in {**section, **chosen}.items() if key != "name"}
    cls: type = plugins.load(slot, section["name"], BASES[slot])
    return {"name": section["name"]} | plugins.resolve(cls, given, slot)


def validated(slot: str, values: Mapping[str, Any], section: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return values of settings of a section as its plugin takes them.

    Raises:
        UnknownName: no such slot, or no such setting.
        ConfigError: a value is wrong.
    """
    if slot not in SECTIONS or section is None:
        raise UnknownName("slot", slot, SECTIONS)
    whole = explicit(slot, varied(slot, section, values))
    return {key: whole[key] for key in values}


def _values(cls: type, where: str, given: Mapping[str, Any], setting: str, values: list[Any]) -> list[Any]:
    filled = plugins.slots(cls)
    usual = {setting: filled[setting][1].name} if setting in filled else {}
    found = [(usual | plugins.resolve(cls, {**given, setting: value}, where))[setting] for value in values]
    for value in found:
        if setting not in filled and not isinstance(value, str | int | float):
            raise ConfigError(
                f"{where}.{setting}: {json.dumps(value)} cannot be chosen; give texts or numbers."
            )
    if len(set(map(json.dumps, found))) < max(len(found), 1):
        raise ConfigError(
            f"{where}.{setting}: give different values, one or more (given: {json.dumps(values)})."
        )
    return found
