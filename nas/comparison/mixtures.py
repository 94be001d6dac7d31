"""The weights by α over the epochs of supernets, decision by decision."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import select

from nas.comparison.curves import Floats
from nas.comparison.groups import Group
from nas.comparison.panels import Line, mean_line, one_by_one
from nas.comparison.series import metrics
from nas.errors import ConfigError, NotFound
from nas.metrics import ALPHA, alpha_choice
from nas.storage.schema import Measurement, Trial
from nas.storage.store import Store

AlphaRow = tuple[int, int, str, int, float | None]
"""Search, trial, metric, step and value."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """One decision of a supernet.

    Attributes:
        decision: its name.
        lines: the weight of each choice after each epoch, from 1; a mean over searches.
    """

    decision: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Mixtures:
    """All decisions of the supernets of one group.

    Attributes:
        group: the searches that recorded α.
        epochs: of the longest training.
        choices: of any decision.
        decisions: at least one. Names are in their order, numbers in them by size.
        absent: which searches have no α, a sentence each.
    """

    group: Group
    epochs: int
    choices: tuple[str, ...]
    decisions: tuple[Mixture, ...]
    absent: tuple[str, ...]


def mixtures(store: Store, groups: Sequence[Group]) -> Mixtures:
    """Return the weights by α of the one group that recorded them.

    Raises:
        ConfigError: several groups did: means over unlike searches would say nothing.
        NotFound: none did; the message names what was measured.
    """
    recorded = [(group, rows) for group in groups if (rows := _rows(store, group))]
    if not recorded:
        known = ", ".join(metrics(store, groups)) or "nothing"
        raise NotFound(
            f"No trial of these searches recorded {ALPHA}. What they measured: {known}. Supernets of "
            "`darts`, `drnas` and `gdas` record it after each epoch, those of earlier versions did not."
        )
    if len(recorded) > 1:
        labels = "; ".join(
            f"{group.label} ({', '.join(search.name for search in group.searches)})" for group, _ in recorded
        )
        raise ConfigError(
            f"--metric {ALPHA} draws searches that differ in the seed alone. These do not: {labels}. "
            "Name those of one controller, with the same settings."
        )
    [(group, rows)] = recorded
    absent = [
        f"{other.label} has no line: none of its trials recorded {ALPHA}."
        for other in groups
        if other is not group
    ]
    having = {search for search, *_ in rows}
    without = ", ".join(f"'{search.name}'" for search in group.searches if search.id not in having)
    if without:
        absent.append(f"Left out, without {ALPHA}: {without}.")
    searches = tuple(search for search in group.searches if search.id in having)
    weights, epochs = _weights(rows)
    decisions = tuple(
        Mixture(name, tuple(_line(choice, weights[name][choice]) for choice in _ordered(weights[name])))
        for name in _ordered(weights)
    )
    choices = _ordered({choice for by_choice in weights.values() for choice in by_choice})
    return Mixtures(replace(group, searches=searches), epochs, tuple(choices), decisions, tuple(absent))


def _rows(store: Store, group: Group) -> list[AlphaRow]:
    query = (
        select(Trial.search_id, Measurement.trial_id, Measurement.metric, Measurement.step, Measurement.value)
        .join(Trial, Trial.id == Measurement.trial_id)
        .where(
            Trial.search_id.in_([search.id for search in group.searches]),
            Measurement.metric.startswith(f"{ALPHA}/"),
        )
    )
    with store.read() as session:
        return [(*row,) for row in session.execute(query)]


def _weights(rows: Sequence[AlphaRow]) -> tuple[dict[str, dict[str, Floats]], int]:
    """Return `[trials, epochs]` of each choice of each decision, NaN where there is none; and the epochs."""
    trials = {trial: place for place, trial in enumerate(sorted({trial for _, trial, *_ in rows}))}
    epochs = {step: place for place, step in enumerate(sorted({step for *_, step, _ in rows}))}
    weights: dict[str, dict[str, Floats]] = {}
    for _, trial, metric, step, value in rows:
        named = alpha_choice(metric)
        if named is not None:
            decision, choice = named
            empty: Floats = np.full((len(trials), len(epochs)), math.nan)
            weights.setdefault(decision, {}).setdefault(choice, empty)[trials[trial], epochs[step]] = value
    return weights, len(epochs)


def _line(choice: str, values: Floats) -> Line:
    known = ~np.isnan(values).all(0)
    epochs: Floats = np.arange(1.0, values.shape[1] + 1)
    line = mean_line(choice, epochs[known], values[:, known])
    measured = [(epochs[own], row[own]) for row, own in zip(values, ~np.isnan(values), strict=True)]
    return one_by_one(line, measured)


def _ordered(names: Iterable[str]) -> list[str]:
    """Return names in order, the numbers in them by size."""
    return sorted(
        names, key=lambda name: [int(p) if i % 2 else p for i, p in enumerate(re.split(r"(\d+)", name))]
    )
