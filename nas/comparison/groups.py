"""Which searches stand side by side: groups that differ in the seed alone, under one protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import select

from nas.errors import ConfigError
from nas.storage.schema import Search
from nas.storage.store import Store

BASELINE = "random"
"""The controller that every other one has to beat."""

OWN = ("name", "seed")
"""What the searches of one group may differ in."""

PROTOCOL = ("tasks", "learner", "evaluator", "budget", "resources.precision")
"""What scores depend on besides network and seed: the parts of `SearchConfig.settings`."""

GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Group:
    """Searches that differ in the seed alone, by seed.

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
        ConfigError: their scores do not compare; the message says which settings differ.
    """
    searches = list(searches)
    check(searches)
    members: dict[str, dict[int, Search]] = {}
    repeated = []
    for search in searches:
        key = json.dumps({k: v for k, v in search.config.items() if k not in OWN}, sort_keys=True)
        of_group = members.setdefault(key, {})
        if search.seed in of_group:
            repeated.append(search.name)
        of_group.setdefault(search.seed, search)
    found = [tuple(by_seed[seed] for seed in sorted(by_seed)) for by_seed in members.values()]
    groups = [Group(label, some) for label, some in zip(_labels(found), found, strict=True)]
    return sorted(groups, key=lambda group: group.controller != BASELINE), repeated


def check(searches: Sequence[Search]) -> None:
    """Refuse searches whose scores do not compare.

    Raises:
        ConfigError: they differ in tasks, learner, evaluator, budget, precision or in the data itself.
    """
    for search in searches[1:]:
        first = searches[0]
        differ = _differences(first, search)
        if differ:
            raise ConfigError(
                f"The scores of '{first.name}' and '{search.name}' do not compare. They differ in "
                + "; ".join(f"{key}: {one} and {other}" for key, one, other in differ)
                + ". Name searches of one protocol only; `nas ls` lists them."
            )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their path, such as `tasks.ways`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _differences(a: Search, b: Search) -> list[tuple[str, Any, Any]]:
    sides = [
        {k: v for k, v in flat(s.config).items() if k.startswith(tuple(PROTOCOL))}
        | {f"data of {k}": v for k, v in s.environment.get("classes", {}).items()}
        for s in (a, b)
    ]
    one, other = sides
    return [
        (key, one.get(key, "none"), other.get(key, "none"))
        for key in dict.fromkeys([*one, *other])
        if one.get(key) != other.get(key)
    ]


def _labels(groups: Sequence[Sequence[Search]]) -> list[str]:
    """Return each group's controller, and where groups share it, the settings in which these differ."""
    labels = []
    for group in groups:
        controller = group[0].controller
        like = [flat(other[0].config) for other in groups if other[0].controller == controller]
        own = flat(group[0].config)
        keys = [
            key
            for key in dict.fromkeys(key for config in like for key in config)
            if key not in OWN and any(config.get(key) != own.get(key) for config in like)
        ]
        parts = [f"{key.removeprefix('controller.')}={own.get(key)}" for key in keys]
        labels.append(" ".join([controller, *parts]))
    return labels
