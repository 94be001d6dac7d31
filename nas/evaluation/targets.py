"""What to evaluate: trials of searches, architectures of spaces, the best of a search."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from nas import fingerprints
from nas.chance import forked
from nas.driver.records import configuration
from nas.errors import ConfigError, Infeasible, NotFound, UnknownName
from nas.evaluation.published import own
from nas.evaluation.references import FORMS, SpaceReference, TrialReference, parse
from nas.evaluator import Chosen
from nas.executors.attempts import RETRIES
from nas.product import candidate_of
from nas.queries.leaderboard import Query, leaderboard
from nas.queries.results import Identity
from nas.settings.evaluation import RECORDED, EvaluationConfig, validate
from nas.settings.search import SearchConfig
from nas.settings.search import validate as validate_search
from nas.settings.sections import UNTRAINED, choose, maker
from nas.settings.slots import explicit
from nas.states import TrialState
from nas.storage.evaluations import Origin
from nas.storage.schema import Search, Trial
from nas.storage.searches import continuation
from nas.storage.store import Store
from nas.tasks.base import SPLITS, TaskSource
from nas.training.loop import rehearse
from nas.training.provenance import classes

Values = dict[str, Any]
"""A configuration before it is checked."""


@dataclass(frozen=True, slots=True)
class Target:
    """An architecture under settings: what one row of results is about.

    Attributes:
        config: space, tasks, learner, budget and precision, as `auto` is on this machine.
        space: the name that the space gives itself.
        architecture: text of the space.
        key: canonical key.
        task_label: the task in a few words.
        classes: hash of the classes of each split.
        origin: the trial that proposed the architecture, if one did.
        name: of a published network, if it was asked for by that.
    """

    config: EvaluationConfig
    space: str
    architecture: str
    key: str
    task_label: str
    classes: Mapping[str, str]
    origin: Origin | None
    name: str | None = None

    @property
    def settings(self) -> str:
        """Hash of all that a result depends on but the architecture and the seed."""
        return self.config.digest(self.classes)

    @property
    def protocol(self) -> str:
        """Hash of what makes scores comparable: all but the space."""
        return self.config.digest(self.classes, without="space")

    @property
    def identity(self) -> Identity:
        """What no two targets share: space, canonical key, and settings."""
        return self.space, self.key, self.settings

    @property
    def called(self) -> str:
        """Its name, or `SPACE:ARCHITECTURE`."""
        return self.name or f"{self.space}:{self.architecture}"

    def file_name(self, seed: int) -> str:
        """Return the stem of its files: the same wherever the same is evaluated."""
        return file_name(self.settings, self.space, self.key, seed)

    def lineage(self, seed: int) -> str:
        """Return the stem of the file from which a longer training goes on, the same whatever the length."""
        return lineage(self.config, self.classes, self._network, seed)

    @property
    def _network(self) -> str:
        return network(self.space, self.key)


def file_name(settings: str, space: str, key: str, seed: int) -> str:
    """Return the stem of the files of an evaluation.

    Args:
        settings: hash of them.
        space: of the network.
        key: of the network.
        seed: of the training.
    """
    return f"{settings}-{network(space, key)}-seed{seed}"


def lineage(config: EvaluationConfig, classes: Mapping[str, str], network: str, seed: int) -> str:
    """Return the stem of the file from which a longer training of a network goes on."""
    return f"{config.lineage(classes)}-{network}-seed{seed}"


def network(space: str, key: str) -> str:
    """Return a short hash of a network, for the names of files."""
    return hashlib.sha256(f"{space}:{key}".encode()).hexdigest()[:12]


class Targets:
    """Turns references into targets; reads each task source once.

    Args:
        store: where searches are.
        change: changes a configuration before it is checked: what the user set, and the budget.

    Attributes:
        sources: the task sources read so far, with their settings.
    """

    def __init__(self, store: Store, change: Callable[[Values], None] = lambda values: None) -> None:
        self._store, self._change = store, change
        self.sources: list[tuple[Values, TaskSource]] = []

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know of the data of all tasks read so far."""
        return tuple(dict.fromkeys(remark for _, source in self.sources for remark in source.remarks))

    def choose(
        self, texts: Sequence[str], *, top: int | None = None, search: str | None = None
    ) -> list[Target]:
        """Return what is asked for, each target once.

        Args:
            texts: references, as `nas.evaluation.references.parse` reads them.
            top: how many of the best networks of `search` to add.
            search: of `top`; it gives the architectures of spaces their tasks, learner and settings, too.

        Raises:
            NotFound: no such search or trial.
            ConfigError: nothing is asked for, a text is no reference, or a setting is wrong or missing.
        """
        if top is not None and search is None:
            raise ConfigError(
                f"--top {top}: the best of which search? Add --search NAME; list them with `nas ls`."
            )
        if not texts and top is None:
            raise ConfigError(f"Nothing to evaluate: give {FORMS}, or --top K --search NAME.")
        found = []
        for reference in map(parse, texts):
            if isinstance(reference, TrialReference):
                found.append(self.of_trial(reference))
            else:
                found.append(self.of_space(reference, search))
        if top is not None and search is not None:
            found += self.best(search, top)
        return list({target.identity: target for target in found}.values())

    def of_trial(self, reference: TrialReference) -> Target:
        """Return the architecture of a trial, with the space, tasks, learner and precision of its search.

        Settings that the trial chose are in their sections, unless the user sets them.

        Raises:
            NotFound: no such search or trial.
            ConfigError: what the user set is wrong, or does not fit the search: another split, too, whose
                test classes the search has seen. Or the trial has no network under these settings.
        """
        search, trial, text = tried(self._store, reference)
        architecture, chosen = network_of(search, text)
        found = None if trial.parent is None else course(search, self._store.lineage(trial))
        config = self._config(search, chosen=chosen, course=found)
        if not chosen and config.space == search.config["space"]:
            fingerprints.check(search.plugins, config.make_space(), f"search '{search.name}'")
        self._refuse_seen(search, config)
        target = self._target(config, architecture, Origin(search.id, search.name, trial.number))
        if trial.state == TrialState.INFEASIBLE:
            self._refuse_infeasible(target, f"{search.name}/{trial.number}")
        return target

    def best(self, search_name: str, count: int) -> list[Target]:
        """Return the best distinct networks of a search by validation score, at most `count`.

        Raises:
            NotFound: no such search, or it has no completed trial.
        """
        search = self._store.search(search_name)
        rows = leaderboard(self._store, Query(searches=(search.name,), limit=0))
        first = {row.key: row for row in reversed(rows)}
        chosen = sorted(first.values(), key=lambda row: row.rank)[:count]
        if not chosen:
            raise NotFound(
                f"Search '{search.name}' has no completed trial; see `nas show {search.name}`, or go on with "
                f"`{continuation(search)}`."
            )
        return [self.of_trial(TrialReference(search.name, row.trial)) for row in chosen]

    def of_space(self, reference: SpaceReference, like: str | None = None) -> Target:
        """Return an architecture of a space, under the settings of search `like` if one is given.

        Raises:
            NotFound: no such search.
            ConfigError: a setting is wrong or missing, or the space has no such architecture.
        """
        search = self._store.search(like) if like is not None else None
        config = self._config(search, reference.space, reference.settings)
        return self._target(config, reference.architecture, None, reference.name)

    def baseline(self, text: str, beside: Target) -> Target:
        """Return an architecture of a space, or one with a name, under the protocol of another target.

        A published network has its paper's settings. Another one in the same space has the same settings, if
        these know the architecture; otherwise the defaults.

        Raises:
            ConfigError: the text is no such reference, or the space has no such architecture.
        """
        reference = parse(text)
        if isinstance(reference, TrialReference):
            raise ConfigError(f"--baseline {text}: give SPACE:ARCHITECTURE, or a name such as conv4.")
        values = beside.config.model_dump(mode="json")
        if reference.settings is None and reference.space == beside.config.space["name"]:
            try:
                return self._target(beside.config, reference.architecture, None)
            except ConfigError:
                pass
        values["space"] = {"name": reference.space, **(reference.settings or {})}
        return self._target(validate(values), reference.architecture, None, reference.name)

    def own(self, target: Target) -> str | None:
        """Return the name of the network that the paper of a target's learner used; None if none is known."""
        return own(target.config.learner["name"], self._tasks(target.config.tasks).shape)

    def _config(
        self,
        search: Search | None,
        space: str | None = None,
        settings: Mapping[str, Any] | None = None,
        chosen: Chosen | None = None,
        course: list[Values] | None = None,
    ) -> EvaluationConfig:
        values = {} if search is None else inherited(search, chosen or {})
        if course is not None:
            values["course"] = course
        if space is not None:
            choose(values, "space", space)
        if settings is not None:
            values["space"] = {"name": space, **settings}
        recorded = {name: values.pop(name) for name in RECORDED if name in values}
        self._change(values)
        for name in RECORDED & values.keys():
            raise UnknownName("setting", name, EvaluationConfig.model_fields.keys() - RECORDED)
        values |= recorded
        if search is None:
            return validate(values)
        _keep_chosen(values, search, chosen or {})
        _refuse_nameless(search, values)
        with fingerprints.explained(search.plugins, f"search '{search.name}'"):
            return validate(values)

    def _target(
        self, config: EvaluationConfig, text: str, origin: Origin | None, name: str | None = None
    ) -> Target:
        space, tasks = config.make_space(), self._tasks(config.tasks)
        precision = rehearse(space, tasks, config.make_learner, config.precision).precision
        config = config.model_copy(update={"precision": precision})
        architecture = space.decode(text)
        with suppress(Infeasible):  # said later, with the next step
            space.cost(architecture, tasks.shape)
        key = space.canonical(architecture)
        hashes = classes(tasks, SPLITS)
        return Target(config, space.name, space.text(architecture), key, tasks.label, hashes, origin, name)

    def _tasks(self, section: Values) -> TaskSource:
        for settings, source in self.sources:
            if settings == section:
                return source
        self.sources.append((section, maker("tasks", section)()))
        return self.sources[-1][1]

    def _refuse_infeasible(self, target: Target, name: str) -> None:
        """Refuse what has no network; an infeasible trial that only breaks a constraint has one."""
        config, shape = target.config, self._tasks(target.config.tasks).shape
        space = config.make_space()
        try:
            with forked():
                config.make_learner(space.build(space.decode(target.architecture), shape), shape)
        except Infeasible as error:
            reason = str(error).rstrip(".")
            raise ConfigError(
                f"{name} is infeasible, so there is nothing to train: {reason}. Choose another trial; "
                f"those that have a score: `nas leaderboard --search {name.rpartition('/')[0]}`."
            ) from None

    def _refuse_seen(self, search: Search, config: EvaluationConfig) -> None:
        """Refuse to test what a search found on what it has trained or validated on."""
        before, now = search.config["tasks"], config.tasks
        if before is None or before["name"] != now["name"]:
            return
        learned, tested = self._tasks(before), self._tasks(now).members("test")
        if search.environment.get("classes") not in (None, classes(learned)):
            raise ConfigError(
                f"The data of search '{search.name}' has changed since: the classes of its tasks were "
                f"{search.environment['classes']}, and are {classes(learned)}. It may have trained on what "
                "is for the test now; bring the data back, or search again."
            )
        seen = tested & (learned.members("train") | learned.members("validation"))
        if seen:
            differing = [f"tasks.{key}={value}" for key, value in before.items() if now.get(key) != value]
            raise ConfigError(
                f"tasks: {len(seen)} of the {len(tested)} test classes, such as '{min(seen)}', "
                f"{'was' if len(seen) == 1 else 'were'} for "
                f"training or validation in search '{search.name}'. Keep its {', '.join(differing)}, or "
                "search again under the settings that are to be tested."
            )


