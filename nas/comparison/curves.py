"""Anytime curves: the best score that a search knew after each trial, over the worker time spent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from sqlalchemy import Row, func, or_, select
from sqlalchemy.orm import Session

from nas.driver.ledger import REPEATS, repeats
from nas.metrics import TEST_SCORE
from nas.states import SearchState, TrialState
from nas.storage.schema import Measurement, Search, Trial, TrialKind
from nas.storage.store import Store

Item = TypeVar("Item")
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

POINTS = 500
"""Of an outline, those at which the best score changes aside."""

LONG = 5_000
"""Trials of a search from which on its outline stands for its curve."""

CHUNK = 500
"""Searches, or trials, asked for at a time: the parameters of a statement are limited."""


ROUNDING = 1e-9
"""Of sums of seconds, relative: at a cost this close to its own a trial has ended, whoever added up."""


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
    """One search at its trials, in the order in which outcomes were recorded; an outline has not all of them.

    The best score is right at every cost, in an outline too: no trial that changes it is left out.

    Attributes:
        cost: `[points]` worker seconds spent up to and with this trial; simulated ones where the evaluator
            simulates.
        best: `[points]` the best score so far, NaN before the first.
        test: `[points]` the test score of that trial, NaN where there is none. It chooses nothing.
        trials: `[points]` how many trials so far.
        reused: `[points]` how many of them cost nothing.
        exhausted: whether the search ended before its `max_seconds`, with known networks alone to propose:
            at any greater cost it has what it had at its end.
        supernet: whether one of the trials trained a supernet.
    """

    cost: Floats
    best: Floats
    test: Floats
    trials: Ints
    reused: Ints
    exhausted: bool = False
    supernet: bool = False

    @property
    def total(self) -> float:
        """Worker seconds in all."""
        return float(self.cost[-1]) if len(self.cost) else 0.0

    @property
    def count(self) -> int:
        """How many trials it has in all."""
        return int(self.trials[-1]) if len(self.trials) else 0

    @property
    def first(self) -> float:
        """Worker seconds until the first score; infinite if there is none."""
        scored = np.flatnonzero(~np.isnan(self.best))
        return float(self.cost[scored[0]]) if len(scored) else math.inf

    def ended(self, costs: npt.ArrayLike) -> npt.NDArray[np.intp]:
        """Return how many points lie within each of some costs."""
        return np.searchsorted(self.cost, np.multiply(costs, 1 + ROUNDING), side="right")

    def at(self, cost: float) -> Incumbent:
        """Return what was reached by the trials that had ended within `cost` worker seconds.

        An outline counts those up to its last point within: `read_at` gives it the others.
        """
        ended = int(self.ended(cost))
        if not ended:
            return Incumbent(math.nan, math.nan, 0, 0)
        last = ended - 1
        known = float(self.best[last]), float(self.test[last])
        return Incumbent(*known, int(self.trials[last]), int(self.reused[last]))

    def over(self, costs: Floats) -> tuple[Floats, Floats]:
        """Return the best scores and their test scores at each of ascending `costs`, NaN before the first."""
        ended = self.ended(costs)
        best, test = (np.concatenate([[math.nan], values]) for values in (self.best, self.test))
        return best[ended], test[ended]


def clock(search: Search) -> str:
    """Return what the seconds of a search are: those of its workers, or simulated where it trains nothing."""
    return "simulated time" if search.config["tasks"] is None else "worker time"


def curves(store: Store, searches: Sequence[Search]) -> list[Curve]:
    """Return the curve of each search, a point each trial.

    Trials that were stopped early or paused have the score of a smaller budget and are never the best, nor
    are those of further seeds; they cost what they took, like those that failed.
    """
    points: dict[int, list[_Point]] = {search.id: [] for search in searches}
    with store.read() as session:
        for some in _chunks([*points]):
            trials = select(Trial.search_id, *_COLUMNS).where(Trial.search_id.in_(some))
            ended = trials.where(Trial.observed.is_not(None)).order_by(Trial.search_id, Trial.observed)
            for row in session.execute(ended):
                points[row.search_id].append(_point(row))
        return [_curve(session, search, points[search.id]) for search in searches]


def outlines(store: Store, searches: Sequence[Search]) -> list[Curve]:
    """Return the curve of each search; of a long one the outline, whose trials are not read one by one."""
    ids = [search.id for search in searches]
    counts: dict[int, int] = {}
    last = select(func.max(Trial.observed)).where(Trial.search_id == Search.id).scalar_subquery()
    with store.read() as session:
        for some in _chunks(ids):
            rows = session.execute(select(Search.id, last).where(Search.id.in_(some)))
            counts.update((search, count or 0) for search, count in rows)
    short = [search for search in searches if counts.get(search.id, 0) <= LONG]
    found = dict(zip([search.id for search in short], curves(store, short), strict=True))
    return [found[search.id] if search.id in found else outline(store, search) for search in searches]


def outline(store: Store, search: Search, points: int = POINTS) -> Curve:
    """Return the curve of a search at `points` of its trials, and at all around those that change the best.

    The database sums up what lies between.
    """
    mine = Trial.search_id == search.id, Trial.observed.is_not(None)
    whole = Trial.state == TrialState.COMPLETED.value, Trial.repeat == 0
    with store.read() as session:
        count = session.scalar(select(func.max(Trial.observed)).where(*mine)) or 0
        place = (Trial.observed - 1) * points // count if count > points else Trial.observed
        sums = select(
            place.label("place"),
            func.count(),
            func.max(Trial.score).filter(*whole),
            func.sum(Trial.seconds),
            func.count().filter(Trial.state == TrialState.REUSED.value),
            func.count().filter(Trial.kind == TrialKind.SUPERNET.value),
        )
        blocks = session.execute(sums.where(*mine).group_by("place").order_by("place")).all()
        spans = list(pairwise(accumulate((size for _, size, *_ in blocks), initial=0)))
        top, better = math.nan, list[_Span]()
        for span, (_, _, score, *_) in zip(spans, blocks, strict=True):
            if score is not None and not score <= top:
                top = score
                better.append(span)
        read = _read(session, search, better)
        made: list[_Point] = []
        for span, (*_, seconds, reused, supernets) in zip(spans, blocks, strict=True):
            sums_up = _Point(span[1], None, None, seconds or 0.0, reused, supernet=supernets > 0)
            made += read.get(span, [sums_up])
        return _curve(session, search, made)


def read_at(store: Store, search: Search, curve: Curve, cost: float) -> Curve:
    """Return an outline with all trials around a cost, so that it tells how many had ended by then."""
    after = int(curve.ended(cost))
    if after == len(curve.cost):
        return curve
    span = int(curve.trials[after - 1]) if after else 0, int(curve.trials[after])
    if span[1] - span[0] == 1:
        return curve
    with store.read() as session:
        *points, _ = _read(session, search, [span])[span]
    begun = (float(curve.cost[after - 1]), int(curve.reused[after - 1])) if after else (0.0, 0)
    spent = begun[0] + np.cumsum([point.seconds for point in points])
    known = (curve.best[after - 1], curve.test[after - 1]) if after else (math.nan, math.nan)
    best, test = (np.full(len(points), value) for value in known)
    return replace(
        curve,
        cost=np.insert(curve.cost, after, np.minimum(spent, curve.cost[after])),
        best=np.insert(curve.best, after, best),
        test=np.insert(curve.test, after, test),
        trials=np.insert(curve.trials, after, [point.trials for point in points]),
        reused=np.insert(curve.reused, after, begun[1] + np.cumsum([point.reused for point in points])),
    )


class _Point(NamedTuple):
    """A trial, or several of which none changes the best score.

    Attributes:
        trials: place of the last of them among the search's outcomes.
        trial, score: id and score of a whole training under the first seed; else None.
        seconds, reused: of all of them.
        supernet: whether one of them trained a supernet.
    """

    trials: int
    trial: int | None
    score: float | None
    seconds: float
    reused: int
    supernet: bool


_COLUMNS = (
    *(Trial.observed, Trial.id, Trial.kind, Trial.state),
    *(Trial.score, Trial.seconds, Trial.repeat),
)


def _point(row: Row[*tuple[Any, ...]]) -> _Point:
    whole = row.state == TrialState.COMPLETED and row.repeat == 0
    return _Point(
        row.observed,
        row.id,
        row.score if whole else None,
        row.seconds or 0.0,
        int(row.state == TrialState.REUSED),
        row.kind == TrialKind.SUPERNET,
    )


_Span = tuple[int, int]
"""Places of trials: after the first, up to the second."""


def _read(session: Session, search: Search, spans: Sequence[_Span]) -> dict[_Span, list[_Point]]:
    """Return the trials in some spans, each one a point."""
    found: dict[_Span, list[_Point]] = {}
    for some in _chunks(spans):
        within = or_(*(Trial.observed.between(start + 1, end) for start, end in some))
        rows = session.execute(
            select(*_COLUMNS).where(Trial.search_id == search.id, within).order_by(Trial.observed)
        )
        points = iter([_point(row) for row in rows])
        found |= {(start, end): [next(points) for _ in range(end - start)] for start, end in some}
    return found


def _curve(session: Session, search: Search, points: Sequence[_Point]) -> Curve:
    best = np.fmax.accumulate([math.nan if point.score is None else point.score for point in points])
    leaders, leader, top = list[int](), -1, math.nan
    for point in points:
        if point.score is not None and point.trial is not None and not point.score <= top:
            leader, top = point.trial, point.score
        leaders.append(leader)
    tests: dict[int, float] = {}
    for some in _chunks(list(dict.fromkeys(leaders))):
        measured = select(Measurement.trial_id, Measurement.value).where(
            Measurement.trial_id.in_(some),
            Measurement.metric == TEST_SCORE,
        )
        rows = session.execute(measured.order_by(Measurement.step))
        tests.update((trial, value) for trial, value in rows if value is not None)
    return Curve(
        np.cumsum([point.seconds for point in points]),
        best,
        np.array([tests.get(leader, math.nan) for leader in leaders]),
        np.array([point.trials for point in points], np.int64),
        np.cumsum([point.reused for point in points], dtype=np.int64),
        exhausted=(
            search.state == SearchState.COMPLETED
            and search.config.get("max_seconds") is not None
            and _known(session, search) >= REPEATS
        ),
        supernet=any(point.supernet for point in points),
    )


def _known(session: Session, search: Search) -> int:
    """Return how many reused trials followed the last trained one."""
    mine = Trial.search_id == search.id, Trial.observed.is_not(None), Trial.kind != TrialKind.RACE.value
    last = select(Trial.state).where(*mine).order_by(Trial.observed.desc())
    count = 0
    for state in session.scalars(last.execution_options(yield_per=REPEATS)):
        if not repeats(1, state):
            break
        count = repeats(count, state)
    return count


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
