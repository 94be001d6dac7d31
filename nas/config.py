"""A search's configuration: TOML and overrides, checked, with every default filled in."""

from __future__ import annotations

import functools
import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from nas import counts, plugins
from nas.asha import Asha
from nas.controller import Controller
from nas.errors import ConfigError, NasError, NotFound, PluginError, UnknownName, Unsupported
from nas.evaluator import Budget, Context, Evaluator, Lookup
from nas.learners.base import Learner
from nas.precision import Precision
from nas.space import SearchSpace, TaskShape
from nas.tasks.base import TaskSource
from nas.wrappers import Constrained, Deduplicated

BASES: dict[str, type] = {
    "space": SearchSpace,
    "controller": Controller,
    "tasks": TaskSource,
    "learner": Learner,
    "evaluator": Evaluator,
}
"""What a plugin must be, by its section."""

UNTRAINED = ("tasks", "learner")
"""The sections that a search has none of if its evaluator trains nothing."""


def section(kind: str) -> BeforeValidator:
    """Return what checks a plugin's section, a name or a mapping with a name, and fills in its defaults."""

    def resolve(value: Any) -> dict[str, Any] | None:
        if value is None and kind in UNTRAINED:
            return None
        if not isinstance(value, str | Mapping):
            raise ConfigError(f"{kind}: expected a name, or a section with a name (given: {value!r}).")
        given = {"name": value} if isinstance(value, str) else dict(value)
        name = given.pop("name", None)
        if not isinstance(name, str):
            raise _missing(kind)
        cls = plugins.load(kind, name, BASES[kind])
        if kind == "controller" and "derive" in given and not _one_shot(cls):
            raise ConfigError(
                f"controller.derive={given['derive']} (--derive): it is for one-shot controllers, and "
                f"'{name}' is none. Choose {_controllers(one_shot=True)} with --controller, or leave it out."
            )
        return {"name": name} | plugins.resolve(cls, given, kind)

    return BeforeValidator(resolve)


def _one_shot(controller: type) -> bool:
    """Return whether a controller trains a supernet: those that do are told how many networks to derive."""
    return "derive" in plugins.settings(controller)


def _controllers(*, one_shot: bool) -> str:
    """Return the names of the installed controllers that train a supernet, or of those that do not."""
    found = []
    for name in plugins.installed("controller"):
        with suppress(PluginError):
            if _one_shot(plugins.load("controller", name, BASES["controller"])) == one_shot:
                found.append(name)
    return ", ".join(found) or "another"


EXAMPLES = {
    "space": "few_shot",
    "controller": "evolution",
    "tasks": "glyphs",
    "learner": "prototypical",
}
"""A plugin of each kind that a search needs, for the examples in errors."""


def _missing(*kinds: str, given: Mapping[str, Any] | None = None) -> ConfigError:
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
    example = [f"--{kind} {_name(given.get(kind)) or plugin}" for kind, plugin in EXAMPLES.items()]
    return ConfigError(f"{message} For example:\n  nas run {' '.join(example)}")


def _name(section: Any) -> str | None:
    """Return the name in a section before it is checked; None: it has none."""
    name = section.get("name") if isinstance(section, Mapping) else section
    return name if isinstance(name, str) else None


def _nameless(section: Any) -> bool:
    """Return whether a section names no plugin: it is absent, or has settings alone."""
    return section is None or (isinstance(section, Mapping) and "name" not in section)