def _refuse_nameless(search: Search, values: Values) -> None:
    """Refuse to evaluate like a search that had no tasks, or no learner, if the user names none."""
    missing = []
    for kind in UNTRAINED:
        section = values.get(kind, {})
        if search.config[kind] is None and isinstance(section, Mapping) and "name" not in section:
            missing.append(kind)
    if missing:
        raise ConfigError(
            f"Search '{search.name}' looked its scores up in a table: it has no {' and no '.join(missing)} "
            f"to train with. Add {' and '.join(f'--{kind}' for kind in missing)}; `nas tasks` and "
            "`nas learners` list what is installed."
        )


def tried(store: Store, reference: TrialReference) -> tuple[Search, Trial, str]:
    """Return a search, one of its trials, and the architecture that this tried.

    Raises:
        NotFound: no such search or trial.
        ConfigError: the trial trained a supernet; the message names those of what it derived.
    """
    search = store.search(reference.search)
    trial = store.trial(search.id, reference.number)
    if trial.architecture is not None:
        return search, trial, trial.architecture
    derived = {found["architecture"] for found in trial.derived or ()}
    trials = [row.number for row in store.trials(search.id) if row.architecture in derived]
    names = ", ".join(f"{search.name}/{number}" for number in trials)
    raise ConfigError(
        f"{search.name}/{trial.number} trained a supernet and is no architecture. "
        + (f"Give one that it derived: {names}." if names else f"See `nas show {search.name}`.")
    )


