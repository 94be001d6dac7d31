"""Scores against what networks cost: the trials of each group, and those that no other one beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import select

from nas import counts
from nas.comparison.curves import Floats
from nas.comparison.draw import picture, styles
from nas.comparison.groups import BASELINE, Group
from nas.comparison.panels import Window
from nas.comparison.text import marks, scatter
from nas.comparison.units import cost_name, score_name
from nas.costs import COSTS
from nas.errors import NotFound, UnknownName
from nas.pareto import nondominated
from nas.states import TrialState
from nas.storage.front import FIELDS
from nas.storage.schema import Trial
from nas.storage.store import Store

SIZE = (6.4, 4.6)
"""Inches of the picture."""


@dataclass(frozen=True, slots=True, eq=False)
class Cloud:
    """The completed trials of a group.

    Attributes:
        label, baseline: of the group.
        searches: how many.
        cost, score: `[trials]`, by cost and then from the best score on.
        front: indices of the trials that no other one of the group dominates.
    """

    label: str
    baseline: bool
    searches: int
    cost: Floats
    score: Floats
    front: tuple[int, ...]

    @property
    def name(self) -> str:
        """The label, and how much it stands for."""
        return f"{self.label} (n = {self.searches}; {counts.counted(len(self.cost), 'trial')})"


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """The clouds of all groups that have one.

    Attributes:
        x_label, y_label: with units.
        clouds: at least one.
        absent: why groups have none, a sentence each.
    """

    x_label: str
    y_label: str
    clouds: tuple[Cloud, ...]
    absent: tuple[str, ...]


def tradeoff(store: Store, groups: Sequence[Group], cost: str) -> Tradeoff:
    """Return the scores of completed trials against a cost.

    Args:
        store: where the trials are.
        groups: whose.
        cost: one of `nas.costs.COSTS`.

    Raises:
        UnknownName: no such cost.
        NotFound: no trial has a score and this cost.
    """
    if cost not in COSTS:
        raise UnknownName("cost", cost, COSTS)
    clouds, absent = list[Cloud](), list[str]()
    for group in groups:
        ids = [search.id for search in group.searches]
        column = FIELDS[cost]
        query = select(column, Trial.score).where(
            Trial.search_id.in_(ids),
            Trial.state == TrialState.COMPLETED,
            Trial.score.is_not(None),
            column.is_not(None),
        )
        with store.read() as session:
            points = sorted((float(x), -float(y)) for x, y in session.execute(query) if y is not None)
        if not points:
            absent.append(f"{group.label} has no points: none of its trials has a score and {cost}.")
            continue
        x, negative = np.array(points).T
        baseline = group.controller == BASELINE
        clouds.append(Cloud(group.label, baseline, len(ids), x, -negative, tuple(nondominated(points))))
    if not clouds:
        raise NotFound("There is nothing to draw. " + " ".join(absent))
    lowest = min(float(cloud.score.min()) for cloud in clouds)
    y_label = f"validation {score_name(groups[0].searches[0], lowest)}"
    return Tradeoff(cost_name(cost), y_label, tuple(clouds), tuple(absent))


def draw(found: Tradeoff, title: str, file: Path) -> None:
    """Write a picture: a point a trial, and a line through those that no other one dominates.

    Raises:
        ConfigError: see `picture`.
        NasError: the file cannot be written.
    """
    looks = styles(found.clouds)
    with picture(file, SIZE, title) as figure:
        axes = figure.subplots()
        for cloud in found.clouds:
            look, front = looks[cloud.label], list(cloud.front)
            axes.scatter(cloud.cost, cloud.score, s=9, color=look["color"], alpha=0.35, linewidths=0)
            order = 3 if cloud.baseline else 2
            axes.step(
                cloud.cost[front], cloud.score[front], where="post", marker="o", markersize=4, zorder=order,
                label=cloud.name, **look,
            )  # fmt: skip
        axes.set_xlabel(found.x_label)
        axes.set_ylabel(found.y_label)
        axes.xaxis.set_major_formatter(lambda value, _: _tick(value))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", frameon=False)


def text(found: Tradeoff, width: int) -> str:
    """Return the clouds as characters; where trials of several groups meet, they take turns."""
    every = [
        np.concatenate(values) for values in zip(*((c.cost, c.score) for c in found.clouds), strict=True)
    ]
    (left, right), (low, high) = ((float(v.min()), float(v.max())) for v in every)
    shown = Window(left, right if right > left else left + 1, low, high if high > low else low + 1)
    signs = marks(found.clouds)
    points = [
        (float(x), float(y), sign)
        for cloud, sign in zip(found.clouds, signs, strict=True)
        for x, y in zip(cloud.cost, cloud.score, strict=True)
    ]
    legend = [f"{sign} {cloud.name}" for sign, cloud in zip(signs, found.clouds, strict=True)]
    return scatter(points, shown, (found.x_label, found.y_label), legend, width)


def _tick(value: float) -> str:
    return counts.write(round(value)).replace(".0", "") if value >= 1000 else f"{value:g}"
