"""Searches as rows: in a list, and one in full with its trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import func, or_, select
from sqlalchemy.orm import load_only

from nas.costs import COSTS
from nas.errors import UnknownName
from nas.metrics import family
from nas.objective import SCORE, Objective
from nas.queries.answer import Answer, answer
from nas.queries.chosen import Texts
from nas.queries.leaderboard import NO_LEARNER
from nas.queries.trials import TrialRow, trial
from nas.states import SearchState, TrialState
from nas.storage.columns import now
from nas.storage.lease import COLUMNS, driven
from nas.storage.schema import Measurement, Search, Trial, TrialKind
from nas.storage.searches import INHERITED, Summary
from nas.storage.store import Store

if TYPE_CHECKING:
    from nas.settings.search import SearchConfig

UNFINISHED = (TrialState.RUNNING.value, TrialState.INTERRUPTED.value)
"""States of trials that have not ended."""


@dataclass(frozen=True, slots=True)
class SearchRow:
    """One search in a list.

    Attributes:
        search: its name.
        state: as `state` has it.
        learner: None where nothing is trained.
        done: how many trials ended; with `max_seconds` those that took over a score are none of them.
        trials: how many it is to have.
        failed: how many trials failed.
        best, ci95: the best score of a completed trial, with half of its 95 % interval over tasks.
        seconds: worker time of all trials.
        created_at: in UTC.
        sign_of_life: seconds since its driver's last one; None: nobody drives it.
        note: what its owner wrote about it.
    """

    search: str
    state: str
    controller: str
    space: str
    task: str
    learner: str | None
    seed: int
    done: int
    trials: int
    failed: int
    best: float | None
    ci95: float | None
    seconds: float
    created_at: datetime
    sign_of_life: float | None
    note: str | None


@dataclass(frozen=True, slots=True)
class InheritedRow:
    """What a search knew of an earlier one when it began.

    Attributes:
        search: name of the earlier search.
        task: its task in a few words.
        networks: how many of its networks had a score then.
    """

    search: str
    task: str
    networks: int


@dataclass(frozen=True, slots=True)
class SearchDetails:
    """One search in full.

    Attributes:
        search: its name.
        state: as `state` has it.
        task: in a few words.
        precision: what `auto` was where it began; None: it trains nothing.
        remarks: what is odd about the data.
        trials: how many it is to have.
        states: how many trials are in each state.
        created_at, finished_at: in UTC.
        note: what its owner wrote about it.
        objective: what it makes better.
        answer: what it recommends; None: it has no score, or makes several things better.
        front: numbers of the completed trials that no other matches in all of the objective and beats in one,
            by their mean scores over seeds; None: the objective is one thing, and has a best.
        inherited: what it knew of earlier searches when it began.
        config: the configuration, every default filled in.
        environment: versions of what ran it, the machine, and the data.
        trial_rows: in the order proposed.
    """

    search: str
    state: str
    task: str
    precision: str | None
    remarks: tuple[str, ...]
    trials: int
    states: dict[str, int]
    created_at: datetime
    finished_at: datetime | None
    note: str | None
    objective: tuple[str, ...]
    front: tuple[int, ...] | None
    answer: Answer | None
    inherited: tuple[InheritedRow, ...]
    config: dict[str, Any]
    environment: dict[str, Any]
    trial_rows: tuple[TrialRow, ...]


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One search that would run.

    Attributes:
        search: its name.
        trials: how many are to go, a supernet not counted.
        seconds: about how long they take, of simulated time where scores are looked up; None: none of the
            networks that were looked at is feasible.
    """

    search: str
    controller: str
    seed: int
    trials: int
    seconds: float | None


def planned(config: SearchConfig, trials: int, seconds: float | None) -> PlannedRow:
    """Return the row of a search that would run; see there for the arguments."""
    return PlannedRow(config.name or "", config.controller["name"], config.seed, trials, seconds)


def searches(store: Store, limit: int = 0) -> list[SearchRow]:
    """Return the searches, newest first, `limit` at most; 0: all."""
    return [_row(summary) for summary in store.searches(limit)]


def _row(summary: Summary) -> SearchRow:
    search = summary.search
    return SearchRow(
        search=search.name,
        state=state(search),
        controller=search.controller,
        space=search.space,
        task=search.task_label,
        learner=None if search.learner == NO_LEARNER else search.learner,
        seed=search.seed,
        done=_done(search, summary.trials),
        trials=_planned(search, summary.trials, supernet=summary.supernet),
        failed=summary.trials.get(TrialState.FAILED, 0),
        best=summary.best,
        ci95=summary.ci95,
        seconds=summary.seconds,
        created_at=search.created_at,
        sign_of_life=_sign_of_life(search),
        note=search.note,
    )


