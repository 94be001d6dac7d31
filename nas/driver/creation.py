"""The beginning of a search: what is refused, and what is written."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from typing import Any

from nas import fingerprints
from nas.controller import TrainSupernet
from nas.driver.inheritance import gather, summary
from nas.errors import ConfigError
from nas.precision import Arithmetic
from nas.product import backbone_of
from nas.settings.search import SearchConfig
from nas.settings_space import candidates
from nas.space import Space
from nas.storage.schema import Search
from nas.storage.searches import INHERITED, NewInherited, NewSearch
from nas.storage.store import Store
from nas.tasks.base import ScoreSource, TaskSource
from nas.training.loop import rehearse
from nas.training.oneshot import memory
from nas.training.oneshot.assembly import AUGMENTATION, LEARNER, method
from nas.training.provenance import MEMORY, classes, environment, proposal_rng


def supernet(config: SearchConfig, space: Space[Any], tasks: ScoreSource) -> TrainSupernet | None:
    """Return the supernet that a search trains first; None where its controller begins otherwise."""
    first = config.make_controller(space, tasks).propose(0, (), proposal_rng(config.seed, 0))
    return first if isinstance(first, TrainSupernet) else None


def name(store: Store, config: SearchConfig) -> str:
    """Return the name that a search of this configuration would get now.

    Raises:
        ConfigError: the name is taken, or is no name.
    """
    return store.name(config.name, config.controller["name"], config.space["name"], _tasks(config))


def _tasks(config: SearchConfig) -> str:
    """Return the name of the tasks, or of the table that scores are looked up in."""
    named: str = (config.tasks or config.evaluator)["name"]
    return named


def create(
    store: Store,
    config: SearchConfig,
    tasks: ScoreSource,
    source: str | None = None,
    say: Callable[[str], None] = lambda words: None,
    start: Callable[[], object] = lambda: None,
) -> Search:
    """Write a new search to the database.

    One that ends with what a supernet derives has as many trials as that, and the supernet's.

    Args:
        store: where to.
        config: what was resolved.
        tasks: the task source that the configuration names.
        source: the TOML file that it came from, verbatim.
        say: told what takes long.
        start: called when all else is in order: if it fails, nothing is written.

    Raises:
        ConfigError: the name is taken.
        NasError: as `check`, and as `nas.driver.inheritance.gather`.
    """
    space = config.make_space()
    inherited = gather(store, config, space)
    if config.warm_start is not None:
        config.make_controller(space, tasks).inherit(inherited)  # which may refuse
    made_by = check(config, tasks, say)
    if config.warm_start is not None:
        made_by[INHERITED] = summary(store, inherited)
    first = supernet(config, space, tasks)
    total = first.derive + 1 if first is not None and first.whole else config.planned(space) or config.trials
    store.check_free(config.name)
    start()
    return store.create_search(
        NewSearch(
            name=config.name,
            source=source,
            config=config.model_dump(mode="json"),
            space=config.space["name"],
            controller=config.controller["name"],
            tasks=_tasks(config),
            task_label=tasks.label,
            learner=config.learner["name"] if config.learner else "none",
            executor=config.executor,
            seed=config.seed,
            trials=total,
            settings=config.settings,
            environment=made_by,
            plugins=fingerprints.take(config.model_dump(mode="json"), space),
        ),
        [NewInherited(one.origin, space.encode(one.architecture), one.share) for one in inherited],
    )


def check(
    config: SearchConfig, tasks: ScoreSource, say: Callable[[str], None] = lambda words: None
) -> dict[str, Any]:
    """Refuse what cannot be searched; return what a search by this machine is made by.

    Args:
        config: what was resolved.
        tasks: the task source that the configuration names.
        say: told what is odd about the data, and what takes long.

    Raises:
        ConfigError: the controller refuses its settings, the learner the tasks or the scheduler its table, or
            `trials` is given and does not reach for all that a supernet derives.
        NotFound: a file that a setting names is not there.
        Unsupported: the space has no network for the tasks, or the controller trains a supernet, and the
            space has none.
        Infeasible: the supernet that it trains does not fit in the memory of this machine.
    """
    made_by: dict[str, Any] = {**environment(), "classes": classes(tasks)}
    if tasks.remarks:
        made_by["remarks"] = list(tasks.remarks)
        for remark in tasks.remarks:
            say(f"warning: {remark}")
    config.make_stopper()
    space = config.make_space()
    own = config.planned(space)
    if own is not None and "trials" in config.model_fields_set and config.trials < own:
        raise ConfigError(
            f"trials: {config.trials}; the trainings of the controller '{config.controller['name']}' are "
            f"{own} parts. Leave trials out, or see `nas controllers {config.controller['name']}`."
        )
    if isinstance(tasks, TaskSource):
        made_by["precision"] = _rehearse(config, tasks).precision
    first = supernet(config, space, tasks)
    if first is not None and isinstance(tasks, TaskSource):
        everything = first.derive + 1
        if first.whole and "trials" in config.model_fields_set and config.trials < everything:
            raise ConfigError(
                f"trials: {config.trials}; the supernet and the controller.derive = {first.derive} "
                f"architectures that it derives are {everything}. Leave trials out, or derive fewer."
            )
        for setting in _left_out(config, first):
            say(f"warning: {setting} stays at its default: '{config.controller['name']}' does not choose it.")
        say("Measuring the supernet's memory…")
        made_by[MEMORY] = memory.check(config.make_context(space, tasks), first, config.seed)
    return made_by


def _rehearse(config: SearchConfig, tasks: TaskSource) -> Arithmetic:
    """Rehearse a training, and one under each value of a setting that can be chosen; see `rehearse`."""
    network, precision = backbone_of(config.make_space()), config.resources.precision
    arithmetic = rehearse(network, tasks, config.make_learner(), precision)
    for slot, choices in config.slots.items():
        for setting, value in ((name, own) for name, values in choices.items() for own in candidates(values)):
            varied = config.varied({slot: {setting: value}})
            try:
                source = varied.make_tasks() if slot == "tasks" else tasks
                rehearse(network, source, varied.make_learner(), precision)
            except ConfigError as error:
                shown = textwrap.shorten(json.dumps(value), 60, placeholder=" …")  # a policy is long
                raise ConfigError(f"slots.{slot}.{setting}, {shown}: {error}") from None
    for number, phase in enumerate(config.phases or ()):
        varied = config.varied(phase.settings)
        try:
            rehearse(network, varied.make_tasks() if phase.tasks else tasks, varied.make_learner(), precision)
        except ConfigError as error:
            raise ConfigError(f"phases.{number}: {error}") from None
    return arithmetic


def _left_out(config: SearchConfig, first: TrainSupernet) -> list[str]:
    """Return the settings of slots that a supernet, with whose derivations a search ends, does not choose."""
    learned = {f"{LEARNER}.{AUGMENTATION}"} if method(first.strategy).unrolls else set()
    own = [f"{slot}.{setting}" for slot, choices in config.slots.items() for setting in choices]
    return [f"slots.{setting}" for setting in own if first.whole and setting not in learned]
