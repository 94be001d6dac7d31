"""A search's configuration as a TOML file: every setting with its value, and in a comment what it means."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas.cli.catalog import REQUIRED, settings_of

if TYPE_CHECKING:
    from pydantic import BaseModel

    from nas.settings.search import SearchConfig

FROM_THE_MACHINE = ("executor", "workers")
"""Settings whose default depends on the machine and on the evaluator."""

OPTIONAL = ("scheduler", "racing", "prescreen", "warm_start")
"""Sections that a search need not have."""

NO_SLOT = (
    "# [slots.learner]                     # settings that the search chooses along with the network",
    "# lr = [0.001, 0.01]",
)
"""What a file says of slots where there is none."""


def document(config: SearchConfig, *, portable: bool = False) -> str:
    """Return the file of a configuration; it reads back as the same configuration.

    A setting that has no value is a comment: TOML knows no null.

    Args:
        config: resolved.
        portable: leave to each machine what depends on it.
    """
    from nas import plugins
    from nas.evaluator import Budget
    from nas.racing import Racing
    from nas.schedulers.settings import Scheduler
    from nas.settings.prescreen import Prescreen
    from nas.settings.resources import Constraints, Resources
    from nas.settings.sections import BASES
    from nas.settings.warm_start import WarmStart

    values = config.model_dump(mode="json")
    rows = _rows(type(config), "")
    slots, phases = values.pop("slots"), values.pop("phases")
    top = [row for row in rows if row["setting"] in values and not _is_section(config, row["setting"])]
    unset = FROM_THE_MACHINE if portable else ()
    lines = _section({row["setting"]: row for row in top}, values, unset)
    for kind, base in BASES.items():
        if values[kind] is None:
            continue
        name = values[kind].pop("name")
        cls: type = plugins.load(kind, name, base)
        described = _rows(plugins.settings_model(cls), kind)
        values[kind] = {key: default.name for key, (_, default) in plugins.slots(cls).items()} | values[kind]
        lines += ["", f"[{kind}]", f"name = {toml(name)}"]
        lines += _section({row["setting"].partition(".")[2]: row for row in described}, values[kind])
    for slot, choices in slots.items():
        lines += ["", f"[slots.{slot}]", *(f"{setting} = {toml(choices[setting])}" for setting in choices)]
    if not slots:
        lines += ["", *NO_SLOT]
    for phase in phases or ():
        lines += ["", "[[phases]]", *(f"{key} = {toml(value)}" for key, value in phase.items() if value)]
    models: dict[str, type[BaseModel]] = {
        "budget": Budget,
        "scheduler": Scheduler,
        "racing": Racing,
        "prescreen": Prescreen,
        "warm_start": WarmStart,
        "constraints": Constraints,
        "resources": Resources,
    }
    for kind, model in models.items():
        if kind == "budget" and config.looks_up:
            continue
        off = values[kind] is None
        described = _rows(model, kind)
        body = _section({row["setting"].partition(".")[2]: row for row in described}, values[kind] or {})
        body = [f"[{kind}]", *body]
        lines += ["", *([line if line.startswith("#") else f"# {line}" for line in body] if off else body)]
    return "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """Return plain JSON as a value in TOML.

    Raises:
        ValueError: it has a null, which TOML cannot say.
    """
    if value is None:
        raise ValueError("TOML has no null.")
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        pairs = (f"{_key(str(key))} = {toml(part)}" for key, part in value.items() if part is not None)
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def _key(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else toml(text)


def _is_section(config: SearchConfig, name: str) -> bool:
    from pydantic import BaseModel

    from nas.settings.sections import BASES

    return name in (*BASES, *OPTIONAL) or isinstance(getattr(config, name), BaseModel)


def _rows(model: type[BaseModel], where: str) -> list[dict[str, str]]:
    schema = model.model_json_schema()
    rows = list(settings_of(where, schema, schema.get("$defs", {})))
    return rows if where else [{**row, "setting": row["setting"].removeprefix(".")} for row in rows]


def _section(
    rows: Mapping[str, dict[str, str]], values: Mapping[str, Any], unset: tuple[str, ...] = ()
) -> list[str]:
    """Return a line for each setting: its value, its type and what it means."""
    found = [(path, rows[path], None if path in unset else _at(values, path)) for path in rows]
    codes = [f"# {path} =" if value is None else f"{path} = {toml(value)}" for path, _, value in found]
    width = min(max(map(len, codes), default=0), 36)
    return [
        f"{code.ljust(width)}  # {_words(row, value)}"
        for code, (_, row, value) in zip(codes, found, strict=True)
    ]


def _words(row: Mapping[str, str], value: Any) -> str:
    """Return a setting's type, what it means, and its default where the value is another."""
    words = f"{row['type']}: {row['meaning']}" if row["meaning"] else row["type"]
    default = row["default"]
    if default == REQUIRED or value is None or json.loads(default) == value:
        return words
    return f"{words} (default: {'none' if default == 'null' else default})"


def _at(values: Mapping[str, Any], path: str) -> Any:
    for part in path.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return None
        values = values[part]
    return values
