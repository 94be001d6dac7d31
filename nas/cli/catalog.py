"""Verbs that say what is installed: spaces, controllers, learners and their slots, tasks, proxies."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.output import Format, FormatOption, WideOption, emit, paragraphs, say

if TYPE_CHECKING:
    from nas.backbone import BackboneSpace

REQUIRED = "required"
"""The default of a setting that has none."""

DROP = ("type", "default")
"""What a narrow terminal can do without: what a setting means stays."""

NAMED = 4
"""How many names of decisions with equal choices are printed."""

KINDS = {
    "spaces": "space",
    "controllers": "controller",
    "learners": "learner",
    "tasks": "tasks",
    "update-rules": "update rule",
    "augmentations": "augmentation",
    "weightings": "weighting",
    "proxies": "proxy",
}
PATHS = {
    **{kind: f"learner.{kind.partition(' ')[0]}" for kind in ("update rule", "augmentation", "weighting")},
    "proxy": "evaluator.proxy",
}
"""Where settings stand, of kinds that fill a slot."""


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb, kind in KINDS.items():
        app.command(verb, help=f"List the installed {verb.replace('-', ' ')}, or one with its settings.")(
            _lister(kind)
        )


def _lister(kind: str) -> Callable[..., None]:
    def catalog(
        name: Annotated[str | None, typer.Argument(help="One of them, or a module:Class path.")] = None,
        form: FormatOption = Format.TABLE,
        wide: WideOption = False,
    ) -> None:
        if name is None:
            _list(kind, form, wide)
        else:
            _describe(kind, name, form, wide)

    return catalog


def _list(kind: str, form: Format, wide: bool) -> None:
    from nas import plugins
    from nas.errors import PluginError

    rows = []
    for plugin in plugins.installed(kind).values():
        try:
            summary = _summary(plugin.load())
        except PluginError as error:
            say(f"warning: {error}")
            summary = "cannot be loaded"
        rows.append({"name": plugin.name, "summary": summary, "from": plugin.distribution})
    emit(rows, form, wide=wide)


def _describe(kind: str, name: str, form: Format, wide: bool) -> None:
    from nas import plugins
    from nas.plugins import import_from_here
    from nas.settings.sections import BASES, PARTS

    import_from_here()
    cls: type = plugins.load(kind, name, (BASES | PARTS)[kind])
    schema = plugins.settings_model(cls).model_json_schema()
    rows = list(settings_of(PATHS.get(kind, kind), schema, schema.get("$defs", {})))
    if form is Format.TABLE:
        strategy = getattr(cls, "settings_of", None)
        for described in (cls, strategy) if strategy else (cls,):
            whole = inspect.getdoc(described) or ""
            typer.echo(f"{paragraphs(whole.partition(_OF_THE_CONSTRUCTOR)[0])}\n")
        if kind == "space" and not any(row["default"] == REQUIRED for row in rows):
            _show_decisions(cls())
        if not rows:
            typer.echo("It has no settings.")
            return
        rows = [row | {"default": "-"} if row["default"] == "null" else row for row in rows]
    emit(rows, form, drop=DROP, wide=wide)


def settings_of(
    where: str,
    schema: dict[str, Any],
    models: dict[str, Any],
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[dict[str, str]]:
    """Yield the settings of a JSON schema, those of a nested section by their whole path.

    Where the section has a default of its own, `defaults`, it wins over those of its settings.
    """
    for key, form in schema.get("properties", {}).items():
        if "$ref" in form:
            section = models[form["$ref"].rpartition("/")[2]]
            yield from settings_of(f"{where}.{key}", section, models, form.get("default", {}))
            continue
        required = key in schema.get("required", ())
        yield {
            "setting": f"{where}.{key}",
            "type": _type(form, optional=not required),
            "default": REQUIRED if required else json.dumps(defaults.get(key, form.get("default"))),
            "meaning": form.get("description", ""),
        }


def _show_decisions(space: BackboneSpace) -> None:
    """Print what can be chosen, decisions with equal choices together, and an architecture's text."""
    from nas.space import Architecture

    alike: dict[tuple[Any, ...], list[str]] = {}
    for decision in space.decisions:
        alike.setdefault(decision.choices, []).append(decision.name)
    for choices, names in alike.items():
        some = names if len(names) <= NAMED else [names[0], names[1], "…", names[-1]]
        typer.echo(paragraphs(f"{', '.join(some)}: {' | '.join(map(str, choices))}"))
    first = Architecture(space.name, (0,) * len(space.decisions))
    typer.echo(f"{space.size:,} encodings, the first written as {space.encode(first)}\n")


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


_OF_THE_CONSTRUCTOR = "\n\nRaises:\n"
_TYPES = {"integer": "int", "number": "float", "boolean": "true or false", "string": "text", "null": "none"}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _type(schema: dict[str, Any], *, optional: bool = False) -> str:
    """Return a JSON schema as people read it: `int ≥ 1`, `int, 1 to 9`, `list of text`, `"a" or "b"`.

    That a setting can be none is not said where it has a default: leaving it out is how to have none.
    """
    if "anyOf" in schema:
        parts = [part for part in schema["anyOf"] if not (optional and part.get("type") == "null")]
        return " or ".join(map(_type, parts))
    if "enum" in schema:
        return " or ".join(map(json.dumps, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    name = _TYPES.get(schema.get("type", ""), schema.get("type", "any"))
    bounds = {bound: schema[bound] for bound in _BOUNDS if _tells(schema.get(bound))}
    if bounds.keys() == {"minimum", "maximum"}:
        return f"{name}, {bounds['minimum']} to {bounds['maximum']}"
    told = " and ".join(f"{_BOUNDS[bound]} {value}" for bound, value in bounds.items())
    return f"{name} {told}".rstrip()


def _tells(bound: float | None) -> bool:
    """Return whether people need to know a bound: not what fits a column of the database."""
    return bound is not None and bound < 2**31
