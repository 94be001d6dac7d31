"""The leaderboard of test scores: architectures ranked over the evaluations of every search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from sqlalchemy import ColumnElement, or_, select

from nas.errors import ConfigError
from nas.evaluation.results import Result, summarize
from nas.leaderboard import Query
from nas.storage import names
from nas.storage.front import nondominated
from nas.storage.schema import Evaluation, EvaluationState, TrialState
from nas.storage.store import Store

Group = list[Evaluation]
"""The completed evaluations of one architecture under one settings."""

COSTS: dict[str, Callable[[Group], float]] = {
    "score": lambda group: -fmean(row.test_score or 0.0 for row in group),
    "parameters": lambda group: group[0].parameters or 0,
    "macs": lambda group: group[0].macs or 0,
    "seconds": lambda group: fmean(row.seconds or 0.0 for row in group),
}
"""What is ranked by, such that less is better."""


def rank(store: Store, query: Query) -> list[Result]:
    """Return what a query asks for, the best first: one result an architecture and settings.

    Searches are those that proposed the architectures; a deleted one keeps its name. Scores rank by their
    mean over training seeds. Equal scores rank by parameters, equal costs by score, then the older first.

    Raises:
        NotFound: no such search.
        ConfigError: a prefix that several searches have, or a question that only trials can answer.
    """
    if query.controller is not None or query.states != (TrialState.COMPLETED.value,):
        raise ConfigError("--controller and --state choose among trials: not with --stage test.")
    groups = _groups(store, _where(store, query))
    if query.pareto:
        groups = _front(groups, query.pareto)
    second = "parameters" if query.sort == "score" else "score"
    groups.sort(key=lambda group: (COSTS[query.sort](group), COSTS[second](group), group[0].id))
    results = (summarize(store, group) for group in groups[: query.limit or None])
    return [result for result in results if result is not None]


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
    if query.max_parameters is not None:
        where.append(Evaluation.parameters <= query.max_parameters)
    if query.max_macs is not None:
        where.append(Evaluation.macs <= query.max_macs)
    return where


def _searches(store: Store, references: Sequence[str]) -> list[str]:
    with store.read() as session:
        gone = session.scalars(select(Evaluation.origin_search).distinct()).all()
    known = {summary.search.name for summary in store.searches()} | {name for name in gone if name}
    return [
        store.search(reference).name if reference == "@last" else names.resolve(reference, known)
        for reference in references
    ]


def _groups(store: Store, where: Sequence[ColumnElement[bool]]) -> list[Group]:
    groups: dict[tuple[int, str], Group] = {}
    with store.read() as session:
        for row in session.scalars(select(Evaluation).where(*where).order_by(Evaluation.id)):
            groups.setdefault((row.architecture_id, row.settings), []).append(row)
    return list(groups.values())


def _front(groups: Sequence[Group], fields: Sequence[str]) -> list[Group]:
    points = sorted((tuple(COSTS[field](group) for field in fields), i) for i, group in enumerate(groups))
    return [groups[points[place][1]] for place in nondominated([point for point, _ in points])]
