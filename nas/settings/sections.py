"""Sections of settings: read from files and options, checked, with every default filled in."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from nas import plugins
from nas.backbone import BackboneSpace
from nas.controller import Controller
from nas.errors import ConfigError, NasError, NotFound, PluginError, UnknownName
from nas.evaluator import Evaluator
from nas.findings import explain
from nas.learners.augmentation import Augmentation
from nas.learners.base import Learner
from nas.learners.update import UpdateRule
from nas.learners.weighting import Weighting
from nas.proxies.base import Proxy
from nas.tasks.base import TaskSource

BASES: dict[str, type] = {
    "space": BackboneSpace,
    "controller": Controller,
    "tasks": TaskSource,
    "learner": Learner,
    "evaluator": Evaluator,
}
"""What a plugin must be, by its section."""


PARTS: dict[str, type] = {
    "update rule": UpdateRule,
    "augmentation": Augmentation,
    "weighting": Weighting,
    "proxy": Proxy,
}
"""What a plugin that fills a slot of another one must be."""

UNTRAINED = ("tasks", "learner")
"""The sections that a search has none of if its evaluator trains nothing."""


def section(kind: str, *, where: str | None = None, optional: bool = False) -> BeforeValidator:
    """Return what checks a plugin's section, a name or a mapping with a name, and fills in its defaults.

    Args:
        kind: of the plugin.
        where: the path of the setting; None: it is the section of that kind.
        optional: whether there may be none.
    """
    path = where or kind

    def resolve(value: Any) -> dict[str, Any] | None:
        if value is None and optional:
            return None
        if not isinstance(value, str | Mapping):
            raise plugins.unnamed(path, value)
        given = {"name": value} if isinstance(value, str) else dict(value)
        name = given.pop("name", None)
        if not isinstance(name, str):
            raise lacking(kind) if where is None else plugins.unnamed(path, value)
        with nullcontext() if where is None else plugins.within(where, kind, name):
            return resolved(name, given)

    def resolved(name: str, given: dict[str, Any]) -> dict[str, Any]:
        cls = plugins.load(kind, name, (BASES | PARTS)[kind])
        if issubclass(cls, Controller) and "derive" in given and not cls.one_shot:
            raise ConfigError(
                f"controller.derive={given['derive']} (--derive): it is for one-shot controllers, and "
                f"'{name}' is none. Choose {controllers(one_shot=True)} with --controller, or leave it out."
            )
        return {"name": name} | plugins.resolve(cls, given, path)

    return BeforeValidator(resolve)


def controllers(*, one_shot: bool) -> str:
    """Return the names of the installed controllers that train a supernet, or of those for any evaluator."""
    found = []
    for name in plugins.installed("controller"):
        with suppress(PluginError):
            controller: type[Controller] = plugins.load("controller", name, Controller)
            if controller.one_shot == one_shot and not controller.continues:
                found.append(name)
    return ", ".join(found) or "another"


EXAMPLES = {
    "space": "few_shot",
    "controller": "evolution",
    "tasks": "glyphs",
    "learner": "prototypical",
}
"""A plugin of each kind that a search needs, for the examples in errors."""


def lacking(*kinds: str, given: Mapping[str, Any] | None = None) -> ConfigError:
    """Return the error for sections without a name, with an example that has them all.

    Args:
        kinds: the sections.
        given: what there is, if a search was asked for.
    """
    names = ", ".join(f"{kind}.name" for kind in kinds)
    options = ", ".join(f"--{kind}" for kind in kinds)
    verbs = [kind if kind == "tasks" else f"{kind}s" for kind in kinds if kind in EXAMPLES]
    listed = ", ".join(f"`nas {verb}`" for verb in verbs)
    told = f" What is installed: {listed}." if verbs else ""
    message = f"missing: {options} (in a file: {names}).{told}"
    if given is None:
        return ConfigError(message)
    example = [f"--{kind} {name_of(given.get(kind)) or plugin}" for kind, plugin in EXAMPLES.items()]
    return ConfigError(f"{message} For example:\n  nas run {' '.join(example)}")


def name_of(section: Any) -> str | None:
    """Return the name in a section before it is checked; None: it has none."""
    name = section.get("name") if isinstance(section, Mapping) else section
    return name if isinstance(name, str) else None


def nameless(section: Any) -> bool:
    """Return whether a section names no plugin: it is absent, or has settings alone."""
    return section is None or (isinstance(section, Mapping) and "name" not in section)


class StrictModel(BaseModel):
    """A section, or a whole configuration: frozen, and nothing in it that nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_Config = TypeVar("_Config", bound=StrictModel)


