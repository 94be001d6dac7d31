"""What is drawn: anytime curves, or anything that trials measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sqlalchemy import select

from nas.comparison.curves import Curve, Floats, clock
from nas.comparison.groups import BASELINE, Group
from nas.comparison.panels import Line, Panel, mean_line, one_by_one
from nas.comparison.units import metric_name, score_name
from nas.errors import NotFound, UnknownName
from nas.metrics import SHARED, family
from nas.states import TrialState
from nas.storage.schema import Measurement, Search, Trial, TrialKind
from nas.storage.store import Store

POINTS = 400
"""Costs at which an anytime curve is evaluated, evenly spaced."""


def anytime(groups: Sequence[Group], curves: Sequence[Sequence[Curve]], cost: float) -> list[Panel]:
    """Return the panel of best scores up to `cost` worker seconds, and one of their test scores if any has.

    A line begins where the last of its searches has its first score.

    Raises:
        NotFound: no group has a line.
    """
    panels = []
    first = groups[0].searches[0]
    x_label = f"{clock(first)} (s)"
    for which in range(2):
        lines: list[Line] = []
        absent = []
        for group, some in zip(groups, curves, strict=True):
            last = max(range(len(some)), key=lambda place: some[place].first)
            start = some[last].first
            if start > cost:
                name = group.searches[last].name
                why = f"'{name}' has no score"
                if math.isfinite(start):
                    why = f"'{name}' had its first score after {start:,.0f} s"
                    why += f", and the shortest search ends after {cost:,.0f} s"
                absent.append(f"{group.label} has no line: {why}.")
                continue
            x = np.unique(np.append(np.linspace(0, cost, POINTS), start))
            x = x[x >= start]
            values = np.stack([curve.over(x)[which] for curve in some])
            unknown = np.isnan(values).any(1)
            if unknown.any():
                name = group.searches[int(unknown.argmax())].name
                absent.append(f"{group.label} has no line of test scores: '{name}' lacks some.")
            else:
                line = mean_line(group.label, x, values, baseline=group.controller == BASELINE)
                lines.append(one_by_one(line, [(x, own) for own in values]))
        if lines:
            name = score_name(first, min(float(line.mean.min()) for line in lines), test=which == 1)
            y_label = f"test {name} of that architecture" if which else f"best validation {name} so far"
            panels.append(Panel(x_label, y_label, True, tuple(lines), tuple(absent)))
        elif not panels:
            raise NotFound("There is nothing to draw. " + " ".join(absent))
    return panels


def measured(store: Store, groups: Sequence[Group], metric: str, singles: int = 100) -> Panel:
    """Return the panel of a metric over training episodes.

    Trials of one architecture, and supernets, have a mean. Unlike architectures have none: their line is that
    of the trial with the best score, with the others behind it. Trials that train a supernet have a line of
    their own: their steps are not those of an evaluation, but episodes drawn for its weights and for its
    architecture. Episodes of ordinary data are minibatches.

    Args:
        store: where the measurements are.
        groups: whose.
        metric: such as `train_loss`, `score` or `alpha_entropy`.
        singles: up to so many trials of a group are drawn one by one, the best first.

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
            supernets = kind == TrialKind.SUPERNET
            label = f"{group.label}, supernet" if supernets else group.label
            baseline = group.controller == BASELINE
            if supernets or len({trial.architecture for trial in trials}) == 1:
                lines.append(_mean(label, trials, baseline=baseline))
            else:
                lines.append(_best(label, trials, singles, baseline=baseline))
    if not lines:
        raise UnknownName("metric", metric, metrics(store, groups))
    whose = " of the supernet" if kinds == {TrialKind.SUPERNET} else ""
    first = groups[0].searches[0]
    y_label = metric_name(first, metric, min(float(line.mean.min()) for line in lines))
    return Panel(f"training {_episodes(first)}{whose}", y_label, False, tuple(lines), tuple(absent))


def _mean(label: str, trials: Sequence[TrialSeries], *, baseline: bool) -> Line:
    """Return the mean over trials of one architecture, or over supernets."""
    steps = np.unique(np.concatenate([trial.x for trial in trials]))
    values = np.full((len(trials), len(steps)), math.nan)
    for row, trial in zip(values, trials, strict=True):
        row[np.searchsorted(steps, trial.x)] = trial.y
    line = mean_line(label, steps, values, baseline=baseline)
    return one_by_one(line, [(trial.x, trial.y) for trial in trials])


def _best(label: str, trials: Sequence[TrialSeries], singles: int, *, baseline: bool) -> Line:
    """Return the line of the trial with the best score, and those of others, the best first."""
    best, *others = sorted(trials, key=lambda trial: -math.inf if trial.score is None else -trial.score)
    beside = tuple((trial.x, trial.y) for trial in others[:singles])
    return Line(label, 1, baseline, best.x, best.y, np.full(len(best.x), math.nan), beside, len(trials))


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


class TrialSeries(NamedTuple):
    """What one trial measured: steps and values, with its score and the id of its architecture."""

    architecture: int | None
    score: float | None
    x: Floats
    y: Floats


def _measurements(store: Store, searches: Sequence[int], metric: str) -> dict[str, list[TrialSeries]]:
    """Return what each trial measured of a metric, by kind of trial; a trial stopped early has no score."""
    query = (
        select(
            Trial.kind,
            Trial.id,
            Trial.state,
            Trial.architecture_id,
            Trial.score,
            Measurement.step,
            Measurement.value,
        )
        .join(Measurement, Trial.id == Measurement.trial_id)
        .where(Trial.search_id.in_(searches), Measurement.metric == metric, Measurement.value.is_not(None))
        .order_by(Measurement.trial_id, Measurement.step)
    )
    points: dict[int, list[tuple[int, float]]] = {}
    trials: dict[int, tuple[str, int | None, float | None]] = {}
    with store.read() as session:
        for kind, trial, state, architecture, score, step, value in session.execute(query):
            assert value is not None  # by the query
            points.setdefault(trial, []).append((step, value))
            trials[trial] = kind, architecture, score if state == TrialState.COMPLETED else None
    found: dict[str, list[TrialSeries]] = {}
    for trial, (kind, architecture, score) in trials.items():
        x, y = np.array(points[trial], float).T
        found.setdefault(kind, []).append(TrialSeries(architecture, score, x, y))
    return found
