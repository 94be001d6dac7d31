"""Settings by their paths, such as `tasks.ways`. Nothing here imports torch."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from nas.errors import ConfigError

EXAMPLES = {"--set": "tasks.ways=20", "--slot": "'learner.lr=[0.001,0.01]'"}
"""What an option takes, for an error."""


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their path, such as `tasks.ways`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def assign(values: dict[str, Any], setting: str, option: str | None = None) -> None:
    """Put `a.b=value` into nested `values`; the value is TOML or JSON (which has null), or a bare string.

    Args:
        values: changed in place.
        setting: `a.b=value`.
        option: as the user gave it, for the error; None: by `--set`.

    Raises:
        ConfigError: no `=`, or a path through something that is no section.
    """
    option = option or f"--set {setting}"
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise ConfigError(f"{option}: expected KEY=VALUE, such as {EXAMPLES[option.split()[0]]}.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        try:
            value = json.loads(text)
        except ValueError:
            value = text
    put(values, path.strip(), value, option)


def assign_options(
    values: dict[str, Any], slots: Sequence[str] | None, settings: Sequence[str] | None
) -> None:
    """Put what `--slot` and `--set` say into nested `values`, which are changed in place.

    Raises:
        ConfigError: as `assign`, or a setting is both given and to be chosen.
    """
    chosen = {slot.partition("=")[0].strip(): slot for slot in slots or []}
    for setting in settings or []:
        if (slot := chosen.get(setting.partition("=")[0].strip())) is not None:
            raise ConfigError(
                f"--set {setting}: the search is to choose it, by --slot {slot}. Leave one of them out."
            )
    for slot in slots or []:
        assign(values, f"slots.{slot}", option=f"--slot {slot}")
    for setting in settings or []:
        assign(values, setting)


def put(values: dict[str, Any], path: str, value: Any, setting: str) -> None:
    """Put a value at the path `a.b` of nested `values`.

    Args:
        values: changed in place; a plugin given by its bare name becomes a section.
        path: with a dot between sections.
        value: replaces what was there.
        setting: as the user gave it, for the error.

    Raises:
        ConfigError: the path goes through something that is no section.
    """
    *sections, key = path.split(".")
    for name in sections:
        inner = values.setdefault(name, {})
        if isinstance(inner, str):
            inner = values[name] = {"name": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"{setting}: '{name}' is no section.")
        values = inner
    values[key] = value


def differing(settings: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the paths of flat settings at which others have another value, or one of them has none."""
    return [
        path
        for path in dict.fromkeys(path for other in others for path in other)
        if any(other.get(path) != settings.get(path) for other in others)
    ]
