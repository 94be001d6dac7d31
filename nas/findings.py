"""What pydantic finds wrong with settings, in our words: which setting, and what it should be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def explain(error: ValidationError, model: type[BaseModel], where: str = "", *, settable: bool = True) -> str:
    """Return pydantic's findings in our words, one line each: which setting, what is wrong, what was given.

    Args:
        error: the findings.
        model: what was validated.
        where: the section that it is.
        settable: whether what is missing can be given with `--set`.
    """
    wanted: dict[str, list[str]] = {}
    values: dict[str, str] = {}
    for finding in error.errors():
        place, kind = _place(model, finding["loc"]), finding["type"]
        path = ".".join(map(str, ((where,) if where else ()) + place))
        field = _field(model, place)
        if kind == "missing":
            meaning = f": {field.description}" if field is not None and field.description else ""
            remedy = f". Give it, as with --set {path}=…" if settable else ""
            wanted[f"{path} is missing{meaning}{remedy}"] = []
        else:
            inside = _section(_field(model, place[:-1]))
            wanted.setdefault(path, []).append(_wanted(finding, path, field, inside))
            values[path] = written(finding["input"])
    return "\n".join(
        f"{path}: {', or '.join(dict.fromkeys(all_))} (given: {values[path]})" if all_ else path
        for path, all_ in wanted.items()
    )


def expected(error: ValidationError) -> str:
    """Return pydantic's first finding on a lone value in our words, as `explain` does for a section."""
    finding = error.errors()[0]
    wanted = _wanted(finding, "", None, None)
    return f"{wanted} (given: {written(finding['input'])})" if finding["type"] in _EXPECTED else wanted


_EXPECTED = {
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_parsing_size": "too large a number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected text",
    "string_pattern_mismatch": "expected text of the form {pattern}",
    "string_too_short": "too short: at least {min_length} letters",
    "string_too_long": "too long: at most {max_length} letters",
    "literal_error": "expected {expected}",
    "enum": "expected {expected}",
    "greater_than": "has to be greater than {gt}",
    "greater_than_equal": "has to be at least {ge}",
    "less_than": "has to be less than {lt}",
    "less_than_equal": "has to be at most {le}",
    "multiple_of": "has to be a multiple of {multiple_of}",
    "too_short": "too few entries: at least {min_length}",
    "too_long": "too many entries: at most {max_length}",
}
"""What pydantic's kinds of errors say, for the kinds that settings can have."""

_LISTS = ("list_type", "tuple_type", "set_type", "frozen_set_type")
_SECTIONS = ("dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type")


def _wanted(
    finding: ErrorDetails, path: str, field: FieldInfo | None, section: type[BaseModel] | None
) -> str:
    """Return what a value should have been, and how to write it.

    Args:
        finding: what is wrong.
        path: the setting.
        field: of the setting; None: it is a part of a value, or there is no such setting.
        section: that the setting is in; None: it is no section of a section.
    """
    kind, given = finding["type"], finding["input"]
    if kind == "extra_forbidden":
        known = "" if section is None else f"; allowed: {', '.join(section.model_fields)}"
        return f"there is no such setting{known}"
    if kind in _LISTS:
        if isinstance(given, str) and given.startswith("["):
            return "expected a list: each text in it stands between double quotes"
        if isinstance(given, str | int | float):
            return f"expected a list: write {path}=[{written(given)}], in a shell between single quotes"
        return "expected a list"
    if kind in _SECTIONS:
        own = _section(field)
        if own is None:
            return "expected a section, settings with a value each"
        keys = list(own.model_fields)
        return f"expected a section with {', '.join(keys)}: write {path}.{keys[0]}=…"
    if kind in _EXPECTED:
        bounds = {name: _short(bound) for name, bound in finding.get("ctx", {}).items()}
        return _EXPECTED[kind].format(**bounds)
    return finding["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")


def _short(bound: Any) -> Any:
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def written(value: Any) -> str:
    """Return a value as a file of settings or `--set` has it."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)


def _place(model: type[BaseModel], place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return a place without the kind of value that pydantic adds where a setting may be of several kinds."""
    field = model.model_fields.get(str(place[0])) if len(place) > 1 else None
    kinds = [] if field is None else [kind for kind in get_args(field.annotation) if kind is not type(None)]
    several = get_origin(getattr(field, "annotation", None)) in (Union, UnionType) and len(kinds) > 1
    return (place[0], *place[2:]) if several else place


def _field(model: type[BaseModel], place: Sequence[int | str]) -> FieldInfo | None:
    """Return the field that a place in a model is; None: it is a part of a value."""
    first, *rest = place or ("",)
    field = model.model_fields.get(str(first))
    if not rest or field is None:
        return field
    section = _section(field)
    return None if section is None else _field(section, rest)


def _section(field: FieldInfo | None) -> type[BaseModel] | None:
    """Return the model of a field that is a section."""
    annotation = None if field is None else field.annotation
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None
