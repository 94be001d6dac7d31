"""Questions to the database: which trials are best, across searches."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from statistics import fmean
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from nas.costs import COSTS, OWN
from nas.errors import ConfigError, NotFound, UnknownName, nearest
from nas.intervals import half_width_over_seeds
from nas.objective import Objective
from nas.plugins import installed
from nas.queries import chosen
from nas.states import TrialState
from nas.storage.front import FIELDS, front
from nas.storage.schema import FURTHER_SEED, Architecture, Evaluation, Search, Trial
from nas.storage.store import Store

TEST_SORTS = ("seeds", "test_score", "ci95_seeds", "ci95_episodes", "validation_score")
"""Columns that evaluations alone have."""


@dataclass(frozen=True, slots=True)
class Query:
    """What to rank.

    Attributes:
        searches: names, prefixes or `@last`; empty for all.
        space, controller, tasks, learner: a plugin's name; `tasks` may be a whole label too.
        limits: by cost, inclusive; rows whose cost is unknown are left out.
        states: of the trials.
        sort: a column: scores from high to low, all else from low to high. Trials without a score or a cost
            that is asked for have no rank.
        limit: how many rows, 0 for all.
        pareto: fields of the front: only trials remain that no other trial matches in all of them and beats
            in one. Scores are means over seeds.
        where: settings that a search chose along with the network, and their values: `learner.lr=0.01`.
        by: such a setting: of each of its values only the first row remains.

    Raises:
        UnknownName: no such column, field or state.
        ConfigError: a negative limit, or a condition without a value.
    """

    searches: tuple[str, ...] = ()
    space: str | None = None
    controller: str | None = None
    tasks: str | None = None
    learner: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    states: tuple[str, ...] = (TrialState.COMPLETED.value,)
    sort: str = "score"
    limit: int = 20
    pareto: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    by: str | None = None

    @property
    def conditions(self) -> list[tuple[str, str]]:
        """The settings in `where`, and their values as text."""
        return [chosen.condition(text) for text in self.where]

    @property
    def paths(self) -> list[str]:
        """The settings that a search must have chosen for its trials to be asked for."""
        return [*(path for path, _ in self.conditions), *([] if self.by is None else [self.by])]

    def __post_init__(self) -> None:
        for option, given, allowed in (
            ("cost in limits", self.limits, COSTS),
            ("column in sort", (self.sort,), (*SORTS, *TEST_SORTS)),
            ("field in pareto", self.pareto, FIELDS),
            ("state", self.states, [state.value for state in TrialState]),
        ):
            for name in given:
                if name not in allowed:
                    raise UnknownName(option, name, allowed)
        if self.limit < 0:
            raise ConfigError(f"limit: {self.limit} rows; allowed: 0 (all) or more.")
        _ = self.conditions


@dataclass(frozen=True, slots=True)
class LeaderboardRow:
    """One ranked trial.

    Attributes:
        rank: from 1.
        search, trial: name of the search, and number of the trial in it.
        tasks, task: name of the task source, and the tasks in a few words.
        learner: None: the score was looked up.
        normalization: how batch norm found its statistics; None: it is not known.
        seeds: how many trainings are behind the score.
        score: on validation tasks, the mean over seeds; higher is better.
        ci95: half of its 95 % interval over tasks, under the first seed.
        ci95_seeds: half of its 95 % interval over seeds, Student's t; None: there is one seed.
        parameters, macs, activations: the backbone's cost; see `nas.backbone.Cost`.
        latency, latency_batch: seconds of its forward pass, of one example and of a batch; None: unknown.
        episodes, train_episodes: behind the score, and of training.
        parent: number of the trial that the training went on from; None: it began anew.
        seconds: worker time.
        architecture, key: text and canonical key.
        settings: hash of what scores depend on besides network and seed, for searches of one machine's
            precision.
        protocol: the same for every machine, with the precision in force and the data: equal means
            comparable.
        unit: what a table calls a score that was looked up, in simulated seconds; None: it was trained for.
        space_settings: of the search space: the same architecture is another network under other ones.
        chosen: settings that the search chose along with the network, by their path.
    """

    rank: int
    search: str
    trial: int
    controller: str
    space: str
    tasks: str
    task: str
    learner: str | None
    normalization: str | None
    seeds: int
    score: float
    ci95: float | None
    ci95_seeds: float | None
    parameters: int | None
    macs: int | None
    activations: int | None
    latency: float | None
    latency_batch: float | None
    episodes: int
    train_episodes: int
    parent: int | None
    seconds: float
    architecture: str
    key: str
    state: str
    settings: str
    protocol: str
    unit: str | None
    space_settings: dict[str, Any]
    chosen: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """Trials whose scores compare.

    Attributes:
        example: one of their searches: tasks, learner, budget and precision are those of all.
        rows: ranked from 1.
    """

    example: Search
    rows: list[LeaderboardRow]


SHORTER = {TrialState.STOPPED.value, TrialState.PAUSED.value, TrialState.REUSED.value}
"""The states of trials of unequal lengths: a longer training ranks before a shorter."""

NO_LEARNER = "none"
"""The learner of a search that trains nothing."""

_COLUMNS: dict[str, ColumnElement[Any] | InstrumentedAttribute[Any]] = {
    "search": Search.name,
    "trial": Trial.number,
    "controller": Search.controller,
    "space": Search.space,
    "tasks": Search.tasks,
    "task": Search.task_label,
    "learner": func.nullif(Search.learner, NO_LEARNER),
    "normalization": func.nullif(Trial.normalization, ""),
    "score": Trial.score,
    "ci95": Trial.ci95,
    **{name: FIELDS[name] for name in OWN},
    "episodes": Trial.episodes,
    "train_episodes": Trial.train_episodes,
    "parent": Trial.parent,
    "seconds": Trial.seconds,
    "architecture": Trial.architecture,
    "key": Architecture.key,
    "state": Trial.state,
    "settings": Search.settings,
}


SORTS = ("rank", *_COLUMNS)
"""Columns that trials have."""


def leaderboard(store: Store, query: Query) -> list[LeaderboardRow]:
    """Return the trials that a query asks for, ranked from 1, whether their scores compare or not.

    Those of equal `protocol` compare; `sections` ranks them apart.

    A score is the mean over the seeds that a search gave an architecture. Equal scores rank by parameters,
    equal costs by score, then the older trial first. Of trials of unequal lengths the longer ones are first.

    Raises:
        NotFound: no such search.
        ConfigError: a prefix that several searches have, or a column of evaluations to sort by.
    """
    _refuse(query)
    searches = [store.search(reference).id for reference in query.searches]
    with store.read() as session:
        return _board(session, query, _where(query, searches))


def sections(store: Store, query: Query) -> list[Section]:
    """Return the trials that a query asks for, ranked among those whose scores compare, the newest first.

    A query's limit and front are those of each section.

    Raises:
        NotFound: no such search, or a name in the query that is none.
        ConfigError: a prefix that several searches have, or a column of evaluations to sort by.
    """
    _refuse(query)
    searches = [store.search(reference).id for reference in query.searches]
    with store.read() as session:
        for what, given, column in (
            ("space", query.space, Search.space),
            ("controller", query.controller, Search.controller),
            ("learner", query.learner, Search.learner),
        ):
            check_name(what, given, session.scalars(select(column).distinct()))
        labels = session.execute(select(Search.tasks, Search.task_label).distinct())
        check_name("tasks", query.tasks, (name for both in labels for name in both))
        if query.paths:
            slots = (config.get("slots") or {} for config in session.scalars(select(Search.config)))
            known = (pair for some in slots for pair in chosen.settings(some).items())
            chosen.check(query.conditions, query.by, known)
        where = _where(query, searches)
        tried = select(Trial.search_id).where(*where)
        comparable: dict[str, list[Search]] = {}
        for search in session.scalars(select(Search).where(Search.id.in_(tried)).order_by(Search.id.desc())):
            comparable.setdefault(protocol_of(search), []).append(search)
        found = [
            Section(some[0], _board(session, query, _of(where, [search.id for search in some])))
            for some in comparable.values()
        ]
        return [section for section in found if section.rows]


def check_name(what: str, given: str | None, known: Iterable[str]) -> None:
    """Refuse a filter that nothing matches and no plugin is called.

    Args:
        what: the kind of plugin.
        given: the filter; None: there is none.
        known: names that rows have.

    Raises:
        NotFound: there is no such name.
    """
    if given is None or given in installed(what):
        return
    names = {*known} - {NO_LEARNER}
    if given not in (*names, NO_LEARNER):
        listed = ", ".join(sorted(names)) or "none yet"
        raise NotFound(
            f"No {what} '{given}'.{nearest(given, {*names, *installed(what)})} There are: {listed}."
        )


def _refuse(query: Query) -> None:
    if query.sort not in SORTS:
        raise ConfigError(f"sort: '{query.sort}' is a column of evaluations: add --stage test.")


def protocol_of(search: Search) -> str:
    """Return what scores depend on besides network and seed, with what `auto` was where the search began."""
    known = search.environment
    parts = [search.settings, known.get("precision"), known.get("classes")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def unit(row: Search | Evaluation) -> str | None:
    """Return what a table calls the scores that a search looks up; None: they are trained for."""
    if row.config["tasks"] is not None:
        return None
    evaluator = row.config["evaluator"]
    return str(evaluator.get("metric", evaluator["name"]))


def _board(session: Session, query: Query, where: Sequence[ColumnElement[bool]]) -> list[LeaderboardRow]:
    if query.paths:
        where = _of(where, _matching(session, query, where), Trial.id)
    further = _further(session, where)
    if query.pareto and not further:
        where = _of(where, front(session, query.pareto, where), Trial.id)
    if query.by is None and not further:
        return _ranked(session, query, where)
    every = _ranked(session, replace(query, limit=0), where)
    every = [_over_seeds(row, further.get((row.search, row.architecture), [])) for row in every]
    if query.pareto and further:
        aim = Objective(tuple(dict.fromkeys(query.pareto)))
        every = [
            every[i] for i in aim.front([{goal: getattr(row, goal) for goal in aim.goals} for row in every])
        ]
    if query.sort in ("score", "rank"):
        every.sort(key=partial(_place, unequal=not SHORTER.isdisjoint(query.states)))
    else:
        of_equal = groupby(every, key=attrgetter(query.sort))
        every = [row for _, rows in of_equal for row in sorted(rows, key=lambda row: -row.score)]
    if query.by is None:
        return [replace(row, rank=rank) for rank, row in enumerate(every[: query.limit or None], start=1)]
    best = chosen.best_of_each([(row, row.chosen) for row in every], query.by)[: query.limit or None]
    return [replace(row, rank=rank) for rank, row in enumerate(best, start=1)]


def _place(row: LeaderboardRow, *, unequal: bool) -> tuple[float, ...]:
    """Return what rows sort by, where lengths of training are unequal or not."""
    size = math.inf if row.parameters is None else row.parameters
    return (-row.train_episodes if unequal else 0, -row.score, size)


def _further(session: Session, where: Sequence[ColumnElement[bool]]) -> dict[tuple[str, str], list[float]]:
    """Return the scores under further seeds in the searches of these trials, by search and architecture."""
    query = (
        select(Search.name, Trial.architecture, Trial.score)
        .join(Search, Search.id == Trial.search_id)
        .where(FURTHER_SEED, Trial.state == TrialState.COMPLETED.value, Trial.score.is_not(None))
        .where(Trial.search_id.in_(select(Trial.search_id).where(*where)))
    )
    found: dict[tuple[str, str], list[float]] = {}
    if session.scalar(select(Trial.id).where(FURTHER_SEED).limit(1)) is not None:
        for search, architecture, score in session.execute(query):
            assert score is not None  # by the query
            assert architecture is not None
            found.setdefault((search, architecture), []).append(score)
    return found


def _over_seeds(row: LeaderboardRow, further: Sequence[float]) -> LeaderboardRow:
    """Return a row with the mean of its score and those of further seeds, if all are of whole trainings."""
    if row.state != TrialState.COMPLETED:
        return row
    scores = [row.score, *further]
    return replace(row, score=fmean(scores), seeds=len(scores), ci95_seeds=half_width_over_seeds(scores))


def _matching(session: Session, query: Query, where: Sequence[ColumnElement[bool]]) -> list[int]:
    """Return the ids of the trials that chose what is asked for."""
    found = []
    configs = session.execute(select(Search.id, Search.config))
    texts = {search: chosen.Texts(config["slots"]) for search, config in configs if config.get("slots")}
    rows = select(Trial.id, Trial.search_id, Trial.architecture).where(*where)
    for number, search, text in session.execute(rows.where(*_of((), list(texts)))):
        of_trial = texts[search].chosen(text)
        if of_trial.keys() >= {*query.paths} and chosen.meets(of_trial, query.conditions):
            found.append(number)
    return found


def _of(
    where: Sequence[ColumnElement[bool]],
    ids: Sequence[int],
    column: InstrumentedAttribute[int] = Trial.search_id,
) -> list[ColumnElement[bool]]:
    # Written into the statement, whose number of parameters is limited.
    return [*where, column.in_(bindparam("ids", ids, expanding=True, literal_execute=True, unique=True))]


def _where(query: Query, searches: Sequence[int]) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = [
        Trial.state.in_(query.states),
        Trial.score.is_not(None),
        Trial.repeat == 0,
    ]
    if query.sort in FIELDS:
        where.append(FIELDS[query.sort].is_not(None))
    where += [FIELDS[name] <= limit for name, limit in query.limits.items()]
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


def _order(field: str, states: Sequence[str]) -> list[ColumnElement[Any]]:
    by_score, by_size = Trial.score.desc(), Trial.parameters.asc().nulls_last()
    first: list[ColumnElement[Any]] = [by_score, by_size]
    if {*states} & SHORTER:
        first.insert(0, Trial.train_episodes.desc())
    if field not in ("score", "rank"):
        column = _COLUMNS[field].asc()
        first = [column if field in FIELDS else column.nulls_last(), by_score]
    return [*first, Trial.id.asc()]


def _ranked(session: Session, query: Query, where: Sequence[ColumnElement[bool]]) -> list[LeaderboardRow]:
    # The inner query finds the rows in an index; the outer one reads no more of the tables than it shows.
    found = select(Trial.id).where(*where)
    if query.sort not in (*FIELDS, "rank"):
        found = found.join(Search, Search.id == Trial.search_id)
        found = found.join(Architecture, Architecture.id == Trial.architecture_id)
    best = found.order_by(*_order(query.sort, query.states)).limit(query.limit or None).subquery()
    rows = session.execute(
        select(Trial.search_id, *(column.label(name) for name, column in _COLUMNS.items()))
        .select_from(best)
        .join(Trial, Trial.id == best.c.id)
        .join(Search, Search.id == Trial.search_id)
        .join(Architecture, Architecture.id == Trial.architecture_id)
        .order_by(*_order(query.sort, query.states))
    ).all()
    ids = {row.search_id for row in rows}
    kept = session.scalars(select(Search).where(*_of((), list(ids), Search.id))).all()
    of_search: dict[int, dict[str, Any]] = {
        search.id: {
            "protocol": protocol_of(search),
            "unit": unit(search),
            "space_settings": {key: value for key, value in search.config["space"].items() if key != "name"},
        }
        for search in kept
    }
    texts = {search.id: chosen.Texts(search.config.get("slots")) for search in kept}
    ranked = []
    for rank, row in enumerate(rows, start=1):
        values = dict(row._mapping)
        number = values.pop("search_id")
        of_its_search, own = of_search[number], texts[number].chosen(row.architecture)
        if of_its_search["unit"] is not None:  # searches from before had an interval of 0
            values["ci95"] = None
        ranked.append(LeaderboardRow(rank, **of_its_search, **values, seeds=1, ci95_seeds=None, chosen=own))
    return ranked
