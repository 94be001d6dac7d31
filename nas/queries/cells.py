"""Values as people read them, in a terminal and on a page."""

from __future__ import annotations

import json
from typing import Any

from nas import counts
from nas.costs import COUNTED, MEASURED

FORMATS = (
    dict.fromkeys(("seconds", "trials", "reused"), ".1f")
    | dict.fromkeys(MEASURED, ".3g")
    | dict.fromkeys(("p_score", "p_test"), ".2g")
)
"""How numbers are written that are no scores: means of counts short, others by their magnitude."""


def cell(name: str, value: Any) -> str:
    """Return a value as people read it: counts in k and M, scores with four digits, times short."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if name in COUNTED:
        return counts.write(value)
    if isinstance(value, list | tuple):
        return " ".join(cell(name, part) for part in value)
    if isinstance(value, float):
        return f"{value:{FORMATS.get(name, '.4f')}}"
    if name.endswith("_at"):
        return str(value)[:19].replace("T", " ")
    return str(value)


def field_of(value: Any) -> Any:
    """Return a value for a field of CSV: what has parts as JSON."""
    return json.dumps(value) if isinstance(value, dict | list | tuple) else value


def setting(value: Any) -> str:
    """Return a section as `name key=value …`, those within it by their path; anything else as it was set."""
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, dict):
        return cell("", value)
    from nas.settings.paths import flat

    name = [str(value["name"])] if "name" in value else []
    given = flat({key: inner for key, inner in value.items() if key != "name"})
    pairs = [f"{path}={setting(inner)}" for path, inner in given.items() if inner not in (None, [], ())]
    return " ".join([*name, *pairs]) or "-"
