"""The leaderboard of test scores: architectures ranked over the evaluations of every search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from sqlalchemy import ColumnElement, or_, select

from nas.errors import ConfigError
from nas.objective import GOALS, SCORE
from nas.pareto import nondominated
from nas.queries.chosen import best_of_each, check, meets
from nas.queries.leaderboard import TEST_SORTS, Query, check_name
from nas.queries.results import Result, chosen_by, cost, summarize
from nas.states import EvaluationState, TrialState
from nas.storage import names
from nas.storage.schema import Evaluation
from nas.storage.store import Store

Group = list[Evaluation]
"""The completed evaluations of one architecture under one settings."""

SORTS = ("space", "tasks", "task", "learner", "normalization", "search", "trial", *TEST_SORTS, *GOALS)
"""Columns to rank by."""

HIGH = ("test_score", "validation_score")
"""Those of which more is better."""


@dataclass(frozen=True, slots=True)
class Ranked(Result):
    """A result and its rank, from 1."""

    rank: int


def rank(store: Store, query: Query) -> list[Ranked]:
    """Return what a query asks for, the best first: one result an architecture and settings.

    Scores that do not compare are ranked in one list all the same; `sections` tells them apart.
    Searches are those that proposed the architectures; a deleted one keeps its name. Scores rank by their
    mean over training seeds. Equal scores rank by parameters, equal costs by score, then the older first.

    Raises:
        NotFound: no such search.
        ConfigError: a prefix that several searches have, or a question that only trials can answer.
    """
    _refuse(query)
    return _ranked(store, query, _groups(store, _where(store, query)))


def sections(store: Store, query: Query) -> list[tuple[Evaluation, list[Ranked]]]:
    """Return what a query asks for, ranked among results of one protocol, the newest protocol first.

    Each has one of its evaluations as an example. A query's limit and front are those of each protocol.

    Raises:
        NotFound: no such search, or a name in the query that is none.
        ConfigError: a prefix that several searches have, or a question that only trials can answer.
    """
    _refuse(query)
    with store.read() as session:
        for what, given, column in (
            ("space", query.space, Evaluation.space),
            ("learner", query.learner, Evaluation.learner),
        ):
            check_name(what, given, session.scalars(select(column).distinct()))
        labels = session.execute(select(Evaluation.tasks, Evaluation.task_label).distinct())
        check_name("tasks", query.tasks, (name for both in labels for name in both))
        if query.paths:
            rows = session.scalars(select(Evaluation).where(Evaluation.state == EvaluationState.COMPLETED))
            values = ((path, [value]) for row in rows for path, value in chosen_by(row).items())
            check(query.conditions, query.by, values)
    by_protocol: dict[str, list[Group]] = {}
    for group in _groups(store, _where(store, query)):
        by_protocol.setdefault(group[0].protocol, []).append(group)
    newest = sorted(by_protocol.values(), key=lambda groups: -max(row.id for row in groups[-1]))
    found = [(groups[0][0], _ranked(store, query, groups)) for groups in newest]
    return [(example, rows) for example, rows in found if rows]


def _refuse(query: Query) -> None:
    if query.controller is not None or query.states != (TrialState.COMPLETED.value,):
        raise ConfigError("--controller and --state choose among trials: not with --stage test.")
    if query.sort not in (*SORTS, "rank"):
        raise ConfigError(f"sort: '{query.sort}' is a column of trials: not with --stage test.")


def _ranked(store: Store, query: Query, groups: Sequence[Group]) -> list[Ranked]:
    found = _sorted(store, query, groups)
    return [Ranked(rank=place, **asdict(result)) for place, result in enumerate(found, start=1)]


def _sorted(store: Store, query: Query, groups: Sequence[Group]) -> list[Result]:
    groups = [group for group in groups if _within(group, query.limits)]
    if query.paths:
        groups = [group for group in groups if _asked_for(query, chosen_by(group[0]))]
    if query.by is not None:
        every = _sorted(store, replace(query, by=None, where=(), limits={}, limit=0), groups)
        rows = [(result, result.chosen) for result in every]
        return best_of_each(rows, query.by)[: query.limit or None]
    if query.pareto:
        groups = _front(groups, query.pareto)
    sort = "score" if query.sort in ("rank", "test_score") else query.sort
    second = "parameters" if sort == "score" else "score"
    if sort in GOALS:
        ranked = [(place, group) for group in groups if (place := _goal(group, sort)) is not None]
        ranked.sort(key=lambda pair: (pair[0], _place(_goal(pair[1], second), high=False), pair[1][0].id))
        found = (summarize(store, group) for _, group in ranked[: query.limit or None])
        return [result for result in found if result is not None]
    results = [result for result in (summarize(store, group) for group in groups) if result is not None]
    results.sort(key=lambda result: (*_place(getattr(result, sort), high=sort in HIGH), -result.test_score))
    return results[: query.limit or None]


def _asked_for(query: Query, chosen: Mapping[str, Any]) -> bool:
    return chosen.keys() >= {*query.paths} and meets(chosen, query.conditions)


def _place(value: Any, *, high: bool) -> tuple[bool, Any]:
    """Return what sorts a value, those that are missing last."""
    return value is None, 0 if value is None else -value if high else value


def _where(store: Store, query: Query) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = [Evaluation.state == EvaluationState.COMPLETED.value]
    if query.searches:
        where.append(Evaluation.origin_search.in_(_searches(store, query.searches)))
    if query.space is not None:
        where.append(Evaluation.space == query.space)
    if query.learner is not None:
        where.append(Evaluation.learner == query.learner)
    if query.tasks is not None:
        where.append(or_(Evaluation.tasks == query.tasks, Evaluation.task_label == query.tasks))
    return where


def _searches(store: Store, references: Sequence[str]) -> list[str]:
    with store.read() as session:
        gone = session.scalars(select(Evaluation.origin_search).distinct()).all()
    known = {summary.search.name for summary in store.searches()} | {name for name in gone if name}
    return [
        store.search(reference).name if reference == "@last" else names.match(reference, known)
        for reference in references
    ]


def _groups(store: Store, where: Sequence[ColumnElement[bool]]) -> list[Group]:
    groups: dict[tuple[int, str], Group] = {}
    with store.read() as session:
        for row in session.scalars(select(Evaluation).where(*where).order_by(Evaluation.id)):
            groups.setdefault((row.architecture_id, row.settings), []).append(row)
    return list(groups.values())


def _goal(group: Group, name: str) -> float | None:
    """Return the score or a cost of a group such that less is better; None: it is not known."""
    return -fmean(row.test_score or 0.0 for row in group) if name == SCORE else cost(group, name)


def _within(group: Group, limits: Mapping[str, float]) -> bool:
    """Return whether all costs that have a limit are known, and none is beyond it."""
    pairs = [(cost(group, name), limit) for name, limit in limits.items()]
    return all(value is not None and value <= limit for value, limit in pairs)


def _front(groups: Sequence[Group], goals: Sequence[str]) -> list[Group]:
    values = [[_goal(group, name) for name in goals] for group in groups]
    known = [[value for value in own if value is not None] for own in values]
    points = sorted((tuple(own), i) for i, own in enumerate(known) if len(own) == len(goals))
    return [groups[points[place][1]] for place in nondominated([point for point, _ in points])]
