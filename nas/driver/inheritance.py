"""What a search knows of earlier ones: read from their trials when it begins, and kept with it."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any

from nas import fingerprints
from nas.controller import Controller, Inherited, Outcome
from nas.driver.records import Records, configuration
from nas.errors import ConfigError, StorageError
from nas.objective import Objective
from nas.pareto import Point, crowded
from nas.settings.search import SearchConfig
from nas.space import Architecture, Space
from nas.states import TrialState
from nas.storage.schema import Search
from nas.storage.searches import INHERITED
from nas.storage.store import Store

SCORED = frozenset({TrialState.COMPLETED, TrialState.PAUSED, TrialState.STOPPED})
"""Trials that have a score of their own."""

Standing = tuple[int, Any]
"""What networks of one search rank by, less being better: a longer training, then the objective."""


def gather(store: Store, config: SearchConfig, space: Space[Any]) -> list[Inherited]:
    """Return what the searches of `warm_start` have found so far; nothing, where there is none.

    Each network counts once in a search, by its longest training. Its place is that under this search's
    objective: with several goals, by the crowded comparison of NSGA-II.

    Raises:
        NotFound: no such search.
        ConfigError: a name is not whole, or a search has other decisions, or no score.
        PluginError: a plug-in of an earlier search has changed since.
    """
    found = list[Inherited]()
    for name in config.warm_start.searches if config.warm_start else ():
        row = store.search(name)
        if row.name != name:
            raise ConfigError(
                f"warm_start: '{name}' means the search '{row.name}' for now: give that name, which stays."
            )
        own = _of(store, row, config.aim, space)
        if not own:
            raise ConfigError(
                f"warm_start: search '{name}' has no trial with {config.aim}; see `nas show {name}`, or name "
                "another search."
            )
        found += own
    return found


def _of(store: Store, row: Search, aim: Objective, space: Space[Any]) -> list[Inherited]:
    theirs = configuration(row)
    before = theirs.make_space()
    then, now = fingerprints.decisions(before), fingerprints.decisions(space)
    if then != now and before.name != space.name:
        raise ConfigError(
            f"warm_start: search '{row.name}' chose in the space '{before.name}', and this search chooses in "
            f"'{space.name}'. Name searches in the same space."
        )
    if then != now:
        raise ConfigError(
            f"warm_start: search '{row.name}' chose among other decisions than this search: taking its for "
            f"this search's, {fingerprints.difference(then, now)}. Name searches in the same space, with the "
            "same slots."
        )
    records = Records(row.name, theirs, before, None, {})
    best: dict[str, tuple[int, Point, Architecture]] = {}
    for trial in store.history(row.id):
        outcome = records.outcome(trial)
        point = _point(outcome, aim)
        if point is None or outcome.architecture is None:
            continue
        architecture = Architecture(space.name, outcome.architecture.choices)
        key = space.canonical(architecture)
        if key not in best or outcome.train_episodes > best[key][0]:
            best[key] = outcome.train_episodes, point, architecture
    shares = _shares([(length, point) for length, point, _ in best.values()], several=aim.several)
    networks = (architecture for *_, architecture in best.values())
    return [Inherited(network, share, row.name) for network, share in zip(networks, shares, strict=True)]


def _point(outcome: Outcome, aim: Objective) -> Point | None:
    return aim.point(outcome.values) if outcome.state in SCORED else None


def _shares(found: Sequence[tuple[int, Point]], *, several: bool) -> list[float]:
    """Return for each the share of all that it outranks, itself among them, ties counting half."""
    standing: list[Standing] = [(-length, point) for length, point in found]
    if several:
        for length in {length for length, _ in found}:
            alike = [place for place, (own, _) in enumerate(found) if own == length]
            for place, crowd in zip(alike, crowded([found[i][1] for i in alike]), strict=True):
                standing[place] = -length, crowd
    ordered = sorted(standing)
    outranking = [(bisect_left(ordered, one) + bisect_right(ordered, one)) / 2 for one in standing]
    return [1 - count / len(ordered) for count in outranking]


def summary(store: Store, found: Sequence[Inherited]) -> dict[str, Any]:
    """Return what a search's environment says of what it inherited."""
    counts = Counter(one.origin for one in found)
    searches = [
        {"search": name, "task": store.search(name).task_label, "networks": count}
        for name, count in counts.items()
    ]
    return {"searches": searches, "sha256": _digest(found)}


def _digest(found: Sequence[Inherited]) -> str:
    rows = [[one.origin, list(one.architecture.choices), one.share] for one in found]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def bequeath(store: Store, row: Search, space: Space[Any], controller: Controller) -> None:
    """Tell the controller of a search, before all else, what it knew of earlier ones when it began.

    Raises:
        StorageError: that is no longer what was recorded.
    """
    recorded = row.environment.get(INHERITED)
    if recorded is None:
        return
    known = [
        Inherited(space.decode(one.architecture), one.share, one.origin) for one in store.inherited(row.id)
    ]
    if _digest(known) != recorded["sha256"]:
        raise StorageError(
            f"What search '{row.name}' knew of earlier searches was changed in the database since it began, "
            "so that it would go on otherwise. Bring the table `inherited` back, or start a new search."
        )
    controller.inherit(known)
