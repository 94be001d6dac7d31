"""Searches as rows: in a list, and one in full with its trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

from nas.objective import SCORE, Objective
from nas.queries.answer import Answer, answer
from nas.queries.chosen import Texts
from nas.queries.leaderboard import NO_LEARNER
from nas.queries.trials import TrialRow, trial
from nas.states import SearchState, TrialState
from nas.storage.columns import now
from nas.storage.lease import driven
from nas.storage.schema import Search, TrialKind
from nas.storage.searches import INHERITED
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
        best: the best score of a completed trial.
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
    return [
        SearchRow(
            search=summary.search.name,
            state=state(summary.search),
            controller=summary.search.controller,
            space=summary.search.space,
            task=summary.search.task_label,
            learner=None if summary.search.learner == NO_LEARNER else summary.search.learner,
            seed=summary.search.seed,
            done=_done(summary.search, summary.trials),
            trials=_planned(summary.search, summary.trials, supernet=summary.supernet),
            failed=summary.trials.get(TrialState.FAILED, 0),
            best=summary.best,
            created_at=summary.search.created_at,
            sign_of_life=_sign_of_life(summary.search),
            note=summary.search.note,
        )
        for summary in store.searches(limit)
    ]


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
    objective = Objective(tuple(row.config.get("objective") or Objective().goals))
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
        inherited=tuple(
            InheritedRow(**found) for found in row.environment.get(INHERITED, {}).get("searches", ())
        ),
        config=row.config,
        environment=row.environment,
        trial_rows=rows,
    )


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
