"""Anytime curves: the best score that a search knew after each trial, over the worker time spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import func, select

from nas.driver.ledger import REPEATS, repeats
from nas.metrics import TEST_SCORE
from nas.states import SearchState, TrialState
from nas.storage.schema import Measurement, Search, Trial, TrialKind
from nas.storage.store import Store

Floats = npt.NDArray[np.float64]

POINTS = 500
"""Of a thinned curve at most."""

CHUNK = 500
"""Searches asked for at a time: the parameters of a statement are limited."""


class Incumbent(NamedTuple):
    """What a search had reached at some cost.

    Attributes:
        score: the best so far; NaN if there was none.
        test: the test score of the same trial; NaN if it has none.
        trials: how many had ended.
        reused: how many of them took the score of an isomorphic architecture.
    """

    score: float
    test: float
    trials: int
    reused: int


@dataclass(frozen=True, slots=True)
class Curve:
    """One search, trial by trial, in the order in which outcomes were recorded.

    Attributes:
        cost: `[trials]` worker seconds spent up to and with this trial; simulated ones where the evaluator
            simulates.
        best: `[trials]` the best score so far, NaN before the first.
        test: `[trials]` the test score of that trial, NaN where there is none. It chooses nothing.
        reused: `[trials]` how many trials so far cost nothing.
        exhausted: whether the search ended before its `max_seconds`, with known networks alone to propose:
            at any greater cost it has what it had at its end.
        supernet: whether one of the trials trained a supernet.
    """

    cost: Floats
    best: Floats
    test: Floats
    reused: npt.NDArray[np.int64]
    exhausted: bool = False
    supernet: bool = False

    @property
    def total(self) -> float:
        """Worker seconds in all."""
        return float(self.cost[-1]) if len(self.cost) else 0.0

    @property
    def first(self) -> float:
        """Worker seconds until the first score; infinite if there is none."""
        scored = np.flatnonzero(~np.isnan(self.best))
        return float(self.cost[scored[0]]) if len(scored) else math.inf

    def at(self, cost: float) -> Incumbent:
        """Return what was reached by the trials that had ended within `cost` worker seconds."""
        ended = int(np.searchsorted(self.cost, cost, side="right"))
        if not ended:
            return Incumbent(math.nan, math.nan, 0, 0)
        last = ended - 1
        return Incumbent(float(self.best[last]), float(self.test[last]), ended, int(self.reused[last]))

    def over(self, costs: Floats) -> tuple[Floats, Floats]:
        """Return the best scores and their test scores at each of ascending `costs`, NaN before the first."""
        ended = np.searchsorted(self.cost, costs, side="right")
        best, test = (np.concatenate([[math.nan], values]) for values in (self.best, self.test))
        return best[ended], test[ended]


def clock(search: Search) -> str:
    """Return what the seconds of a search are: those of its workers, or simulated where it trains nothing."""
    return "simulated time" if search.config["tasks"] is None else "worker time"


def curves(store: Store, searches: Sequence[Search]) -> list[Curve]:
    """Return the curve of each search.

    Trials that were stopped early or paused have the score of a smaller budget and are never the best, nor
    are those of further seeds; they cost what they took, like those that failed.
    """
    ids = [search.id for search in searches]
    rows: dict[int, list[_Trial]] = {search: [] for search in ids}
    tests: dict[int, float] = {}
    with store.read() as session:
        for start in range(0, len(ids), CHUNK):
            some = ids[start : start + CHUNK]
            trials = (
                select(
                    Trial.search_id,
                    Trial.id,
                    Trial.kind,
                    Trial.state,
                    Trial.score,
                    Trial.seconds,
                    Trial.repeat,
                )
                .where(Trial.search_id.in_(some), Trial.observed.is_not(None))
                .order_by(Trial.search_id, Trial.observed)
            )
            for search, trial, kind, state, score, seconds, repeat in session.execute(trials):
                rows[search].append((trial, kind, state, score, seconds, repeat))
            measured = (
                select(Measurement.trial_id, Measurement.value)
                .join(Trial, Trial.id == Measurement.trial_id)
                .where(Trial.search_id.in_(some), Measurement.metric == TEST_SCORE)
                .order_by(Measurement.step)
            )
            tests.update((trial, value) for trial, value in session.execute(measured) if value is not None)
    return [_curve(search, rows[search.id], tests) for search in searches]


_Trial = tuple[int, str, str, float | None, float | None, int]
"""Id, kind, state, score, seconds and repeat."""


def _curve(search: Search, trials: Sequence[_Trial], tests: dict[int, float]) -> Curve:
    best, test = [], []
    known = 0
    top, top_test = math.nan, math.nan
    whole, raced = TrialState.COMPLETED.value, TrialKind.RACE.value
    for trial, kind, state, score, _, repeat in trials:
        if kind != raced:
            known = repeats(known, state)
        if state == whole and repeat == 0 and score is not None and not score <= top:
            top, top_test = score, tests.get(trial, math.nan)
        best.append(top)
        test.append(top_test)
    return Curve(
        np.cumsum([seconds or 0.0 for *_, seconds, _ in trials]),
        np.array(best),
        np.array(test),
        np.cumsum([state == TrialState.REUSED for _, _, state, *_ in trials]),
        exhausted=(
            search.state == SearchState.COMPLETED
            and search.config.get("max_seconds") is not None
            and known >= REPEATS
        ),
        supernet=any(kind == TrialKind.SUPERNET for _, kind, *_ in trials),
    )


def thinned(store: Store, search: Search, points: int = POINTS) -> Curve:
    """Return the curve of a search after `points` of its trials at most, evenly spread, for a picture.

    At each of these it is that of `curves`; the database sums up what lies between. Whether the search is
    exhausted, or trained a supernet, is not asked.
    """
    mine = Trial.search_id == search.id, Trial.observed.is_not(None)
    whole = Trial.state == TrialState.COMPLETED.value, Trial.repeat == 0
    with store.read() as session:
        count = session.scalar(select(func.max(Trial.observed)).where(*mine)) or 0
        place = (Trial.observed - 1) * points // count if count > points else Trial.observed
        sums = select(
            place.label("place"),
            func.sum(Trial.seconds),
            func.max(Trial.score).filter(*whole),
            func.count().filter(Trial.state == TrialState.REUSED.value),
        )
        rows = session.execute(sums.where(*mine).group_by("place").order_by("place")).all()
        best = np.fmax.accumulate([math.nan if score is None else score for _, _, score, _ in rows])
        reached = [float(score) for score in np.unique(best[~np.isnan(best)])]
        first = select(func.min(Trial.observed)).where(*mine, *whole, Trial.score.in_(reached))
        measured = (
            select(Trial.score, Measurement.value)
            .join(Measurement, Trial.id == Measurement.trial_id)
            .where(Trial.search_id == search.id, Trial.observed.in_(first.group_by(Trial.score)))
            .where(Measurement.metric == TEST_SCORE, Measurement.value.is_not(None))
            .order_by(Measurement.step)
        )
        tests = {row[0]: row[1] for row in session.execute(measured)}
    return Curve(
        np.cumsum([seconds or 0.0 for _, seconds, _, _ in rows]),
        best,
        np.array([tests.get(score, math.nan) for score in best.tolist()]),
        np.cumsum([reused for *_, reused in rows]),
    )
