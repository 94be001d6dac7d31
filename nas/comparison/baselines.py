"""Which random search a group of searches is tested against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nas.comparison.groups import BASELINE, Group, identity


class Baseline(NamedTuple):
    """What a group has to beat.

    Attributes:
        place: of the random search among the groups; None: there is none to test against.
        note: why this one or none, where several could be meant; else None.
    """

    place: int | None
    note: str | None = None


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


def _surroundings(group: Group) -> dict[str, str]:
    """Return all settings but the controller's."""
    settings = identity(group.searches[0])
    return {path: value for path, value in settings.items() if not path.startswith("controller.")}