def network_of(search: Search, text: str) -> tuple[str, Chosen]:
    """Return what a trial of a search means: the text of its network, and the settings that it chose.

    Raises:
        PluginError: a plug-in of the search has changed since.
    """
    if not search.config.get("slots"):
        return text, {}
    space = configuration(search).make_space()
    candidate = candidate_of(space, space.decode(text))
    return candidate.space.text(candidate.architecture), candidate.settings


def course(search: Search, lineage: Sequence[Trial]) -> list[Values] | None:
    """Return the settings that the parts of one network's training had, as phases; None: they stayed.

    Args:
        search: of the trials.
        lineage: the parts, the first one first.
    """
    whole = search.config["budget"]["train_episodes"]
    parts, networks, done = list[Values](), set[str](), 0
    for trial in lineage:
        assert trial.architecture is not None
        end = trial.asked_episodes or whole
        network, chosen = network_of(search, trial.architecture)
        networks.add(network)
        settings: Values = dict(chosen)
        if parts and {**parts[-1], "episodes": 0} == {**settings, "episodes": 0}:
            parts[-1]["episodes"] += end - done
        else:
            parts.append({"episodes": end - done, **settings})
        done = end
    return parts if len(parts) > 1 and len(networks) == 1 else None


def inherited(search: Search, chosen: Chosen) -> Values:
    """Return what an evaluation takes over from a search, with the settings that a trial of it chose."""
    sections: Values = {kind: search.config[kind] for kind in ("space", "tasks", "learner")}
    sections = {kind: section for kind, section in sections.items() if section is not None}
    base = {kind: _own(kind, sections[kind], settings) for kind, settings in chosen.items()}
    varied = {kind: {**sections[kind], **settings} for kind, settings in chosen.items()}
    precision = search.config["resources"]["precision"]
    retries = search.config.get("retries", RETRIES)
    found = {**sections, **varied, "base": base, "precision": precision, "retries": retries}
    phases = search.config.get("phases")
    return deepcopy(found if phases is None else {**found, "phases": phases})


