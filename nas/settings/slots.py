"""Slots: settings of sections that a search chooses together with the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from nas import plugins
from nas.errors import ConfigError, UnknownName
from nas.learners.base import Learner
from nas.settings.sections import BASES
from nas.settings_space import candidates
from nas.tasks.base import TaskSource

Slots: TypeAlias = dict[str, dict[str, Any]]
"""By section, what each setting is chosen from; see `nas.settings_space.Values`."""

ANY = "any"
"""Stands for all that a plug-in itself has to choose a setting from; see `nas.plugins.Choices`."""

SECTIONS = ("learner", "tasks")
"""The sections whose settings a search can choose."""


def resolved(slot: str, choices: Mapping[str, Any], section: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the values of a slot as the plugin of its section takes them, each checked like a setting.

    Args:
        slot: name of the section.
        choices: the values of each setting; of one that a plug-in fills, also a section of the plug-in with
            lists in it.
        section: resolved; None: the search has none.

    Raises:
        UnknownName: no such slot, or no such setting.
        ConfigError: a value is wrong, or no word, number or truth; two are equal; there is none; a section
            has nothing to choose; the section sets the setting, too; or scores under its values would not
            compare.
    """
    where = f"slots.{slot}"
    if slot not in SECTIONS:
        raise UnknownName("slot", slot, SECTIONS)
    if section is None:
        raise ConfigError(f"{where}: the search has no {slot}, so none of its settings can be chosen.")
    cls: type = plugins.load(slot, section["name"], BASES[slot])
    given = {key: value for key, value in section.items() if key != "name"}
    found = dict[str, Any]()
    for setting, values in choices.items():
        choosable(slot, setting, section, where)
        others = {key: value for key, value in given.items() if key != setting}
        if plugins.settings(cls)[setting].is_required() or plugins.resolve(cls, others, slot) != given:
            raise ConfigError(
                f"{where}.{setting}: {slot}.{setting} = {json.dumps(given[setting])} sets it, too. Leave one "
                "of them out."
            )
        if isinstance(values, Mapping) and setting in plugins.slots(cls):
            found[setting] = _parts(cls, where, given, setting, values)
        elif isinstance(values, list):
            found[setting] = _values(cls, where, given, setting, values)
        else:
            raise ConfigError(
                f"{where}.{setting}: expected a list of values (given: {json.dumps(values, default=str)})."
            )
    return found


def choosable(slot: str, setting: str, section: Mapping[str, Any] | None, where: str) -> None:
    """Refuse a setting that is none, or one whose values make scores that do not compare.

    Args:
        slot: name of the section.
        setting: its name.
        section: resolved; None: there is none.
        where: the path of the section that errors name.

    Raises:
        UnknownName: there is no such setting.
        ConfigError: there is no such section, or scores under its values would not compare.
    """
    if section is None:
        raise ConfigError(f"{where}: there is no {slot}, so that none of its settings can change.")
    cls: type = plugins.load(slot, section["name"], BASES[slot])
    if setting not in plugins.settings(cls):
        raise UnknownName("setting", setting, plugins.settings(cls), of=f"the {slot}")
    if issubclass(cls, TaskSource) and setting not in cls.training_settings:
        raise ConfigError(
            f"{where}.{setting}: '{section['name']}' would score trials on other tasks. Only settings of "
            f"training tasks can be chosen: {', '.join(cls.training_settings) or 'it has none'}."
        )
    if issubclass(cls, Learner) and setting in cls.protocol_settings:
        raise ConfigError(
            f"{where}.{setting}: scores under different values do not compare, so that a search has one of "
            f"them. Set {slot}.{setting}, in a search for each."
        )


def explicit(slot: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved section with what it leaves out: the names of defaults that plugins fill."""
    own = plugins.slots(plugins.load(slot, section["name"], BASES[slot]))
    return {setting: default.name for setting, (_, default) in own.items()} | dict(section)


def varied(
    slot: str, section: Mapping[str, Any], chosen: Mapping[str, Any], where: str | None = None
) -> dict[str, Any]:
    """Return a resolved section with what was chosen, resolved; errors name `where`, or the section."""
    given = {key: value for key, value in {**section, **chosen}.items() if key != "name"}
    cls: type = plugins.load(slot, section["name"], BASES[slot])
    return {"name": section["name"]} | plugins.resolve(cls, given, where or slot)


def validated(
    slot: str, values: Mapping[str, Any], section: Mapping[str, Any] | None, where: str | None = None
) -> dict[str, Any]:
    """Return values of settings of a section as its plugin takes them.

    Raises:
        UnknownName: no such slot, or no such setting.
        ConfigError: a value is wrong.
    """
    if slot not in SECTIONS or section is None:
        raise UnknownName("slot", slot, SECTIONS)
    whole = explicit(slot, varied(slot, section, values, where))
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
    _different(f"{where}.{setting}", found, values)
    return found


def _different(where: str, found: list[Any], given: Any) -> None:
    if len(set(map(json.dumps, found))) < max(len(found), 1):
        raise ConfigError(f"{where}: give different values, one or more (given: {json.dumps(given)}).")


def _parts(
    cls: type, where: str, given: Mapping[str, Any], setting: str, section: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the section of a plug-in, resolved, with lists where something is to be chosen.

    Each value is checked as a setting, together with values of the others.
    """
    slot, default = plugins.slots(cls)[setting]
    path, name = f"{where}.{setting}", section.get("name", default.name)
    fixed = {key: value for key, value in section.items() if not isinstance(value, list) and value != ANY}
    open_: dict[str, list[Any]] = {key: value for key, value in section.items() if isinstance(value, list)}
    if not open_ or any(value == ANY for value in section.values()):
        with plugins.within(path, slot.kind, name):
            part = plugins.load(slot.kind, name, slot.base)
        offered = plugins.choices(part)
        usual = {key: field.default for key, field in plugins.settings(part).items()}
        for key in (key for key, value in section.items() if value == ANY):
            if key in offered:
                open_[key] = offered[key].of(usual | fixed)
            else:
                fixed[key] = ANY
    if not open_:
        ways = ["a list of sections", "a list in place of a setting", *(f'{key}="{ANY}"' for key in offered)]
        raise ConfigError(f"{path}: nothing in it can be chosen. Give {', '.join(ways[:-1])} or {ways[-1]}.")
    for key, values in open_.items():
        lists = [part for part in values if isinstance(part, list)] or [values]
        for own in lists:
            if any(not isinstance(value, str | int | float) for value in own):
                raise ConfigError(
                    f"{path}.{key}: {json.dumps(own, default=str)} cannot be chosen; give texts or numbers."
                )
            _different(f"{path}.{key}", own, own)
        if lists != [values] and any(not isinstance(part, str | list) for part in values):
            raise ConfigError(f"{path}.{key}: between lists there can be texts alone.")
    whole = {"name": name, **fixed, **open_}
    tried = [_section(cls, where, given, setting, value) for value in candidates(whole)]
    for key, values in open_.items():
        if not any(isinstance(part, list) for part in values):
            open_[key] = [own[key] for own in tried[: len(values)]]
            _different(f"{path}.{key}", open_[key], values)
    return {key: open_.get(key, value) for key, value in tried[0].items()}


def _section(
    cls: type, where: str, given: Mapping[str, Any], setting: str, value: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the resolved section of a plug-in that fills a slot, at its default, too."""
    found = plugins.resolve(cls, {**given, setting: value}, where).get(setting)
    if isinstance(found, dict):
        return found
    default = plugins.slots(cls)[setting][1]
    return {"name": default.name} | plugins.resolve(default, {}, f"{where}.{setting}")
