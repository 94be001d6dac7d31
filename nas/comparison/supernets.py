"""What became of supernets: whether they foretell scores from scratch, and which of them collapsed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from nas.comparison.groups import Group
from nas.comparison.ranks import spearman
from nas.metrics import SKIPS
from nas.storage.schema import Measurement, Search, Trial, TrialKind, TrialState
from nas.storage.store import Store

PAIRS = 3
"""Fewer pairs than this correlate perfectly, one way or the other, whatever they are."""


@dataclass(frozen=True, slots=True)
class Supernet:
    """One that was trained.

    Attributes:
        search, seed: whose.
        rho: Spearman's rank correlation, over what it derived, of scores with shared weights and from
            scratch; None where it is not defined, or of fewer than `PAIRS`.
        pairs: how many architectures have both scores.
        skips: skip connections of what it would have derived, when its training ended; None: not measured.
        ended_early: why its training ended before its budget, as a watched collapse does; None: it did not.
    """

    search: str
    seed: int
    rho: float | None
    pairs: int
    skips: int | None
    ended_early: str | None


@dataclass(frozen=True, slots=True)
class Supernets:
    """Those of one group.

    Attributes:
        rho: mean over those that have one; None: none has.
        pairs: behind it, in all; None where no supernet was trained.
        supernets: by seed.
    """

    rho: float | None
    pairs: int | None
    supernets: tuple[Supernet, ...]


def supernets(store: Store, groups: Sequence[Group]) -> list[Supernets]:
    """Return what became of the supernets of each group, over their searches' whole length."""
    return [_gathered([one for search in group.searches for one in _of(store, search)]) for group in groups]


def _gathered(found: Sequence[Supernet]) -> Supernets:
    defined = [(one.rho, one.pairs) for one in found if one.rho is not None]
    rho = statistics.fmean(rho for rho, _ in defined) if defined else None
    return Supernets(rho, sum(pairs for _, pairs in defined) if found else None, tuple(found))


def _of(store: Store, search: Search) -> list[Supernet]:
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
        scores = select(Trial.architecture, Trial.score).where(
            Trial.search_id == search.id,
            Trial.state.in_([TrialState.COMPLETED.value, TrialState.REUSED.value]),
            Trial.architecture.is_not(None),
            Trial.score.is_not(None),
        )
        scratch = {row.architecture: row.score for row in session.execute(scores)}
        measured = (
            select(Measurement.trial_id, Measurement.value)
            .where(Measurement.trial_id.in_([row.id for row in trained]), Measurement.metric == SKIPS)
            .order_by(Measurement.step)
        )
        skips = {row.trial_id: row.value for row in session.execute(measured)}
    found = []
    for trial, derived, error in trained:
        pairs = [
            (entry["score"], scratch[entry["architecture"]])
            for entry in derived or ()
            if entry["score"] is not None and entry["architecture"] in scratch
        ]
        enough = len(pairs) >= PAIRS
        rho = spearman([shared for shared, _ in pairs], [own for _, own in pairs]) if enough else None
        skipped = skips.get(trial)
        found.append(
            Supernet(
                search.name, search.seed, rho, len(pairs), None if skipped is None else int(skipped), error
            )
        )
    return found
