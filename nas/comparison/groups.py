"""Which searches stand side by side: groups that differ in the seed alone, under one protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import select

from nas.errors import ConfigError
from nas.queries.chosen import settings
from nas.queries.protocol import PROTOCOL, TRAINED
from nas.settings.paths import differing, flat
from nas.storage.schema import Search
from nas.storage.store import Store

BASELINE = "random"
"""The controller that every other one has to beat."""

OWN = ("name", "seed")
"""What the searches of one group may differ in."""

SLOTS = "slots"
"""The section of what is chosen along with the network."""

EXECUTION = ("executor", "workers", "resources.gpus", "resources.latency")
"""Where trials run, how many at a time, and what is timed: searches that differ in these are the same."""

TELLING = (
    *("evaluator.name", "tasks.name", "tasks.split", "learner.name"),
    *("evaluator.", "tasks.", "data of ", "learner."),
)
"""Beginnings of settings by how much they say about why scores do not compare; all others say less."""

NAMED = 5
"""How many differing settings an error names."""

GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Group:
    """Searches that differ in the seed alone, and in where they ran; by seed.

    Attributes:
        label: the controller, with the settings that tell it from other groups.
        searches: at least one.
    """

    label: str
    searches: tuple[Search, ...]

    @property
    def controller(self) -> str:
        """The controller of all of them."""
        return self.searches[0].controller

    @property
    def space(self) -> Any:
        """The space's section of the configuration."""
        return self.searches[0].config["space"]


def find(store: Store, references: Sequence[str]) -> list[Search]:
    """Return the searches that are meant, each once, oldest first.

    A reference is a name, `@last`, a pattern such as `nb201-*-1?`, or the beginning of one or many names.

    Raises:
        NotFound: no search is meant by a reference.
    """
    with store.read() as session:
        every = session.scalars(select(Search).order_by(Search.id)).all()
    names = {search.name for search in every}
    found: dict[int, Search] = {}
    for reference in references:
        if reference in names or reference == "@last":
            some = [store.search(reference)]
        elif GLOB & set(reference):
            some = [search for search in every if fnmatchcase(search.name, reference)]
        else:
            some = [search for search in every if reference and search.name.startswith(reference)]
        found.update((search.id, search) for search in some or [store.search(reference)])
    return [found[number] for number in sorted(found)]


def grouped(searches: Iterable[Search]) -> tuple[list[Group], list[str]]:
    """Return the groups, the baseline's first, and the names of searches that repeat another's seed.

    Of searches that agree in the seed too, the oldest counts.

    Raises:
        ConfigError: their scores do not compare; the message names the most important differences.
    """
    searches = list(searches)
    check(searches)
    members: dict[frozenset[tuple[str, str]], dict[int, Search]] = {}
    repeated = []
    for search in searches:
        of_group = members.setdefault(frozenset(identity(search).items()), {})
        if search.seed in of_group:
            repeated.append(search.name)
        of_group.setdefault(search.seed, search)
    found = [tuple(by_seed[seed] for seed in sorted(by_seed)) for by_seed in members.values()]
    groups = [Group(label, some) for label, some in zip(_labels(found), found, strict=True)]
    return sorted(groups, key=lambda group: group.controller != BASELINE), repeated


def check(searches: Sequence[Search]) -> None:
    """Refuse searches whose scores do not compare, and those in a space that was edited in between.

    Raises:
        ConfigError: they differ in tasks, learner, evaluator, budget, precision, threads or in the data; or
            one space, under one name, the same settings and slots, had other decisions.
    """
    _check_spaces(searches)
    for search in searches[1:]:
        first = searches[0]
        differ = sorted(differences(_protocol(first), _protocol(search)), key=_telling)
        if differ:
            named = "; ".join(f"{key}: {one} and {other}" for key, one, other in differ[:NAMED])
            more = f"; and {len(differ) - NAMED} more" if len(differ) > NAMED else ""
            raise ConfigError(
                f"The scores of '{first.name}' and '{search.name}' do not compare. They differ in "
                f"{named}{more}. Name searches of one protocol only; list them with `nas ls`."
            )


def _check_spaces(searches: Sequence[Search]) -> None:
    """Refuse a space whose decisions changed: its searches would count as the same but for the seed."""
    seen: dict[str, tuple[Search, Any]] = {}
    for search in searches:
        space = (search.plugins or {}).get("space")
        if space is None:  # of an older nas
            continue
        section = json.dumps([search.config["space"], search.config.get(SLOTS)], sort_keys=True)
        first, decisions = seen.setdefault(section, (search, space["decisions"]))
        if space["decisions"] != decisions:
            from nas.fingerprints import difference

            raise ConfigError(
                f"The space '{space['name']}' was edited between '{first.name}' and '{search.name}': "
                f"{difference(decisions, space['decisions'])}. Name searches of one version of it only; "
                "list them with `nas ls`."
            )


def settled(search: Search) -> dict[str, Any]:
    """Return a search's settings by their path, with the precision that `auto` was where it began."""
    found = flat(search.config)
    known = search.environment.get("precision")
    return found if known is None else found | {"resources.precision": known}


def identity(search: Search) -> dict[str, str]:
    """Return what a search computes, its seed aside: settings by their path, as JSON.

    A null is left out: a search from before a setting was there has none.
    """
    return {
        path: json.dumps(value, sort_keys=True)
        for path, value in settled(search).items()
        if path not in (*OWN, *EXECUTION) and value is not None
    }


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the settings in which two flat configurations differ, but those of `EXECUTION`."""
    return [
        (path, one.get(path), other.get(path))
        for path in dict.fromkeys([*one, *other])
        if path not in EXECUTION and one.get(path) != other.get(path)
    ]


def _telling(difference: tuple[str, Any, Any]) -> int:
    """Return the place of a differing setting among those named, the most telling first."""
    path = difference[0]
    return next((place for place, start in enumerate(TELLING) if path.startswith(start)), len(TELLING))


def _protocol(search: Search) -> dict[str, Any]:
    looked_up = search.config["tasks"] is None
    settings = {
        path: value
        for path, value in settled(search).items()
        if path.startswith(PROTOCOL) and not (looked_up and path in TRAINED)
    }
    return settings | {f"data of {k}": v for k, v in search.environment.get("classes", {}).items()}


def _labels(groups: Sequence[Sequence[Search]]) -> list[str]:
    """Return each group's controller, and where groups share it, the settings in which these differ.

    Groups that search other slots differ in their names: `random × learner.lr` and `random`.
    """
    return [_label(group[0], [other[0] for other in groups]) for group in groups]


def _label(search: Search, others: Sequence[Search]) -> str:
    like = [other for other in others if other.controller == search.controller]
    values, label = settled(search), search.controller
    paths = differing(identity(search), [identity(other) for other in like])
    if len({_slots(other) for other in like}) > 1:
        label = " × ".join([label, *_slots(search)])
        paths = [path for path in paths if path.partition(".")[0] != SLOTS]
    parts = [f"{path.removeprefix('controller.')}={values.get(path)}" for path in paths]
    return " ".join([label, *parts])


def _slots(search: Search) -> tuple[str, ...]:
    """Return what a search chooses apart from the network, such as `learner.lr`."""
    return tuple(settings(search.config.get(SLOTS) or {}))
