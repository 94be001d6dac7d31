"""What is drawn: named lines with bands, of anytime curves or of anything that trials measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import select

from nas.comparison.curves import Curve, Floats, clock
from nas.comparison.groups import BASELINE, Group
from nas.errors import NotFound, UnknownName
from nas.metrics import SHARED, family
from nas.statistics import student_t
from nas.storage.schema import Measurement, Search, Trial, TrialKind
from nas.storage.store import Store

POINTS = 400
"""Costs at which an anytime curve is evaluated, evenly spaced."""


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One group in one panel, or one choice of a decision.

    Attributes:
        label: of the group, or the choice.
        count: searches, or trials, that the mean is over.
        baseline: whether it is random search.
        x: `[points]` ascending.
        mean: `[points]`.
        half: `[points]` half width of the mean's 95 % interval (Student's t), NaN where there is none.
        single: the lines that the mean is over, where they are few.
    """

    label: str
    count: int
    baseline: bool
    x: Floats
    mean: Floats
    half: Floats
    single: tuple[tuple[Floats, Floats], ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines that share their axes.

    Attributes:
        x_label, y_label: with units.
        steps: whether values stay until the next point, as a best-so-far does.
        lines: at least one.
        absent: why groups have none, a sentence each.
    """

    x_label: str
    y_label: str
    steps: bool
    lines: tuple[Line, ...]
    absent: tuple[str, ...] = ()


def anytime(groups: Sequence[Group], curves: Sequence[Sequence[Curve]], cost: float) -> list[Panel]:
    """Return the panel of best scores up to `cost` worker seconds, and one of their test scores if any has.

    A line begins where the last of its searches has its first score.

    Raises:
        NotFound: no group has a line.
    """
    panels = []
    x_label = f"{clock(groups[0].searches[0])} (s)"
    for which, y_label in enumerate(("best validation score so far", "test score of that architecture")):
        lines, absent = [], []
        for group, some in zip(groups, curves, strict=True):
            last = max(range(len(some)), key=lambda place: some[place].first)
            start = some[last].first
            if start > cost:
                absent.append(
                    f"{group.label} has no line: '{group.searches[last].name}' had its first score after "
                    f"{start:,.0f} s, and the shortest search ends after {cost:,.0f} s."
                )
                continue
            x = np.unique(np.append(np.linspace(0, cost, POINTS), start))
            x = x[x >= start]
            values = np.stack([curve.over(x)[which] for curve in some])
            unknown = np.isnan(values).any(1)
            if unknown.any():
                name = group.searches[int(unknown.argmax())].name
                absent.append(f"{group.label} has no line of test scores: '{name}' lacks some.")
            else:
                lines.append(mean_line(group.label, x, values, baseline=group.controller == BASELINE))
        if lines:
            panels.append(Panel(x_label, y_label, True, tuple(lines), tuple(absent)))
        elif not panels:
            raise NotFound("There is nothing to draw. " + " ".join(absent))
    return panels


def measured(store: Store, groups: Sequence[Group], metric: str, singles: int = 24) -> Panel:
    """Return the panel of a metric over training episodes: a mean over the trials that measured it.

    Trials that train a supernet have a line of their own: their steps are not those of an evaluation, but
    episodes drawn for its weights and for its architecture. Episodes of ordinary data are minibatches.

    Args:
        store: where the measurements are.
        groups: whose.
        metric: such as `train_loss`, `score` or `alpha_entropy`.
        singles: up to so many trials of a group are drawn one by one, too.

    Raises:
        UnknownName: no trial measured it; the message names what was.
    """
    lines, absent = [], []
    kinds: set[str] = set()
    for group in groups:
        searches = [search.id for search in group.searches]
        found = _measurements(store, searches, metric)
        if not found:
            absent.append(f"{group.label} has no line: none of its trials measured {metric}.")
        kinds.update(found)
        for kind, trials in found.items():
            steps = np.unique(np.concatenate([x for x, _ in trials]))
            values = np.full((len(trials), len(steps)), math.nan)
            for row, (x, y) in zip(values, trials, strict=True):
                row[np.searchsorted(steps, x)] = y
            few = tuple(trials) if len(trials) <= singles else ()
            label = f"{group.label}, supernet" if kind == TrialKind.SUPERNET else group.label
            line = mean_line(label, steps, values, baseline=group.controller == BASELINE)
            lines.append(replace(line, single=few))
    if not lines:
        raise UnknownName("metric", metric, metrics(store, groups))
    whose = " of the supernet" if kinds == {TrialKind.SUPERNET} else ""
    x_label = f"training {_episodes(groups[0].searches[0])}{whose}"
    return Panel(x_label, metric.replace("_", " "), False, tuple(lines), tuple(absent))


def metrics(store: Store, groups: Sequence[Group]) -> list[str]:
    """Return the names of all that trials of the groups measured; `alpha` stands for every weight of α."""
    ids = [search.id for group in groups for search in group.searches]
    query = (
        select(Measurement.metric)
        .join(Trial, Trial.id == Measurement.trial_id)
        .where(Trial.search_id.in_(ids))
        .distinct()
    )
    with store.read() as session:
        return sorted({family(name) for name in session.scalars(query)} - {SHARED})


def _episodes(search: Search) -> str:
    """Return what a search's episodes are: few-shot tasks alone have a setting `shots`."""
    tasks = search.config["tasks"]
    return "episodes" if tasks is None or "shots" in tasks else "minibatches"


def _measurements(
    store: Store, searches: Sequence[int], metric: str
) -> dict[str, list[tuple[Floats, Floats]]]:
    """Return steps and values of each trial that measured the metric, by kind of trial."""
    query = (
        select(Trial.kind, Measurement.trial_id, Measurement.step, Measurement.value)
        .join(Trial, Trial.id == Measurement.trial_id)
        .where(Trial.search_id.in_(searches), Measurement.metric == metric, Measurement.value.is_not(None))
        .order_by(Measurement.trial_id, Measurement.step)
    )
    found: dict[str, dict[int, list[tuple[int, float | None]]]] = {}
    with store.read() as session:
        for kind, trial, step, value in session.execute(query):
            found.setdefault(kind, {}).setdefault(trial, []).append((step, value))
    return {
        kind: [
            (np.array([step for step, _ in points], float), np.array([value for _, value in points], float))
            for points in trials.values()
        ]
        for kind, trials in found.items()
    }


def mean_line(label: str, x: Floats, values: Floats, *, baseline: bool = False) -> Line:
    """Return the mean of `values` `[lines, points]` over those that are numbers, and its interval.

    Each point has a number.
    """
    counts = (~np.isnan(values)).sum(0)
    total = np.nansum(values, 0)
    mean = total / counts
    squares = np.nansum((values - mean) ** 2, 0)
    factor = np.array([student_t(int(n) - 1) / math.sqrt(n) if n > 1 else math.nan for n in counts])
    half = factor * np.sqrt(squares / np.maximum(counts - 1, 1))
    return Line(label, len(values), baseline, x, mean, half)
