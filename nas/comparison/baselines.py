"""Which random search a group of searches is tested against, and the command of one where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select

from nas.comparison.curves import Curve
from nas.comparison.groups import BASELINE, Group, identity
from nas.queries.leaderboard import protocol_of
from nas.settings.run_command import like
from nas.storage.schema import Search
from nas.storage.store import Store


class Baseline(NamedTuple):
    """What a group has to beat.

    Attributes:
        place: of the random search among the groups; None: there is none to test against.
        note: why this one or none, where several could be meant; else None.
    """

    place: int | None
    note: str | None = None


class Lacking(NamedTuple):
    """Groups in one space without a random search to compare with.

    Attributes:
        labels: of the groups.
        command: of a random search as long as the longest of theirs, under the seed of one of them.
        seeds: of the further searches to compare them with.
    """

    labels: tuple[str, ...]
    command: str
    seeds: tuple[int, ...]


def baselines(groups: Sequence[Group]) -> list[Baseline]:
    """Return what each group has to beat."""
    return [baseline(groups, group) for group in groups]


def baseline(groups: Sequence[Group], beside: Group) -> Baseline:
    """Return the random search in a group's space; of several, the one that shares its other settings."""
    if beside.controller == BASELINE:
        return Baseline(None)
    places = [
        place
        for place, group in enumerate(groups)
        if group.controller == BASELINE and group.space == beside.space
    ]
    if len(places) <= 1:
        return Baseline(places[0] if places else None)
    like = [place for place in places if _surroundings(groups[place]) == _surroundings(beside)]
    if len(like) == 1:
        chosen = groups[like[0]].label
        return Baseline(
            like[0],
            f"{beside.label} is tested against '{chosen}': of {len(places)} groups of random searches "
            "the one with its other settings.",
        )
    labels = ", ".join(f"'{groups[place].label}'" for place in places)
    return Baseline(
        None,
        f"{beside.label} is tested against none of the {len(places)} groups of random searches ({labels}): "
        f"{'several share' if like else 'none shares'} its other settings. Name the searches of one only.",
    )


def beside(store: Store, search: Search) -> list[Search]:
    """Return the random searches in a search's space and protocol, one a seed, the oldest of each."""
    with store.read() as session:
        alike = select(Search).where(
            Search.controller == BASELINE, Search.settings == search.settings, Search.id != search.id
        )
        found = session.scalars(alike.order_by(Search.id)).all()
    by_seed: dict[int, Search] = {}
    for other in found:
        same = all(other.config.get(key) == search.config.get(key) for key in ("space", "slots"))
        if same and protocol_of(other) == protocol_of(search):
            by_seed.setdefault(other.seed, other)
    return list(by_seed.values())


def lacking(groups: Sequence[Group], curves: Sequence[Sequence[Curve]]) -> list[Lacking]:
    """Return the groups without a random search in their space, space by space."""
    without: list[list[tuple[Group, Sequence[Curve]]]] = []
    for group, theirs in zip(groups, curves, strict=True):
        if any(other.controller == BASELINE and other.space == group.space for other in groups):
            continue
        alike = next((found for found in without if found[0][0].space == group.space), None)
        if alike is None:
            without.append([(group, theirs)])
        else:
            alike.append((group, theirs))
    return [_lacking(alike) for alike in without]


def _lacking(alike: Sequence[tuple[Group, Sequence[Curve]]]) -> Lacking:
    curves = [curve for _, theirs in alike for curve in theirs]
    timed = any(curve.supernet for curve in curves)
    cost = max(curve.total for curve in curves) if timed else None
    first, *others = alike[0][0].searches
    return Lacking(
        tuple(group.label for group, _ in alike),
        like(first, BASELINE, cost),
        tuple(search.seed for search in others),
    )


def _surroundings(group: Group) -> dict[str, str]:
    """Return all settings but the controller's."""
    settings = identity(group.searches[0])
    return {path: value for path, value in settings.items() if not path.startswith("controller.")}