@dataclass(frozen=True, slots=True)
class SearchesQuery:
    """Which searches to list.

    Attributes:
        state: as `SearchRow` has it; None: any.
        space, controller, tasks: a plug-in's name; `tasks` may be a whole label too.
        text: that the name or the note contains.
        before: name of a search: only older ones are listed.
        limit: how many at most.

    Raises:
        UnknownName: there is no such state.
    """

    state: str | None = None
    space: str | None = None
    controller: str | None = None
    tasks: str | None = None
    text: str | None = None
    before: str | None = None
    limit: int = 50

    def __post_init__(self) -> None:
        states = [state.value for state in SearchState]
        if self.state is not None and self.state not in states:
            raise UnknownName("state", self.state, states)


def values(store: Store, *names: str) -> dict[str, list[str]]:
    """Return what searches have in columns that `SearchesQuery` asks for, or `learner`; tasks by label."""
    with store.read() as session:
        return {name: sorted(session.scalars(select(_TOLD[name]).distinct())) for name in names}


_TOLD = {
    "space": Search.space,
    "controller": Search.controller,
    "tasks": Search.task_label,
    "learner": Search.learner,
}
"""Columns by what is asked for."""


@dataclass(frozen=True, slots=True)
class SearchesPage:
    """Some searches of a list.

    Attributes:
        rows: newest first.
        total: how many searches match, on all pages.
        more: whether older ones match.
    """

    rows: tuple[SearchRow, ...]
    total: int
    more: bool


def page(store: Store, query: SearchesQuery) -> SearchesPage:
    """Return the searches that match, newest first; of the others not a trial is read."""
    where = [
        column == wanted
        for column, wanted in ((Search.space, query.space), (Search.controller, query.controller))
        if wanted is not None
    ]
    if query.tasks is not None:
        where.append(or_(Search.tasks == query.tasks, Search.task_label == query.tasks))
    if query.text is not None:
        contains = (column.icontains(query.text, autoescape=True) for column in (Search.name, Search.note))
        where.append(or_(*contains))
    leased = (Search.name, Search.state, *(getattr(Search, column) for column in COLUMNS))
    with store.read() as session:
        light = select(Search).options(load_only(Search.id, *leased)).where(*where).order_by(Search.id.desc())
        found = session.scalars(light).all()
        cut = query.before and session.scalar(select(Search.id).where(Search.name == query.before))
    matching = [row.id for row in found if query.state in (None, state(row))]
    rest = [number for number in matching if not cut or number < cut]
    rows = store.searches(only=rest[: query.limit])
    return SearchesPage(tuple(map(_row, rows)), len(matching), len(rest) > query.limit)


@dataclass(frozen=True, slots=True)
class SearchFacts:
    """One search without its trials.

    Attributes:
        row: as in a list.
        states: how many trials are in each state; those of a race are not counted.
        supernet: whether one trains a supernet.
        stop_requested: whether its driver is asked to stop.
        finished_at: in UTC; None: it runs.
        left: about how many seconds it still takes, by its last trials; None: nobody can tell.
        inherited: what it knew of earlier searches when it began.
        objective: what it makes better.
        costs: which of `COSTS` its best trials have.
        supernet_metrics: what its supernets measured, by name; `alpha` stands for every weight of α.
        precision: what `auto` was where it began; None: it trains nothing.
        remarks: what is odd about the data.
        config: the configuration, every default filled in.
        environment: versions of what ran it, the machine, and the data.
    """

    row: SearchRow
    states: dict[str, int]
    supernet: bool
    stop_requested: bool
    finished_at: datetime | None
    left: float | None
    inherited: tuple[InheritedRow, ...]
    objective: tuple[str, ...]
    costs: tuple[str, ...]
    supernet_metrics: frozenset[str]
    precision: str | None
    remarks: tuple[str, ...]
    config: dict[str, Any]
    environment: dict[str, Any]


def facts(store: Store, search: Search) -> SearchFacts:
    """Return what is to be said of a search; its trials are counted, not read."""
    [summary] = store.searches(only=[search.id])
    row, found = _row(summary), summary.search
    return SearchFacts(
        row=row,
        states=dict(sorted(summary.trials.items())),
        supernet=summary.supernet,
        stop_requested=found.stop_requested,
        finished_at=found.finished_at,
        left=_left(store, found, row.trials - row.done) if row.state == SearchState.RUNNING else None,
        inherited=_inherited(found),
        objective=_objective(found).goals,
        costs=_costs(store, found),
        supernet_metrics=_metrics(store, found) if summary.supernet else frozenset(),
        precision=found.environment.get("precision"),
        remarks=tuple(found.environment.get("remarks", ())),
        config=found.config,
        environment=found.environment,
    )


def _costs(store: Store, search: Search) -> tuple[str, ...]:
    """Return the costs that some of the best trials have; who counts costs counts them of every network."""
    whole = Trial.state == TrialState.COMPLETED.value, Trial.score.is_not(None)
    best = select(*(getattr(Trial, name) for name in COSTS)).where(Trial.search_id == search.id, *whole)
    with store.read() as session:
        rows = session.execute(best.order_by(Trial.score.desc()).limit(RECENT)).all()
    return tuple(name for place, name in enumerate(COSTS) if any(row[place] is not None for row in rows))


