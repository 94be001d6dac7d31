"""A search's configuration: TOML and overrides, checked, with every default filled in."""

from __future__ import annotations

import functools
import hashlib
import json
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Annotated, Any, NoReturn, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from torch import nn

from nas import executors, plugins
from nas.controller import Controller, TrainSupernet
from nas.costs import MEASURED
from nas.errors import ConfigError, DataMissing, PluginError, UnknownName, Unready, Unsupported
from nas.evaluator import Budget, Chosen, Context, Evaluator, Lookup, LookupContext, MakeLearner
from nas.executors.attempts import RETRIES, Retries
from nas.objective import GOALS, Objective
from nas.prescreening import Counted, Guided, Prescreened
from nas.product import MAIN, Product, backbone_of
from nas.racing import Racing
from nas.schedulers.settings import Scheduler
from nas.schedulers.stopping import Stopper
from nas.settings import compatibility, schedulers
from nas.settings.keep import ALL, Keep, kept
from nas.settings.phases import Phase
from nas.settings.phases import resolved as phased
from nas.settings.prescreen import Prescreen
from nas.settings.resources import Constraints, Resources
from nas.settings.sections import (
    EXAMPLES,
    StrictModel,
    check_keys,
    checked,
    lacking,
    make_space,
    make_tasks,
    maker,
    name_of,
    nameless,
    section,
)
from nas.settings.slots import SECTIONS, Slots, explicit, resolved, varied
from nas.settings.warm_start import WarmStart, searches
from nas.settings_space import Settings
from nas.space import Space, TaskShape
from nas.tasks.base import ScoreSource, TaskSource
from nas.training.latency import Timed
from nas.training.provenance import proposal_rng
from nas.training.proxies import Promised
from nas.wrappers import Constrained, Deduplicated, WarmStarted


