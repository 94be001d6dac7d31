"""What became of supernets: whether they predict scores from scratch, and which of them collapsed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import select

from nas.comparison.curves import Curve
from nas.comparison.groups import BASELINE, Group
from nas.comparison.ranks import spearman
from nas.metrics import SHARED, SKIPS, shared_architecture
from nas.states import TrialState
from nas.storage.schema import Measurement, Search, Trial, TrialKind
from nas.storage.store import Store

PAIRS = 3
"""Fewer pairs than this correlate perfectly, one way or the other, whatever they are."""


class Correlation(NamedTuple):
    """Of scores with shared weights and from scratch.

    Attributes:
        rho: Spearman's rank correlation; None where it is not defined, or of fewer than `PAIRS`.
        pairs: how many architectures have both scores.
    """

    rho: float | None
    pairs: int


@dataclass(frozen=True, slots=True)
class TrainedSupernet:
    """One that was trained.

    Attributes:
        search, seed: whose.
        rho, pairs: the correlation over what it derived: the best by its own scores, so that these hardly
            differ, and ρ is smaller than over all architectures.
        rho_random, pairs_random: over a uniform sample, which it scored and a compared random search under
            the same seed trained.
        skips: skip connections of what it would have derived, when its training ended; None: not measured.
        ended_early: why its training ended before its budget, as a watched collapse does; None: it did not.
    """

    search: str
    seed: int
    rho: float | None
    pairs: int
    rho_random: float | None
    pairs_random: int
    skips: int | None
    ended_early: str | None


@dataclass(frozen=True, slots=True)
class Supernets:
    """Those of one group.

    Attributes:
        rho, rho_random: mean over those that have one; None: none has.
        pairs, pairs_random: behind it, in all; None where no supernet was trained.
        supernets: by seed.
    """

    rho: float | None
    pairs: int | None
    rho_random: float | None
    pairs_random: int | None
    supernets: tuple[TrainedSupernet, ...]


def supernets(store: Store, groups: Sequence[Group], curves: Sequence[Sequence[Curve]]) -> list[Supernets]:
    """Return what became of the supernets of each group, over their searches' whole length.

    Args:
        store: where they are.
        groups: of searches.
        curves: of each group's searches; where there is no supernet, no trial is read.
    """
    random = [search for group in groups if group.controller == BASELINE for search in group.searches]
    return [
        _gathered(
            [
                one
                for search, curve in zip(group.searches, some, strict=True)
                if curve.supernet
                for one in _of(store, search, random)
            ]
        )
        for group, some in zip(groups, curves, strict=True)
    ]


def _gathered(found: Sequence[TrainedSupernet]) -> Supernets:
    rho, pairs = _mean(Correlation(one.rho, one.pairs) for one in found)
    rho_random, pairs_random = _mean(Correlation(one.rho_random, one.pairs_random) for one in found)
    if not found:
        return Supernets(None, None, None, None, ())
    return Supernets(rho, pairs, rho_random, pairs_random, tuple(found))


def _mean(several: Iterable[Correlation]) -> Correlation:
    """Return the mean of those that are defined, and the pairs behind it."""
    defined = [(rho, pairs) for rho, pairs in several if rho is not None]
    rho = statistics.fmean(rho for rho, _ in defined) if defined else None
    return Correlation(rho, sum(pairs for _, pairs in defined))


def _of(store: Store, search: Search, random: Sequence[Search]) -> list[TrainedSupernet]:
    with store.read() as session:
        trained = session.execute(
            select(Trial.id, Trial.derived, Trial.error)
            .where(
                Trial.search_id == search.id,
                Trial.kind == TrialKind.SUPERNET.value,
                Trial.state == TrialState.COMPLETED.value,
            )
            .order_by(Trial.number)
        ).all()
        if not trained:
            return []
        measured = (
            select(Measurement.trial_id, Measurement.metric, Measurement.value)
            .where(
                Measurement.trial_id.in_([row.id for row in trained]),
                (Measurement.metric == SKIPS) | Measurement.metric.startswith(f"{SHARED}/"),
            )
            .order_by(Measurement.step)
        )
        skips: dict[int, float | None] = {}
        shared: dict[int, dict[str, float | None]] = {}
        for trial, metric, value in session.execute(measured):
            text = shared_architecture(metric)
            if text is None:
                skips[trial] = value
            else:
                shared.setdefault(trial, {})[text] = value
    own = _scratch(store, [search])
    beside = [
        one for one in random if (one.seed, one.config["space"]) == (search.seed, search.config["space"])
    ]
    unselected = _scratch(store, beside)
    found = []
    for trial, derived, error in trained:
        selected = {entry["architecture"]: entry["score"] for entry in derived or ()}
        skipped = skips.get(trial)
        found.append(
            TrainedSupernet(
                search.name,
                search.seed,
                *_correlation(selected, own),
                *_correlation(shared.get(trial, {}), unselected),
                None if skipped is None else int(skipped),
                error,
            )
        )
    return found


def _scratch(store: Store, searches: Sequence[Search]) -> dict[str, float]:
    """Return the scores from scratch of all architectures of searches, by text."""
    scores = select(Trial.architecture, Trial.score).where(
        Trial.search_id.in_([search.id for search in searches]),
        Trial.state.in_([TrialState.COMPLETED.value, TrialState.REUSED.value]),
        Trial.architecture.is_not(None),
        Trial.score.is_not(None),
        Trial.repeat == 0,
        Trial.asked_episodes.is_(None),
    )
    with store.read() as session:
        return {row.architecture: row.score for row in session.execute(scores)}


def _correlation(shared: Mapping[str, float | None], scratch: Mapping[str, float]) -> Correlation:
    pairs = [
        (value, scratch[text]) for text, value in shared.items() if value is not None and text in scratch
    ]
    one, other = [value for value, _ in pairs], [value for _, value in pairs]
    return Correlation(spearman(one, other) if len(pairs) >= PAIRS else None, len(pairs))
