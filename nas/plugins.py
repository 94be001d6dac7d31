"""Entry points to classes, and classes to their settings."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, WithJsonSchema, create_model
from pydantic.fields import FieldInfo

from nas.errors import ConfigError, PluginError, UnknownName
from nas.findings import explain, written
from nas.shadows import shadow

GROUPS = {
    "space": "nas.search_spaces",
    "controller": "nas.controllers",
    "tasks": "nas.tasks",
    "learner": "nas.learners",
    "evaluator": "nas.evaluators",
    "update rule": "nas.update_rules",
    "augmentation": "nas.augmentations",
    "weighting": "nas.weightings",
    "proxy": "nas.proxies",
}
"""What can be plugged in, by the section of a search's configuration that names it, or by what it is."""


def absolute(path: str) -> str:
    """Return the path as it is found from any working directory: a search may be resumed in another.

    Raises:
        ValueError: no file can have this path.
    """
    try:
        found = Path(path).expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{path} begins with the home folder of a user who is not known here") from None
    if b"\0" in os.fsencode(found):
        raise ValueError("a path has no character 0")
    return str(found)


def import_from_here() -> None:
    """Let `module:Class` plugins be imported from the working directory, after all that is installed."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


_by_path: set[str] = set()

FilePath: TypeAlias = Annotated[str, AfterValidator(absolute)]
"""The type of a setting that is a path: a relative one counts from the file of the configuration, or from the
working directory if it is given by an option."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Marks a setting that a plug-in of its own fills: given as its name, or as a section with a name.

    The parameter takes what makes the plug-in, a class or a partial of one, and its default is a class that
    has no settings without a default. A slot at its default is no part of a resolved section.

    Attributes:
        kind: of the plug-in.
        base: what it must be.
    """

    kind: str
    base: type


@dataclass(frozen=True, slots=True)
class Choices:
    """Marks a text of a plug-in that fills a slot: what a search chooses it from, where it is to be `any`.

    Attributes:
        of: from the plug-in's other settings to texts and lists of choices, one after the other, of which the
            text is put together.
    """

    of: Callable[[Mapping[str, Any]], list[Any]]


@dataclass(frozen=True, slots=True)
class Plugin:
    """One installed plugin, not yet imported.

    Attributes:
        kind: one of `GROUPS`.
        name: as it is registered, or `module:Class`.
        target: `module:Class`.
        distribution: that registered it.
        root: the folder that its module is in; None: not known.
    """

    kind: str
    name: str
    target: str
    distribution: str
    root: Path | None = None

    def load(self) -> type[Any]:
        """Import the class.

        Raises:
            PluginError: another module of this name hides it, the import failed, or what it names is no
                class.
        """
        module, _, attribute = self.target.partition(":")
        hidden = shadow(module, self.root) if self.root else None
        if hidden is not None:
            own = hidden.hidden if ":" in self.name else hidden.found
            raise PluginError(
                f"The {self.kind} '{self.name}' is in {hidden.hidden}, but Python finds {hidden.found}, "
                f"which has the same name. Rename {own}."
            )
        try:
            loaded = getattr(importlib.import_module(module), attribute)
        except Exception as error:
            raise PluginError(
                f"The {self.kind} '{self.name}' ({self.target}, from {self.distribution}) cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not inspect.isclass(loaded):
            raise PluginError(f"The {self.kind} '{self.name}' ({self.target}) is no class.")
        return loaded


def _plugin(kind: str, entry: EntryPoint) -> Plugin:
    if entry.dist is None:
        return Plugin(kind, entry.name, entry.value, "?")
    name = entry.dist.name
    # Ours may be imported from its sources, which its installed files do not tell.
    root = Path(__file__).parents[1] if name == "nas-service" else Path(str(entry.dist.locate_file("")))
    return Plugin(kind, entry.name, entry.value, name, root)


@cache
def installed(kind: str) -> dict[str, Plugin]:
    """Return the installed plugins of a kind by name, sorted; nothing is imported."""
    found = (_plugin(kind, entry) for entry in entry_points(group=GROUPS[kind]))
    return {plugin.name: plugin for plugin in sorted(found, key=lambda plugin: plugin.name)}


def find(kind: str, name: str) -> Plugin:
    """Return the plugin registered as `name`, or the class that a `module:Class` path points at.

    Raises:
        UnknownName: no such plugin.
    """
    if ":" in name:
        _by_path.add(name.partition(":")[0])
        return Plugin(kind, name, name, "this path", Path())
    try:
        return installed(kind)[name]
    except KeyError:
        raise UnknownName(kind, name, installed(kind)) from None


def by_path() -> frozenset[str]:
    """Return the modules of which this process was asked for plugins by a `module:Class` path."""
    return frozenset(_by_path)


def load(kind: str, name: str, base: type = object) -> type[Any]:
    """Return the class of a plugin, by registered name or `module:Class` path.

    Raises:
        UnknownName: no such plugin.
        PluginError: it cannot be imported, or is no `base`.
    """
    loaded = find(kind, name).load()
    if not issubclass(loaded, base):
        raise PluginError(f"The {kind} '{name}' is no {base.__name__}: it does not derive from that class.")
    return loaded


def _parameters(function: Any) -> dict[str, tuple[Any, Any]]:
    """Return the annotation and the default (`...`: none) of a function's keyword-only parameters."""
    hints = get_type_hints(function, include_extras=True)
    return {
        parameter.name: (
            hints.get(parameter.name, Any),
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


@cache
def _own(cls: type) -> dict[str, tuple[Any, Any]]:
    """Return what a plugin's constructor takes, and what it passes on to its class `settings_of`."""
    passed = getattr(cls, "settings_of", None)
    own = _parameters(cls.__init__) if passed is not None else _constructed(cls)  # type: ignore[misc]
    return own if passed is None else own | {k: v for k, v in _own(passed).items() if k not in own}


def _constructed(cls: type) -> dict[str, tuple[Any, Any]]:
    """Return what a constructor takes; one that takes `**settings` passes them on to that of its base."""
    found = dict[str, tuple[Any, Any]]()
    for base in cls.__mro__:
        if "__init__" in vars(base):
            own = vars(base)["__init__"]
            found |= {k: v for k, v in _parameters(own).items() if k not in found}
            kinds = {parameter.kind for parameter in inspect.signature(own).parameters.values()}
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                break
    return found


@cache
def _shared(cls: type) -> dict[str, tuple[Any, Any]]:
    """Return the settings that a plugin's base gives it: of the method `equip`, where it has one."""
    equip = getattr(cls, "equip", None)
    return {} if equip is None else {k: v for k, v in _parameters(equip).items() if k not in _own(cls)}


def slots(cls: type) -> dict[str, tuple[Slot, Any]]:
    """Return those settings of a plugin that are filled by plugins, each with its default."""
    found = dict[str, tuple[Slot, Any]]()
    for name, (hint, default) in (_own(cls) | _shared(cls)).items():
        for mark in get_args(hint)[1:]:
            if isinstance(mark, Slot):
                found[name] = (mark, default)
    return found


def choices(cls: type) -> dict[str, Choices]:
    """Return those settings of a plugin that a search can choose as a whole."""
    marks = ((name, mark) for name, (hint, _) in _own(cls).items() for mark in get_args(hint)[1:])
    return {name: mark for name, mark in marks if isinstance(mark, Choices)}


@cache
def settings_model(cls: type) -> type[BaseModel]:
    """Return a pydantic model of a plugin's settings: its constructor's keyword-only parameters.

    One that takes `**settings` has those of its base's constructor, too; where the class has an attribute
    `settings_of`, a class, it has those of that class. Those of a method `equip`, which its base may have,
    come last. The model knows of a slot no more than that it has a name.
    """
    fields: dict[str, Any] = _own(cls) | _shared(cls)
    for name, (_, default) in slots(cls).items():
        marks = [mark for mark in get_args(fields[name][0])[1:] if not isinstance(mark, Slot)]
        fields[name] = (Annotated[str, *marks, WithJsonSchema({"type": "name or section"})], default.name)
    config = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, validate_default=True, allow_inf_nan=False
    )
    return create_model(f"{cls.__name__}Settings", __config__=config, **fields)


def settings(cls: type) -> dict[str, FieldInfo]:
    """Return a plugin's settings by name."""
    return dict(settings_model(cls).model_fields)


def rooted(cls: type, values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a plugin's settings as given, relative paths counted from a folder.

    Args:
        cls: the plugin's class; its settings of type `FilePath` are paths.
        values: what the user set, not yet checked.
        folder: an absolute path.
    """
    paths = [name for name, field in settings(cls).items() if AfterValidator(absolute) in field.metadata]
    relative = {name: values[name] for name in paths if isinstance(values.get(name), str)}
    filled = {
        name: rooted(load(slot.kind, values[name].get("name", default.name)), values[name], folder)
        for name, (slot, default) in slots(cls).items()
        if isinstance(values.get(name), Mapping)
    }
    return {
        **values,
        **filled,
        **{name: str(folder / path) for name, path in relative.items() if not path.startswith("~")},
    }


def resolve(cls: type, values: dict[str, Any], where: str) -> dict[str, Any]:
    """Check a plugin's settings and fill in the defaults; the result is plain JSON.

    Args:
        cls: the plugin's class.
        values: what the user set.
        where: the section that error messages name, such as `tasks`.

    Raises:
        UnknownName: no such setting.
        ConfigError: a setting without a default is missing, or a value has the wrong type or is out of range.
    """
    model = settings_model(cls)
    for key in values:
        if key not in model.model_fields:
            raise UnknownName("setting", key, model.model_fields, of=f"the {where}")
    filled = {
        name: _filled(slot, default, values[name], f"{where}.{name}")
        for name, (slot, default) in slots(cls).items()
        if name in values
    }
    try:
        checked = model.model_validate({name: v for name, v in values.items() if name not in filled})
    except ValidationError as error:
        raise ConfigError(explain(error, model, where)) from None
    plain = checked.model_dump(mode="json", exclude=set(slots(cls)))
    return plain | {name: section for name, section in filled.items() if section is not None}


def _filled(slot: Slot, default: Any, value: Any, where: str) -> dict[str, Any] | None:
    """Return the resolved section of what fills a slot; None: it is the default."""
    if value is None:
        return None
    given = {"name": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else {}
    usual: str = default.name
    name = given.pop("name", usual if given else None)
    if not isinstance(name, str):
        raise unnamed(where, value)
    with within(where, slot.kind, name):
        section = {"name": name} | resolve(load(slot.kind, name, slot.base), given, where)
    return None if section == {"name": usual} | resolve(default, {}, where) else section


def unnamed(where: str, value: Any) -> ConfigError:
    """Return the error for a setting that is to name a plugin, and does not."""
    return ConfigError(f"{where}: expected a name, or a section with a name (given: {written(value)}).")


@contextmanager
def within(where: str, kind: str, name: str) -> Iterator[None]:
    """Let errors about a plugin of a setting within a section begin with the path of that setting.

    Args:
        where: the path, such as `evaluator.proxy`.
        kind: of the plugin.
        name: as given.
    """
    try:
        yield
    except PluginError as error:
        raise PluginError(f"{where}: {error}") from error
    except UnknownName as error:
        own = "" if name in installed(kind) else " One of your own is named by module:Class."
        raise ConfigError(f"{where}: {error}{own}") from None


def arguments(cls: type, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return resolved settings as the types that the constructor declares, which plain JSON has lost.

    Of a slot it is what makes the plugin; a slot at its default is left out.
    """
    own = slots(cls)
    model = settings_model(cls).model_validate({k: v for k, v in resolved.items() if k not in own})
    found = {name: getattr(model, name) for name in settings(cls) if name not in own}
    for name, (slot, _) in own.items():
        if name in resolved:
            part, settings_ = _parted(slot, resolved[name])
            found[name] = partial(part, **arguments(part, settings_))
    return found


def maker(cls: type, resolved: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the constructor of a plugin with resolved settings, which `equip` is given, too."""
    given = arguments(cls, resolved)
    shared = {name: given.pop(name) for name in _shared(cls) if name in given}
    make = partial(cls, **given)
    return partial(_equipped, make, shared) if shared else make


def _equipped(make: Callable[..., Any], shared: Mapping[str, Any], *arguments: Any) -> Any:
    return make(*arguments).equip(**shared)


def classes(kind: str, section: Mapping[str, Any]) -> list[type]:
    """Return the class of a resolved section, and those that fill its slots."""
    cls = load(kind, section["name"])
    parts = [_parted(slot, section[name])[0] for name, (slot, _) in slots(cls).items() if name in section]
    return [cls, *parts]


def _parted(slot: Slot, section: Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
    """Return the class of a resolved section, and its settings."""
    settings_ = {name: value for name, value in section.items() if name != "name"}
    return load(slot.kind, section["name"], slot.base), settings_