def _goals(value: Any) -> Any:
    """Return goals as a list, such as `score,macs` of a command line; the score alone is the default."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if isinstance(value, list) and all(isinstance(goal, str) for goal in value):
        return None if Objective(tuple(value)) == Objective() else value
    return value


class SearchConfig(StrictModel):
    """All that defines a search. Sections `space`, `controller`, … are a plugin's name and its settings."""

    name: Annotated[str | None, Field(description="of the search; by default made from its parts")] = None
    space: Annotated[dict[str, Any], section("space")]
    controller: Annotated[dict[str, Any], section("controller")]
    tasks: Annotated[dict[str, Any] | None, section("tasks", optional=True)] = None
    learner: Annotated[dict[str, Any] | None, section("learner", optional=True)] = None
    slots: Annotated[
        Slots,
        Field(default_factory=dict, description="settings to choose, too: values by section and setting"),
    ]
    phases: Annotated[
        list[Phase] | None,
        Field(description="settings of the learner and of training tasks that change while a network trains"),
    ] = None
    evaluator: Annotated[dict[str, Any], section("evaluator")] = Field(
        default_factory=lambda: {"name": "train"}, validate_default=True
    )
    budget: Budget = Budget()
    objective: Annotated[
        list[str] | None,
        BeforeValidator(_goals),
        Field(description=f"what is made better, by default the score; one or several of {', '.join(GOALS)}"),
    ] = None
    trials: Annotated[int, Field(ge=1, lt=2**31, description="architectures to try")] = 32
    max_seconds: Annotated[
        float | None, Field(gt=0, description="worker time in all after which no further trial starts")
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**63, description="of everything random")] = 0
    executor: Annotated[executors.Name, Field(description="where trials run")] = "ray"
    workers: Annotated[
        int, Field(ge=1, le=10_000, description="trials at a time; `nas run` fills in one a core")
    ] = 1
    scheduler: Scheduler | None = None
    racing: Racing | None = None
    prescreen: Prescreen | None = None
    warm_start: Annotated[
        WarmStart | None,
        BeforeValidator(searches),
        Field(description="earlier searches to begin with: their names, or a section"),
    ] = None
    constraints: Constraints = Constraints()
    deduplicate: Annotated[bool, Field(description="train isomorphic networks once")] = True
    retries: Retries = RETRIES
    keep: Annotated[
        Keep,
        Field(
            description="states of short trainings that stay while a scheduler promotes: all, or top:K, the "
            "K best besides those that it may promote"
        ),
    ] = ALL
    max_failed: Annotated[
        float, Field(ge=0, le=1, description="share of failed trials above which the search gives up")
    ] = 0.5
    resources: Resources = Resources()

    @functools.cached_property
    def settings(self) -> str:
        """Hash of what a score depends on besides what is chosen and the seed: equal means comparable."""
        parts = self.model_dump(mode="json", include={"tasks", "learner", "evaluator"})
        parts["budget"] = self.budget.model_dump(mode="json", exclude={"score_at"})
        parts["precision"] = self.resources.precision
        if self.phases is not None:
            parts["phases"] = [phase.model_dump(mode="json") for phase in self.phases]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @field_validator("slots")
    @classmethod
    def _resolved(cls, slots: Slots, info: ValidationInfo) -> Slots:
        return {
            slot: resolved(slot, choices, info.data.get(slot))
            for slot, choices in slots.items()
            if choices and (slot in info.data or slot not in SECTIONS)
        }

    @field_validator("phases")
    @classmethod
    def _in_phases(cls, phases: list[Phase] | None, info: ValidationInfo) -> list[Phase] | None:
        return None if phases is None else phased(phases, info.data, info.data.get("slots"))

    @model_validator(mode="after")
    def _compatible(self) -> Self:
        compatibility.check(self)
        return self

    @property
    def kept(self) -> int | None:
        """How many of the best states of short trainings stay; None: all."""
        return kept(self.keep)

    @property
    def proposer(self) -> type[Controller]:
        """The class of the controller."""
        controller: type[Controller] = plugins.load("controller", self.controller["name"])
        return controller

    @property
    def looks_up(self) -> bool:
        """Whether the evaluator trains nothing."""
        return issubclass(plugins.load("evaluator", self.evaluator["name"]), Lookup)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Training episodes at which a score is wanted, besides the last; of a lookup its lengths."""
        if self.scheduler is None:
            return tuple(sorted(set(self.budget.score_at)))
        return () if self.scheduler.promotes else self.fidelities[:-1]

    @property
    def fidelities(self) -> tuple[int, ...]:
        """The lengths of training that the scheduler shares out, ascending; the last is a whole one."""
        whole = self.budget.train_episodes
        if self.scheduler is None:
            return (whole,)
        if self.looks_up:
            *shorter, whole = self.lengths
            return (*(n for n in shorter if n >= (self.scheduler.minimum or 1)), whole)
        promotes = self.scheduler.promotes
        return self.scheduler.lengths(whole) if promotes else (*self.scheduler.rungs(whole), whole)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The training lengths of an evaluator that looks scores up; see `Lookup.lengths`."""
        lookup, settings = self._lookup()
        return lookup.lengths(**settings)

    @property
    def told(self) -> Collection[str]:
        """The costs that an evaluator which looks scores up tells of a network; see `Lookup.told`."""
        lookup, settings = self._lookup()
        return lookup.told(**settings)

    def _lookup(self) -> tuple[type[Lookup], dict[str, Any]]:
        """Return the evaluator of a search that looks scores up, and its settings."""
        lookup: type[Lookup] = plugins.load("evaluator", self.evaluator["name"])
        settings = {key: value for key, value in self.evaluator.items() if key != "name"}
        return lookup, plugins.arguments(lookup, settings)

    def make_space(self) -> Space[Any]:
        """Return a new instance of what is searched: the space of networks, or a product of slots with it."""
        space = make_space(self.space)
        if not self.slots:
            return space
        others = {
            slot: Settings(slot, choices, explicit(slot, getattr(self, slot)))
            for slot, choices in self.slots.items()
        }
        return Product({MAIN: space, **others})

    def varied(self, chosen: Chosen) -> SearchConfig:
        """Return the search with these settings in its sections, and nothing but networks to choose."""
        sections = {kind: varied(kind, getattr(self, kind), settings) for kind, settings in chosen.items()}
        return self.model_copy(update={**sections, "slots": {}})

    def make_tasks(self) -> TaskSource:
        """Return a new instance of the task source of a search that trains; reads its data.

        Raises:
            DataMissing: the data is not on this machine.
        """
        assert self.tasks is not None, "a search that looks scores up has no tasks"
        return make_tasks(self.tasks)

    def make_source(self) -> ScoreSource:
        """Return a new instance of the task source, or of what the evaluator has in its place.

        Raises:
            DataMissing: the data is not on this machine.
            NotFound, ConfigError: as `Lookup.source`.
        """
        if self.tasks is not None:
            return self.make_tasks()
        lookup, settings = self._lookup()
        return lookup.source(backbone_of(self.make_space()), **settings)

    def make_learner(self) -> MakeLearner:
        """Return what makes learners.

        Raises:
            Unsupported: once it is called, if there is none.
        """
        return maker("learner", self.learner) if self.learner else _no_learner

    def make_controller(self, space: Space[Any], tasks: ScoreSource) -> Controller:
        """Return a new controller, within its wrappers."""
        controller: Controller = maker("controller", self.controller)(space, self.seed)
        controller.aim(self.aim)
        controller.plan(self.budget.train_episodes)
        if self.promotes:
            controller = self.promoting(controller, space)
        if self.warm_start is not None:
            controller = WarmStarted(controller, space, self.warm_start.trials)
        if (limits := self.constraints.counted) and isinstance(tasks, TaskSource):
            controller = Constrained(controller, space, tasks.shape, limits)
        if self.deduplicate:
            controller = Deduplicated(controller, space)
        screen = self.prescreen
        if screen is None:
            return controller
        if not isinstance(tasks, TaskSource):
            assert screen.proxy is not None
            cost = plugins.load("proxy", screen.proxy["name"]).counts
            return Prescreened(
                controller, space, Counted(space, tasks, cost), screen.candidates, screen.trials
            )
        if screen.supernet is not None:
            one_shot: Controller = maker("controller", screen.supernet)(space, self.seed)
            first = one_shot.propose(0, (), proposal_rng(self.seed, 0))
            assert isinstance(first, TrainSupernet)
            first = replace(first, whole=False)
            return Guided(controller, space, tasks.shape, first, screen.candidates, screen.trials)
        assert screen.proxy is not None
        promise = Promised(self.make_context(space, tasks), maker("proxy", screen.proxy)(), self.seed)
        return Prescreened(controller, space, promise, screen.candidates, screen.trials)

    def planned(self, space: Space[Any]) -> int | None:
        """Return how many trials the controller plans for; None: as many as are asked for."""
        if self.proposer.plan is Controller.plan:
            return None
        controller: Controller = maker("controller", self.controller)(space, self.seed)
        return controller.plan(self.budget.train_episodes)

    @property
    def staged(self) -> bool:
        """Whether trials are of several lengths: one is promoted from another, or goes on from it."""
        return self.promotes or self.proposer.continues

    @property
    def promotes(self) -> bool:
        """Whether the scheduler promotes: each trial is asked for some length."""
        return self.scheduler is not None and self.scheduler.promotes

    def promoting(self, controller: Controller, space: Space[Any]) -> Controller:
        """Return the scheduler around a controller; it must be one that promotes."""
        assert self.scheduler is not None
        return schedulers.promoting(self.scheduler, controller, space, self.fidelities)

    def make_stopper(self) -> Stopper | None:
        """Return what stops trials; None where the scheduler stops none, or there is none.

        Raises:
            NotFound, ConfigError: as `schedulers.stopping`.
        """
        if self.scheduler is None:
            return None
        return schedulers.stopping(self.scheduler, self.rungs, self.budget.train_episodes)

    def make_context(self, space: Space[Any], tasks: TaskSource) -> Context:
        """Return what every job of the search shares."""
        return Context(
            space,
            tasks,
            self.make_learner(),
            self.budget,
            self.rungs,
            self.resources.precision,
            self.resources.seconds,
            self._vary(tasks) if self.slots or self.phases else None,
            [phase.span for phase in self.phases or ()],
        )

    def _vary(self, tasks: TaskSource) -> Callable[[Chosen], tuple[TaskSource, MakeLearner]]:
        """Return what makes tasks and learner of what a candidate chose; it keeps the last other tasks.

        The driver could make them: where data or a plug-in is missing, no candidate is to blame.
        """
        held = (self.tasks, tasks)

        def vary(chosen: Chosen) -> tuple[TaskSource, MakeLearner]:
            nonlocal held
            try:
                varied = self.varied(chosen)
                if varied.tasks != held[0]:
                    held = varied.tasks, tasks if varied.tasks == self.tasks else varied.make_tasks()
                return held[1], varied.make_learner()
            except (DataMissing, PluginError, UnknownName) as error:
                raise Unready(socket.gethostname(), str(error), error.exit_code) from error

        return vary

    def make_evaluator(self, context: Context) -> Evaluator:
        """Return a new evaluator: what a worker holds."""
        evaluator: Evaluator = maker("evaluator", self.evaluator)(context)
        return Timed(evaluator, context, self.constraints.measured) if self.timed else evaluator

    def make_lookup(self, space: Space[Any], source: ScoreSource) -> Evaluator:
        """Return a new evaluator that looks scores up."""
        lookup: Lookup = maker("evaluator", self.evaluator)(LookupContext(space, source, self.rungs))
        return lookup

    @property
    def timed(self) -> bool:
        """Whether the latency of each network is measured."""
        wanted = {*self.constraints.measured, *self.aim.goals}
        return self.resources.latency or not wanted.isdisjoint(MEASURED)

    @property
    def aim(self) -> Objective:
        """What the search makes better."""
        return Objective() if self.objective is None else Objective(tuple(self.objective))


