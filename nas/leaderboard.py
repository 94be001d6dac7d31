"""Questions to the database: which trials are best, across searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, bindparam, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from nas.errors import ConfigError, UnknownName
from nas.storage.front import FIELDS, front
from nas.storage.schema import Architecture, Search, Trial, TrialState
from nas.storage.store import Store

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Query:
    """What to rank.

    Attributes:
        searches: names, prefixes or `@last`; empty for all.
        space, controller, tasks, learner: a plugin's name; `tasks` may be a whole label too.
        max_parameters, max_macs: inclusive; trials whose cost is unknown are left out.
        states: of the trials.
        sort: a field: the score from high to low, a cost from low to high. Trials without it have no rank.
        limit: how many rows, 0 for all.
        pareto: fields of the front: only trials remain that no other trial matches in all of them and beats
            in one.

    Raises:
        UnknownName: no such field or state.
        ConfigError: a negative limit.
    """

    searches: tuple[str, ...] = ()
    space: str | None = None
    controller: str | None = None
    tasks: str | None = None
    learner: str | None = None
    max_parameters: int | None = None
    max_macs: int | None = None
    states: tuple[str, ...] = (TrialState.COMPLETED.value,)
    sort: str = "score"
    limit: int = 20
    pareto: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option, given, allowed in (
            ("field in sort", (self.sort,), FIELDS),
            ("field in pareto", self.pareto, FIELDS),
            ("state", self.states, [state.value for state in TrialState]),
        ):
            for name in given:
                if name not in allowed:
                    raise UnknownName(option, name, allowed)
        if self.limit < 0:
            raise ConfigError(f"limit: {self.limit} rows; allowed: 0 (all) or more.")


@dataclass(frozen=True, slots=True)
class Row:
    """One ranked trial."""

    rank: int
    search: str
    trial: int
    controller: str
    space: str
    tasks: str
    task: str
    learner: str
    normalization: str | None
    score: float
    ci95: float | None
    parameters: int | None
    macs: int | None
    episodes: int
    train_episodes: int
    seconds: float
    architecture: str
    key: str
    state: str
    settings: str
    """Hash of what scores depend on besides network and seed: equal means comparable."""


_COLUMNS: dict[str, InstrumentedAttribute[Any]] = {
    "search": Search.name,
    "trial": Trial.number,
    "controller": Search.controller,
    "space": Search.space,
    "tasks": Search.tasks,
    "task": Search.task_label,
    "learner": Search.learner,
    "normalization": Trial.normalization,
    "score": Trial.score,
    "ci95": Trial.ci95,
    "parameters": Trial.parameters,
    "macs": Trial.macs,
    "episodes": Trial.episodes,
    "train_episodes": Trial.train_episodes,
    "seconds": Trial.seconds,
    "architecture": Trial.architecture,
    "key": Architecture.key,
    "state": Trial.state,
    "settings": Search.settings,
}


def leaderboard(store: Store, query: Query) -> list[Row]:
    """Return the trials that a query asks for, ranked from 1.

    Equal scores rank by parameters, equal costs by score, then the older trial first.

    Raises:
        NotFound: no such search.
        ConfigError: a prefix that several searches have.
    """
    searches = [store.search(reference).id for reference in query.searches]
    where = _where(query, searches)
    with store.read() as session:
        if query.pareto:
            ids = front(session, query.pareto, where)
            # Written into the statement, whose number of parameters is limited.
            where = [Trial.id.in_(bindparam("ids", ids, expanding=True, literal_execute=True))]
        return _ranked(session, query, where)


def to_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return rows as a pandas data frame, one column a field."""
    import pandas as pd

    return pd.DataFrame([asdict(row) for row in rows], columns=list(Row.__dataclass_fields__))


def _where(query: Query, searches: Sequence[int]) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = [
        Trial.state.in_(query.states),
        Trial.score.is_not(None),
        FIELDS[query.sort].is_not(None),
    ]
    if query.max_parameters is not None:
        where.append(Trial.parameters <= query.max_parameters)
    if query.max_macs is not None:
        where.append(Trial.macs <= query.max_macs)
    if searches:
        where.append(Trial.search_id.in_(searches))
    of: list[ColumnElement[bool]] = [
        column == wanted
        for column, wanted in (
            (Search.space, query.space),
            (Search.controller, query.controller),
            (Search.learner, query.learner),
        )
        if wanted is not None
    ]
    if query.tasks is not None:
        of.append(or_(Search.tasks == query.tasks, Search.task_label == query.tasks))
    if of:
        where.append(Trial.search_id.in_(select(Search.id).where(*of)))
    return where


def _order(field: str) -> list[ColumnElement[Any]]:
    by_score, by_size = Trial.score.desc(), Trial.parameters.asc().nulls_last()
    first = [by_score, by_size] if field == "score" else [FIELDS[field].asc(), by_score]
    return [*first, Trial.id]


def _ranked(session: Session, query: Query, where: Sequence[ColumnElement[bool]]) -> list[Row]:
    # The inner query finds the rows in an index; the outer one reads no more of the tables than it shows.
    best = select(Trial.id).where(*where).order_by(*_order(query.sort)).limit(query.limit or None).subquery()
    rows = session.execute(
        select(*(column.label(name) for name, column in _COLUMNS.items()))
        .select_from(best)
        .join(Trial, Trial.id == best.c.id)
        .join(Search, Search.id == Trial.search_id)
        .join(Architecture, Architecture.id == Trial.architecture_id)
        .order_by(*_order(query.sort))
    )
    return [Row(rank, **row) for rank, row in enumerate(rows.mappings(), start=1)]