def maker(kind: str, section: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a plugin's constructor with the settings of its resolved section."""
    cls: type = plugins.load(kind, section["name"])
    return plugins.maker(cls, {key: value for key, value in section.items() if key != "name"})


def make_space(section: Mapping[str, Any]) -> BackboneSpace:
    """Return a new instance of the space of networks in a resolved section."""
    space: BackboneSpace = maker("space", section)()
    return space


def make_tasks(section: Mapping[str, Any]) -> TaskSource:
    """Return a new instance of the task source in a resolved section; reads its data.

    Raises:
        DataMissing: the data is not on this machine.
    """
    tasks: TaskSource = maker("tasks", section)()
    return tasks


def read(path: Path) -> tuple[str, dict[str, Any]]:
    """Return a TOML file's text and content; in the content, relative paths count from the file.

    Raises:
        NotFound: no such file.
        ConfigError: it is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise NotFound(f"Cannot read the configuration {path}: {error.strerror}.") from None
    except ValueError as error:  # not UTF-8, not TOML, or a number beyond all bounds
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    root(values, path.absolute().parent)
    return text, values


def root(values: dict[str, Any], folder: Path) -> None:
    """Let relative paths in nested settings count from a folder; those that are absolute stay."""
    for kind in plugins.GROUPS.keys() & values.keys():
        values[kind] = _rooted(kind, values[kind], folder)
    scheduler = values.get("scheduler")
    if isinstance(scheduler, dict) and isinstance(table := scheduler.get("table"), str):
        scheduler["table"] = table if table.startswith("~") else str(folder / table)


def _rooted(kind: str, section: Any, folder: Path) -> Any:
    """Return a section whose relative paths count from a folder; what is wrong with it is said later."""
    if isinstance(section, Mapping) and isinstance(section.get("name"), str):
        with suppress(NasError):
            return plugins.rooted(plugins.load(kind, section["name"]), section, folder)
    return section


def choose(values: dict[str, Any], kind: str, name: str) -> None:
    """Put plugin `name` into section `kind`; the settings of another plugin that stood there are dropped."""
    section = values.get(kind)
    same = isinstance(section, dict) and section.get("name") == name
    values[kind] = section if same else {"name": name}


def checked(model: type[_Config], values: Mapping[str, Any]) -> _Config:
    """Return the configuration with every default filled in.

    Raises:
        UnknownName: no such setting, or no such plugin.
        ConfigError: a section is missing, or a value has the wrong type or is out of range.
    """
    check_keys(model, values, "")
    fields = model.model_fields
    required = (kind for kind in plugins.GROUPS if kind in fields and fields[kind].is_required())
    missing = [kind for kind in required if kind not in values]
    if missing:
        raise lacking(*missing)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, model)) from None


def check_keys(model: type[BaseModel], values: Mapping[str, Any], where: str) -> None:
    """Refuse settings that a model does not have, in the sections within it too.

    Raises:
        UnknownName: the first of them.
    """
    for key, value in values.items():
        if key not in model.model_fields:
            raise UnknownName("setting", key, model.model_fields, of=where)
        annotation = model.model_fields[key].annotation
        for nested in (annotation, *get_args(annotation)):
            if isinstance(nested, type) and issubclass(nested, BaseModel) and isinstance(value, Mapping):
                check_keys(nested, value, f"the {key}")