def as_search(search: Search, lineage: Sequence[Trial]) -> SearchConfig:
    """Return a search that trains what a trial did, and nothing else, from its very beginning.

    Args:
        search: of the trial.
        lineage: the parts of its training, the first one first and itself last.

    Raises:
        ConfigError: the trial is of a further seed.
        PluginError: a plug-in of the search has changed since.
    """
    trial = lineage[-1]
    assert trial.architecture is not None
    if trial.repeat:
        raise ConfigError(
            f"{search.name}/{trial.number} is of a further seed, and a search begins with the first. Give "
            f"the trial with the first seed of its network; see `nas show {search.name}`."
        )
    text, chosen = network_of(search, trial.architecture)
    phases = None if trial.parent is None else course(search, lineage)
    budget = search.config["budget"]
    changes: Values = {kind: {**search.config[kind], **own} for kind, own in chosen.items()}
    if phases is not None:
        changes = {"phases": phases}
    if (end := trial.asked_episodes) is not None:
        marks = [mark for mark in budget["score_at"] if mark < end]
        changes["budget"] = {**budget, "train_episodes": end, "score_at": marks}
    changes |= dict.fromkeys(("scheduler", "racing", "prescreen", "warm_start", "max_seconds"))
    changes |= {"controller": {"name": "fixed", "architectures": [text]}, "slots": {}, "keep": "all"}
    changes |= {"name": f"{search.name}-{trial.number}", "trials": 1}
    with fingerprints.explained(search.plugins, f"search '{search.name}'"):
        return validate_search({**search.config, **changes})


def _own(kind: str, section: Mapping[str, Any], chosen: Mapping[str, Any]) -> Values:
    whole = explicit(kind, section)
    return {key: whole[key] for key in chosen}


def _keep_chosen(values: Values, search: Search, chosen: Chosen) -> None:
    """Take no setting for chosen that the user has set, or whose plug-in the user has replaced."""
    for kind, settings in chosen.items():
        now = {"name": search.config[kind]["name"], **settings}.items()
        section = values[kind] if isinstance(values[kind], Mapping) else {}
        kept = {key for key, value in section.items() if (key, value) in now}
        base = values["base"][kind]
        values["base"][kind] = {key: base[key] for key in base if kept >= {"name", key}}
        for phase in values.get("course", ()):
            phase[kind] = {key: own for key, own in phase[kind].items() if kept >= {"name", key}}
