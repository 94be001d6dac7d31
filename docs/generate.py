"""Write docs/reference/ from the code: the command line, every setting, the Python face (`make docs`)."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from typer.main import get_command

import nas
from nas import plugins
from nas.cli.catalog import PATHS, REQUIRED, settings_of
from nas.cli.main import app
from nas.settings.evaluation import RECORDED, EvaluationConfig
from nas.settings.search import SearchConfig

REFERENCE = Path(__file__).parent / "reference"
GENERATED = "<!-- Written by `make docs` from the code. Change it there. -->"
OURS = "nas-service"
"""The distribution whose plug-ins are documented: the pages are the same whatever else is installed."""

KINDS = {
    "space": "Search spaces",
    "controller": "Controllers",
    "tasks": "Tasks",
    "learner": "Learners",
    "evaluator": "Evaluators",
    "update rule": "Update rules",
    "augmentation": "Augmentations",
    "weighting": "Weightings",
    "proxy": "Proxies",
}
"""Headings of the kinds of plug-ins; another kind is headed by its name."""

NOUNS = (
    "nas.space",
    "nas.backbone",
    "nas.supernet",
    "nas.states",
    "nas.controller",
    "nas.strategy",
    "nas.bilevel",
    "nas.tasks.base",
    "nas.learners.base",
    "nas.learners.inner",
    "nas.learners.update",
    "nas.learners.augmentation",
    "nas.learners.weighting",
    "nas.evaluator",
    "nas.proxies.base",
    "nas.plugins",
    "nas.errors",
    "nas.export.model",
    "nas.queries.leaderboard",
    "nas.queries.searches",
    "nas.queries.trials",
    "nas.queries.results",
    "nas.comparison.comparison",
    "nas.comparison.summary",
    "nas.testing.spaces",
    "nas.testing.backbones",
    "nas.testing.supernets",
    "nas.testing.controllers",
    "nas.testing.strategies",
    "nas.testing.learners",
    "nas.testing.update_rules",
    "nas.testing.augmentations",
    "nas.testing.weightings",
    "nas.testing.proxies",
    "nas.testing.tasks",
    "nas.testing.executors",
)
"""The modules whose nouns the author of a plug-in, or of a script, uses."""

SUITES = "nas.testing."
"""Of these modules only the classes are told: their methods are tests."""


def pages() -> dict[str, str]:
    """Return each generated page by its file's name."""
    return {"cli.md": command_line(), "settings.md": settings(), "python.md": python()}


def command_line() -> str:
    """Return the page of every verb, its arguments and its options."""
    parts = [
        GENERATED,
        "# The command line",
        "`nas VERB --help` prints the same. Data goes to stdout, words to stderr. "
        "Exit codes: 0 fine · 1 failed · 2 wrong setting · 3 not found · 4 database · "
        "5 too many failed trials · 6 head of the Ray cluster lost · 130, 143, 129 interrupted by "
        "Ctrl-C, SIGTERM, SIGHUP. "
        "`NAS_DEBUG=1` shows a traceback instead of a message.",
    ]
    for path, command in _commands(get_command(app), ()):
        usage = f"```\n{_usage(path, command)}\n```"
        rows = [_parameter(parameter) for parameter in command.params]
        parts += [f"## nas {' '.join(path)}", usage, inspect.cleandoc(command.help or "")]
        parts += [_table(("argument or option", "default", "meaning"), rows)] if rows else []
    return _joined(parts)


def _commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


