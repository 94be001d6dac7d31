"""Scores of trainings of unequal lengths: what outranks what, and which of them compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from nas.controller import Outcome

Item = TypeVar("Item")


def standing(outcome: Outcome) -> tuple[int, float]:
    """Return what outcomes with a score rank by; greater is better.

    Scores of one length are compared, and a longer training outranks a shorter one: it was chosen to go on,
    by scores of one length, and the shorter one was not, or not yet.
    """
    assert outcome.score is not None
    return outcome.train_episodes, outcome.score.value


def comparable(items: Iterable[Item], length: Callable[[Item], int], enough: int = 1) -> list[Item]:
    """Return the items of one length: of the longest that `enough` of them have, else of the commonest.

    That is how BOHB chooses what its model is fitted to (Falkner et al. 2018, arXiv 1807.01774, §4.1).

    Args:
        items: in any order, which is kept.
        length: the training episodes behind an item.
        enough: how many are enough.
    """
    by_length: dict[int, list[Item]] = {}
    for item in items:
        by_length.setdefault(length(item), []).append(item)
    rich = [episodes for episodes, found in by_length.items() if len(found) >= enough]
    if rich:
        return by_length[max(rich)]
    return max(by_length.values(), key=len, default=[])