def _metrics(store: Store, search: Search) -> frozenset[str]:
    """Return what the supernets of a search measured."""
    mine = Trial.search_id == search.id, Trial.kind == TrialKind.SUPERNET.value
    measured = select(Measurement.metric).join(Trial, Trial.id == Measurement.trial_id).where(*mine)
    with store.read() as session:
        return frozenset(family(name) for name in session.scalars(measured.distinct()))


def version(store: Store, search: Search) -> tuple[Any, ...]:
    """Return what is another value whenever something of a search changes but its sign of life.

    It takes three look-ups in indices, however many trials there are.
    """
    mine = Trial.search_id == search.id
    running = select(func.count()).where(mine, Trial.state == TrialState.RUNNING.value)
    asked = (select(func.max(column)).where(mine) for column in (Trial.observed, Trial.number))
    with store.read() as session:
        counted = [session.scalar(query) for query in (*asked, running)]
    kept = search.id, search.name, state(search), search.finished_at, search.trials, search.note
    return (*kept, search.stop_requested, *counted)


RECENT = 60
"""How many of the last trials tell how long the rest takes."""

PAUSE = 10
"""A gap so many times the median of all is no trial's, but an interruption."""


def _left(store: Store, search: Search, trials: int) -> float | None:
    """Return about how many seconds so many further trials take, by when the last ones ended."""
    if search.config.get("tasks") is None or search.config.get("max_seconds") is not None:
        return None
    last = (
        select(Trial.finished_at)
        .where(Trial.search_id == search.id, Trial.observed.is_not(None))
        .order_by(Trial.observed.desc())
        .limit(RECENT)
    )
    with store.read() as session:
        ended = [moment for moment in session.scalars(last) if moment is not None]
    gaps = sorted((late - early).total_seconds() for late, early in pairwise(ended))
    if not gaps:
        return None
    usual = [gap for gap in gaps if gap <= PAUSE * median(gaps)]
    return max(trials, 0) * fmean(usual)


def details(store: Store, reference: str) -> SearchDetails:
    """Return a search that is named, or meant by a unique prefix or `@last`.

    Raises:
        NotFound: no such search.
        ConfigError: several searches have the prefix.
    """
    row = store.search(reference)
    texts = Texts(row.config.get("slots"))
    rows = tuple(trial(found, texts) for found in store.trials(row.id))
    states = Counter(found.state for found in rows if found.kind != TrialKind.RACE)
    objective = _objective(row)
    return SearchDetails(
        search=row.name,
        state=state(row),
        task=row.task_label,
        precision=row.environment.get("precision"),
        remarks=tuple(row.environment.get("remarks", ())),
        trials=_planned(row, states, supernet=any(found.kind == TrialKind.SUPERNET for found in rows)),
        states=dict(sorted(states.items())),
        created_at=row.created_at,
        finished_at=row.finished_at,
        note=row.note,
        objective=objective.goals,
        answer=answer(store, row.name),
        front=_front(objective, rows) if objective.several else None,
        inherited=_inherited(row),
        config=row.config,
        environment=row.environment,
        trial_rows=rows,
    )


def _objective(row: Search) -> Objective:
    return Objective(tuple(row.config.get("objective") or Objective().goals))


def _inherited(row: Search) -> tuple[InheritedRow, ...]:
    return tuple(InheritedRow(**found) for found in row.environment.get(INHERITED, {}).get("searches", ()))


def _front(objective: Objective, rows: Sequence[TrialRow]) -> tuple[int, ...]:
    scores: dict[str | None, list[float]] = {}
    completed = [row for row in rows if row.state == TrialState.COMPLETED and row.score is not None]
    for row in completed:
        scores.setdefault(row.architecture, []).append(cast("float", row.score))
    first = [row for row in completed if row.repeat == 0]
    values = [asdict(row) | {SCORE: fmean(scores[row.architecture])} for row in first]
    return tuple(first[i].trial for i in objective.front(values))


def state(row: Search) -> str:
    """Return a search's state; one whose driver died without a word is interrupted."""
    died = row.state == SearchState.RUNNING and not driven(row)
    return SearchState.INTERRUPTED.value if died else row.state


def _sign_of_life(row: Search) -> float | None:
    if row.heartbeat_at is None or state(row) != SearchState.RUNNING:
        return None
    return max((now() - row.heartbeat_at).total_seconds(), 0.0)


def _done(row: Search, trials: Mapping[str, int]) -> int:
    rest = (*UNFINISHED, TrialState.REUSED) if row.config.get("max_seconds") is not None else UNFINISHED
    return sum(count for ended, count in trials.items() if ended not in rest)


def _planned(row: Search, trials: Mapping[str, int], *, supernet: bool) -> int:
    """Return how many trials a search is to have; a supernet decides itself how many it derives."""
    ended = supernet and row.state == SearchState.COMPLETED
    return sum(trials.values()) if ended else row.trials