def _no_learner(backbone: nn.Module, shape: TaskShape) -> NoReturn:
    raise Unsupported("The search has no learner: its evaluator trains nothing.")


def default_executor(values: Mapping[str, Any]) -> str:
    """Return where trials run if `values` do not say: in this process where the evaluator trains nothing.

    Raises:
        UnknownName: no such evaluator.
    """
    return "inline" if _looks_up(values) else "ray"


def _looks_up(values: Mapping[str, Any]) -> bool:
    name = name_of(values.get("evaluator", "train"))
    return name is not None and issubclass(plugins.load("evaluator", name), Lookup)


def validate(values: Mapping[str, Any]) -> SearchConfig:
    """Return the checked configuration of a search.

    Raises:
        UnknownName: no such setting, or no such plugin.
        ConfigError: a value has the wrong type or is out of range.
    """
    needed = ("space", "controller") if _looks_up(values) else tuple(EXAMPLES)
    missing = [kind for kind in needed if nameless(values.get(kind))]
    if missing:
        check_keys(SearchConfig, values, "")
        raise lacking(*missing, given=values)
    config = checked(SearchConfig, {"executor": default_executor(values), **values})
    executors.check_workers(config.executor, config.workers)
    if config.looks_up and config.lengths:
        whole = config.lengths[-1]
        if config.budget.train_episodes not in (whole, Budget().train_episodes):
            raise ConfigError(
                f"budget.train_episodes={config.budget.train_episodes}: the longest training that the "
                f"evaluator '{config.evaluator['name']}' has scores of is {whole}; leave it out."
            )
        budget = config.budget.model_copy(update={"train_episodes": whole})
        config = config.model_copy(update={"budget": budget})
    if config.scheduler is not None and len(config.fidelities) < 2:
        raise ConfigError(
            f"scheduler.minimum={config.scheduler.minimum}: no trial can be stopped before its budget of "
            f"budget.train_episodes={config.budget.train_episodes} is spent; choose fewer."
        )
    return config