class Model(BaseModel):
    """A section, or a whole configuration: frozen, and nothing in it that nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_Config = TypeVar("_Config", bound=Model)


def _count(value: Any) -> Any:
    """Return a count that is a text, such as `20k`, as a number."""
    return counts.read(value) if isinstance(value, str) else value


Count = Annotated[int, BeforeValidator(_count), Field(ge=1, lt=2**63)]
"""A number of weights or operations, such as 20000 or `20k`."""


class Constraints(Model):
    """What an architecture may cost at most; what breaks a limit is rejected before a worker is spent."""

    max_parameters: Annotated[Count | None, Field(description="weights")] = None
    max_macs: Annotated[Count | None, Field(description="multiply-accumulates")] = None


class Resources(Model):
    """What one trial takes of a machine."""

    cpus: Annotated[int, Field(ge=1, le=1024, description="cores, and torch threads, of one trial")] = 1
    gpus: Annotated[
        float | None, Field(ge=0, description="share of a GPU; by default the GPUs split evenly over workers")
    ] = None
    precision: Precision = "auto"
    seconds: Annotated[
        float | None,
        Field(
            gt=0,
            description="time after which a trial ends: stopped with its last score at a rung, or failed "
            "without one, and not tried again; a supernet ends with its epoch, and derives",
        ),
    ] = None


class SearchConfig(Model):
    """All that defines a search. Sections `space`, `controller`, … are a plugin's name and its settings."""

    name: Annotated[str | None, Field(description="of the search; by default made from its parts")] = None
    space: Annotated[dict[str, Any], section("space")]
    controller: Annotated[dict[str, Any], section("controller")]
    tasks: Annotated[dict[str, Any] | None, section("tasks")] = None
    learner: Annotated[dict[str, Any] | None, section("learner")] = None
    evaluator: Annotated[dict[str, Any], section("evaluator")] = Field(
        default_factory=lambda: {"name": "train"}, validate_default=True
    )
    budget: Budget = Budget()
    trials: Annotated[int, Field(ge=1, lt=2**31, description="architectures to try")] = 32
    max_seconds: Annotated[
        float | None, Field(gt=0, description="worker time in all after which no further trial starts")
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**63, description="of everything random")] = 0
    executor: Annotated[Literal["ray", "inline"], Field(description="where trials run")] = "ray"
    workers: Annotated[int, Field(ge=1, le=10_000, description="trials at a time")] = 1
    scheduler: Asha | None = None
    constraints: Constraints = Constraints()
    deduplicate: Annotated[bool, Field(description="train isomorphic networks once")] = True
    retries: Annotated[int, Field(ge=0, description="further attempts at a trial that failed")] = 1
    max_failed: Annotated[
        float, Field(ge=0, le=1, description="share of failed trials above which the search gives up")
    ] = 0.5
    resources: Resources = Resources()

    @functools.cached_property
    def settings(self) -> str:
        """Hash of what a score depends on besides network and seed: equal means comparable."""
        parts = self.model_dump(mode="json", include={"tasks", "learner", "evaluator", "budget"})
        parts["precision"] = self.resources.precision
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @model_validator(mode="after")
    def _trained_or_looked_up(self) -> Self:
        name = self.evaluator["name"]
        if not self.looks_up:
            for kind in UNTRAINED:
                if getattr(self, kind) is None:
                    raise _missing(kind)
            return self
        if "derive" in self.controller:
            raise Unsupported(
                f"controller: '{self.controller['name']}' is one-shot: it trains a supernet, and the "
                f"evaluator '{name}' trains nothing. Choose {_controllers(one_shot=False)}."
            )
        for kind in UNTRAINED:
            if getattr(self, kind) is not None:
                raise ConfigError(f"{kind}: the evaluator '{name}' trains nothing; leave {kind} out.")
        if self.scheduler is not None and len(self.lengths) < 2:
            raise ConfigError(
                f"scheduler: the evaluator '{name}' has the scores of one training length, so that no trial "
                "can be stopped early. Give the columns of several with evaluator.metric, such as "
                '{4 = "valid_4", 12 = "valid_12", 108 = "valid_108"}, or leave the scheduler out.'
            )
        return self

    @property
    def looks_up(self) -> bool:
        """Whether the evaluator trains nothing."""
        return issubclass(plugins.load("evaluator", self.evaluator["name"]), Lookup)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Training episodes at which the scheduler wants a score; of a lookup the lengths that it has."""
        if self.scheduler is None:
            return ()
        if self.looks_up:
            return tuple(n for n in self.lengths[:-1] if n >= (self.scheduler.minimum or 1))
        return self.scheduler.rungs(self.budget.train_episodes)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The training lengths of an evaluator that looks scores up; see `Lookup.lengths`."""
        lookup, settings = self._lookup()
        return lookup.lengths(**settings)

    def _lookup(self) -> tuple[type[Lookup], dict[str, Any]]:
        """Return the evaluator of a search that looks scores up, and its settings."""
        lookup: type[Lookup] = plugins.load("evaluator", self.evaluator["name"])
        settings = {key: value for key, value in self.evaluator.items() if key != "name"}
        return lookup, plugins.arguments(lookup, settings)

    def make_space(self) -> SearchSpace:
        """Return a new instance of the search space."""
        space: SearchSpace = maker("space", self.space)()
        return space

    def make_tasks(self) -> TaskSource:
        """Return a new instance of the task source, or what the evaluator has in its place; reads its data.

        Raises:
            DataMissing: the data is not on this machine.
        """
        if self.tasks is None:
            lookup, settings = self._lookup()
            return lookup.source(self.make_space(), **settings)
        tasks: TaskSource = maker("tasks", self.tasks)()
        return tasks

    def make_controller(self, space: SearchSpace, tasks: TaskSource) -> Controller:
        """Return a new controller, within its wrappers."""
        controller: Controller = maker("controller", self.controller)(space, self.seed)
        limits = self.constraints
        if limits.max_parameters is not None or limits.max_macs is not None:
            controller = Constrained(controller, space, tasks.shape, limits.max_parameters, limits.max_macs)
        return Deduplicated(controller, space) if self.deduplicate else controller

    def make_context(self, space: SearchSpace, tasks: TaskSource) -> Context:
        """Return what every job of the search shares."""
        learner = maker("learner", self.learner) if self.learner else _no_learner
        return Context(
            space, tasks, learner, self.budget, self.rungs, self.resources.precision, self.resources.seconds
        )

    def make_evaluator(self, context: Context) -> Evaluator:
        """Return a new evaluator: what a worker holds."""
        evaluator: Evaluator = maker("evaluator", self.evaluator)(context)
        return evaluator