def _usage(path: Sequence[str], command: Any) -> str:
    arguments = [_shown(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
    return " ".join(["nas", *path, "[OPTIONS]", *arguments])


def _shown(argument: Any) -> str:
    name = (argument.metavar or argument.name.upper()).strip("[]") + ("…" if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _parameter(parameter: Any) -> tuple[str, str, str]:
    """Return an argument or an option as it is written, its default and its meaning."""
    default = parameter.default.value if isinstance(parameter.default, enum.Enum) else parameter.default
    nothing = default is None or default is False or default == [] or callable(default)
    shown = "required" if parameter.required else "" if nothing else f"`{default}`"
    if parameter.param_type_name == "argument":
        return f"`{_shown(parameter)}`", shown, parameter.help or ""
    value = "" if getattr(parameter, "is_flag", False) else f" {_value(parameter)}"
    names = ", ".join(f"`{name}`" for name in [*parameter.opts[1:], *parameter.secondary_opts])
    written = f"`{parameter.opts[0]}{value}`" + (f", {names}" if names else "")
    variable = f" Environment variable: `{parameter.envvar}`." if parameter.envvar else ""
    return written, shown, f"{parameter.help or ''}{variable}".strip()


def _value(option: Any) -> str:
    """Return what stands for an option's value: its name, its choices or its type."""
    if option.metavar:
        return str(option.metavar)
    annotation = option.type_descriptor.annotation
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return "|".join(choice.value for choice in annotation)
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    return {int: "N", float: "NUMBER", Path: "FILE"}.get(annotation, "TEXT")


def settings() -> str:
    """Return the page of the settings of a search, of an evaluation and of every plug-in of ours."""
    parts = [
        GENERATED,
        "# Settings",
        "Give a setting with `--set KEY=VALUE`, or in a file: `tasks.ways=20` is `ways = 20` in section "
        "`[tasks]`. A plug-in's settings are its constructor's keyword-only parameters.",
        "## A search",
        "`nas run` and `nas resume`. The sections of plug-ins are below.",
        _rows("", SearchConfig, skip=tuple(plugins.GROUPS)),
        "## An evaluation",
        "`nas evaluate` has an option for each setting of `budget`. Its sections of plug-ins are those of a "
        "search.",
        _rows("", EvaluationConfig, skip=(*plugins.GROUPS, *RECORDED)),
    ]
    for kind in plugins.GROUPS:
        ours = [plugin for plugin in plugins.installed(kind).values() if plugin.distribution == OURS]
        if not ours:
            continue
        parts.append(f"## {KINDS.get(kind, kind.capitalize())}")
        for plugin in ours:
            cls = plugin.load()
            summary = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
            where = PATHS.get(kind, kind)
            parts += [f"### {kind}: {plugin.name}", summary, _rows(where, plugins.settings_model(cls))]
    return _joined(parts)


def _rows(where: str, model: type[BaseModel], skip: Sequence[str] = ()) -> str:
    """Return the table of a section's settings, with those of the optional sections within it."""
    schema = model.model_json_schema()
    models = schema.get("$defs", {})
    rows: list[tuple[str, str, str, str]] = []
    for row in settings_of(where, schema, models):
        name = row["setting"].removeprefix(".")
        inner = _optional(schema["properties"].get(name, {}))
        if inner is not None:
            rows += [_row(of) for of in settings_of(name, models[inner], models)]
        elif name not in skip:
            rows.append(_row(row))
    return _table(("setting", "type", "default", "meaning"), rows) if rows else "It has no settings."


def _optional(schema: Mapping[str, Any]) -> str | None:
    """Return the name of the model that an optional section has; None: it is no such section."""
    references = [form["$ref"] for form in schema.get("anyOf", ()) if "$ref" in form]
    return references[0].rpartition("/")[2] if references else None


def _row(row: Mapping[str, str]) -> tuple[str, str, str, str]:
    setting = row["setting"].removeprefix(".")
    return f"`{setting}`", row["type"], _default(row["default"]), row["meaning"]


def _default(text: str) -> str:
    return text if text == REQUIRED else "" if text == "null" else f"`{text}`"


def python() -> str:
    """Return the page of the public names of `nas`, and of the modules that plug-ins are written with."""
    parts = [
        GENERATED,
        "# Python",
        "`import nas` is the face: what scripts and notebooks use. A plug-in is written with the nouns below "
        "it. Other modules may change from one version to the next.",
        "## nas",
    ]
    for name in nas.__all__:
        home = getattr(getattr(nas, name), "__module__", None)
        defined = _documented(importlib.import_module(home)) if home else {}
        parts += _told(name, defined[name]) if name in defined else [f"### {name}", "The installed version."]
    for name in NOUNS:
        module = importlib.import_module(name)
        parts += [f"## {name}", inspect.cleandoc(module.__doc__ or "")]
        for told, noun in _documented(module).items():
            parts += _told(told, noun, methods=not name.startswith(SUITES))
    return _joined(parts)


class _Noun(NamedTuple):
    """What a module defines for others: a class, a function, or a constant with a text below it."""

    node: ast.ClassDef | ast.FunctionDef | ast.AnnAssign | ast.Assign
    source: str
    meaning: str


def _documented(module: ModuleType) -> dict[str, _Noun]:
    """Return what a module defines for others by name, in its order: not what begins with an underscore."""
    source = inspect.getsource(module)
    body = ast.parse(source).body
    found: dict[str, _Noun] = {}
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = _Noun(node, source, _prose(node))
        elif isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(after, ast.Expr):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name) and isinstance(after.value, ast.Constant):
                found[target.id] = _Noun(node, source, inspect.cleandoc(str(after.value.value)))
    return {name: noun for name, noun in found.items() if not name.startswith("_")}


def _told(name: str, noun: _Noun, *, methods: bool = True) -> list[str]:
    """Return a class with its methods, a function or a constant."""
    node, source, meaning = noun
    parts = [f"### {name}", f"```python\n{_code(node, source)}\n```", meaning]
    if isinstance(node, ast.ClassDef) and methods:
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                code = f"```python\n{_code(method, source)}\n```"
                parts += [f"#### {name}.{method.name}", code, _prose(method)]
    return parts


def _code(node: ast.stmt, source: str) -> str:
    """Return a constant, or how a function is called; of a class its fields and its constructor, too."""
    if not isinstance(node, ast.ClassDef | ast.FunctionDef):
        return ast.get_source_segment(source, node) or ""
    first = min(part.lineno for part in (node, *node.decorator_list))
    last = max(node.body[0].lineno - 1, node.lineno)
    header = textwrap.dedent("\n".join(source.splitlines()[first - 1 : last]))
    parts = [re.sub(r"  # (noqa|type:).*", "", header).removesuffix(" ...").removesuffix(":")]
    if isinstance(node, ast.ClassDef):
        for part in node.body:
            field = isinstance(part, ast.AnnAssign) and not ast.unparse(part.target).startswith("_")
            if field or (isinstance(part, ast.FunctionDef) and part.name == "__init__"):
                parts.append(textwrap.indent(textwrap.dedent(_code(part, source)), "    "))
    return "\n".join(parts)


def _prose(node: ast.ClassDef | ast.FunctionDef) -> str:
    """Return a docstring, its sections of arguments and errors as lists."""
    lines: list[str] = []
    listing = False
    for line in (ast.get_docstring(node) or "").splitlines():
        if re.fullmatch(r"(Args|Attributes|Raises|Returns|Yields):", line):
            listing = True
            lines += [f"**{line[:-1]}**", ""]
        elif listing and (item := re.match(r" {4}(\w[\w, *]*): (.*)", line)):
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif listing and line.startswith("    "):
            lines.append(f"  {line.strip()}")
        else:
            listing = listing and not line
            lines.append(line)
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in [columns, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