def _no_learner(backbone: nn.Module, shape: TaskShape) -> NoReturn:
    raise Unsupported("The search has no learner: its evaluator trains nothing.")


def maker(kind: str, section: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a plugin's constructor with the settings of its resolved section."""
    cls: type = plugins.load(kind, section["name"])
    settings = {key: value for key, value in section.items() if key != "name"}
    return functools.partial(cls, **plugins.arguments(cls, settings))


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
    for kind in plugins.GROUPS.keys() & values.keys():
        values[kind] = _rooted(kind, values[kind], path.absolute().parent)
    return text, values


def _rooted(kind: str, section: Any, folder: Path) -> Any:
    """Return a section whose relative paths count from a folder; what is wrong with it is said later."""
    if isinstance(section, Mapping) and isinstance(section.get("name"), str):
        with suppress(NasError):
            return plugins.rooted(plugins.load(kind, section["name"]), section, folder)
    return section


def assign(values: dict[str, Any], setting: str) -> None:
    """Put `a.b=value` into nested `values`; the value is TOML or JSON (which has null), or a bare string.

    Raises:
        ConfigError: no `=`, or a path through something that is no section.
    """
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {setting}: expected KEY=VALUE, such as tasks.ways=20.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        try:
            value = json.loads(text)
        except ValueError:
            value = text
    *sections, key = path.strip().split(".")
    for name in sections:
        inner = values.setdefault(name, {})
        if isinstance(inner, str):  # a plugin given by its bare name
            inner = values[name] = {"name": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {setting}: '{name}' is no section.")
        values = inner
    values[key] = value


def choose(values: dict[str, Any], kind: str, name: str) -> None:
    """Put plugin `name` into section `kind`; the settings of another plugin that stood there are dropped."""
    section = values.get(kind)
    same = isinstance(section, dict) and section.get("name") == name
    values[kind] = section if same else {"name": name}


def default_executor(values: Mapping[str, Any]) -> str:
    """Return where trials run if `values` do not say: in this process where the evaluator trains nothing.

    Raises:
        UnknownName: no such evaluator.
    """
    return "inline" if _looks_up(values) else "ray"


def _looks_up(values: Mapping[str, Any]) -> bool:
    name = _name(values.get("evaluator", "train"))
    return name is not None and issubclass(plugins.load("evaluator", name), Lookup)


def validate(values: Mapping[str, Any]) -> SearchConfig:
    """Return the checked configuration of a search.

    Raises:
        UnknownName: no such setting, or no such plugin.
        ConfigError: a value has the wrong type or is out of range.
    """
    needed = ("space", "controller") if _looks_up(values) else tuple(EXAMPLES)
    missing = [kind for kind in needed if _nameless(values.get(kind))]
    if missing:
        _check_keys(SearchConfig, values, "")
        raise _missing(*missing, given=values)
    config = checked(SearchConfig, {"executor": default_executor(values), **values})
    if config.executor == "inline" and config.workers > 1:
        raise ConfigError(
            f"workers={config.workers}: the inline executor runs one trial at a time; use --executor ray."
        )
    if config.looks_up and config.lengths:
        whole = config.lengths[-1]
        if config.budget.train_episodes not in (whole, Budget().train_episodes):
            raise ConfigError(
                f"budget.train_episodes={config.budget.train_episodes}: the longest training that the "
                f"evaluator '{config.evaluator['name']}' has scores of is {whole}; leave it out."
            )
        budget = config.budget.model_copy(update={"train_episodes": whole})
        config = config.model_copy(update={"budget": budget})
    if config.scheduler is not None and not config.rungs:
        raise ConfigError(
            f"scheduler.minimum={config.scheduler.minimum}: no trial can be stopped before its budget of "
            f"budget.train_episodes={config.budget.train_episodes} is spent; choose fewer."
        )
    return config


def checked(model: type[_Config], values: Mapping[str, Any]) -> _Config:
    """Return the configuration with every default filled in.

    Raises:
        UnknownName: no such setting, or no such plugin.
        ConfigError: a section is missing, or a value has the wrong type or is out of range.
    """
    _check_keys(model, values, "")
    fields = model.model_fields
    required = (kind for kind in plugins.GROUPS if kind in fields and fields[kind].is_required())
    missing = [kind for kind in required if kind not in values]
    if missing:
        raise _missing(*missing)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(plugins.explain(error, model)) from None


def _check_keys(model: type[BaseModel], values: Mapping[str, Any], where: str) -> None:
    for key, value in values.items():
        if key not in model.model_fields:
            raise UnknownName("setting", key, model.model_fields, of=where)
        annotation = model.model_fields[key].annotation
        for nested in (annotation, *get_args(annotation)):
            if isinstance(nested, type) and issubclass(nested, BaseModel) and isinstance(value, Mapping):
                _check_keys(nested, value, f"the {key}")
