"""What a search recommends, with how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from nas import plugins
from nas.answer import Level, Levels, Singles, levels
from nas.controller import Controller
from nas.errors import NasError
from nas.intervals import half_width_over_seeds
from nas.objective import Objective
from nas.queries.leaderboard import protocol_of
from nas.states import TrialState
from nas.storage.schema import FURTHER_SEED, Search, Trial
from nas.storage.store import Store


@dataclass(frozen=True, slots=True)
class Answer:
    """The candidate that a search recommends.

    Attributes:
        search, trial: the search, and the first trial of the candidate.
        architecture: its text.
        expected: the score to expect under another seed: the mean of its scores, shrunk for luck.
        score, seeds, ci95_seeds: the mean of its scores, how many there are, and half of the mean's 95 %
            interval (Student's t); None: there is one.
        noise: standard deviation of a score under another seed; None: nothing is known of it.
        noise_of: `seeds`, or `tasks` where no candidate has several seeds: the part of the training seed is
            not known then, and probabilities are too sure.
        runner_up: the trial of the next best candidate; None: there is none.
        beats_runner_up: the probability that the candidate is the better one; None: it is not known.
        baseline: the best network of searches that evaluated given ones under the same protocol, as
            `SEARCH/TRIAL`; None: there is none.
        beats_baseline: the probability that the candidate is better.
    """

    search: str
    trial: int
    architecture: str
    expected: float
    score: float
    seeds: int
    ci95_seeds: float | None
    noise: float | None
    noise_of: str
    runner_up: int | None
    beats_runner_up: float | None
    baseline: str | None
    beats_baseline: float | None


class _Scores(NamedTuple):
    """One candidate's scores, by repeat, and its first trial."""

    search: str
    trial: int
    architecture: str
    scores: dict[int, float]


def answer(store: Store, reference: str) -> Answer | None:
    """Return what a search recommends; None where it has no score, or makes more than the score better.

    Raises:
        NotFound: no such search.
        ConfigError: several searches have the prefix.
    """
    search = store.search(reference)
    goals = search.config.get("objective")
    if goals is not None and Objective(tuple(goals)) != Objective():
        return None
    with store.read() as session:
        own = _candidates(session, search)
        given = _scores(session, [Trial.search_id.in_([row.id for row in _given(session, search)])])
    if own is None:
        return None
    found = own.levels
    pairs = [(candidate, found.level([*candidate.scores.values()])) for candidate in own.candidates]
    pairs.sort(key=lambda pair: (-pair[1].mean, -pair[1].observed, pair[0].trial))
    best, level = pairs[0]
    second = pairs[1] if len(pairs) > 1 else None
    others = [candidate for candidate in given if candidate.architecture != best.architecture]
    baseline = max(others, key=lambda other: _mean(other.scores), default=None)
    return Answer(
        search=search.name,
        trial=best.trial,
        architecture=best.architecture,
        expected=level.mean,
        score=level.observed,
        seeds=level.seeds,
        ci95_seeds=half_width_over_seeds(list(best.scores.values())),
        noise=None if found.noise != found.noise else found.noise,
        noise_of="tasks" if found.freedom is None else "seeds",
        runner_up=None if second is None else second[0].trial,
        beats_runner_up=None if second is None else found.beats(level, second[1]),
        baseline=None if baseline is None else f"{baseline.search}/{baseline.trial}",
        beats_baseline=None if baseline is None else _beats(found, level, baseline),
    )


def words(found: Answer) -> str:
    """Return a recommendation in a sentence or two."""
    seeds = "one seed" if found.seeds == 1 else f"{found.seeds} seeds"
    interval = "" if found.ci95_seeds is None else f" ± {found.ci95_seeds:.4f}"
    recommended = f"Recommended: trial {found.trial}, {found.score:.4f}{interval}"
    if found.noise is None:
        return f"{recommended}."
    parts = [f"{recommended} over {seeds}; under another seed expect {found.expected:.4f}."]
    chances = [
        f"{name} with probability {chance:.2f}"
        for name, chance in (
            (f"the runner-up, trial {found.runner_up},", found.beats_runner_up),
            (f"the baseline {found.baseline}", found.beats_baseline),
        )
        if chance is not None
    ]
    if chances:
        parts.append(f"It beats {' and '.join(chances)}.")
    if chances and found.noise_of == "tasks":
        parts.append("That counts the choice of tasks alone: no network had a second training seed.")
    return " ".join(parts)


def _beats(found: Levels, level: Level, baseline: _Scores) -> float | None:
    return found.beats(level, found.alone(list(baseline.scores.values())))


def _mean(scores: dict[int, float]) -> float:
    return sum(scores.values()) / len(scores)


def _given(session: Session, search: Search) -> list[Search]:
    """Return the other searches of the same protocol that evaluated given architectures."""
    alike = select(Search).where(Search.settings == search.settings, Search.id != search.id)
    protocol, found = protocol_of(search), []
    for other in session.scalars(alike):
        if not any(isinstance(value, list) for value in other.config["controller"].values()):
            continue  # nothing is given, and its class need not be loaded
        with suppress(NasError):
            controller: type[Controller] = plugins.load("controller", other.controller)
            if controller.given and protocol_of(other) == protocol:
                found.append(other)
    return found


SCORED = (
    Trial.state == TrialState.COMPLETED.value,
    Trial.score.is_not(None),
    Trial.architecture_id.is_not(None),
)
"""The whole trainings of one candidate."""


class _Candidates(NamedTuple):
    """How a search's candidates are spread, and those of them that can be the best or the next best."""

    levels: Levels
    candidates: list[_Scores]


def _candidates(session: Session, search: Search) -> _Candidates | None:
    """Return what is to be known of a search's candidates; None: it has none.

    Of those with one score, however many there are, the database counts and sums; two of them are read.
    """
    mine = [Trial.search_id == search.id, *SCORED]
    further = select(Trial.architecture_id).where(Trial.search_id == search.id, FURTHER_SEED)
    # The seed is in no index, so that SQLite takes the small one of these trials, not that of all.
    seeds = session.execute(further.add_columns(Trial.seed))
    raced = list({key for key, _ in seeds if key is not None})
    several = _scores(session, [*mine, Trial.architecture_id.in_(raced)]) if raced else []
    rest = [*mine, Trial.repeat == 0]
    if several:
        rest.append(Trial.architecture_id.not_in(further.where(Trial.architecture_id.is_not(None))))
    if not search.config.get("deduplicate", True):  # else no candidate is there twice
        earliest = select(func.min(Trial.number)).where(*mine, Trial.repeat == 0)
        rest.append(Trial.number.in_(earliest.group_by(Trial.architecture_id)))
    counted = select(func.count(), func.avg(Trial.ci95 * Trial.ci95)).where(*rest)
    count, widths2 = session.execute(counted).one()
    if not count + len(several):
        return None
    firsts = [next(iter(candidate.scores.values())) for candidate in several]
    center = _median(session, rest, count, firsts)
    above = Trial.score - center
    sums = select(func.count(), func.sum(above * above)).where(*rest, Trial.score > center)
    better, squares = session.execute(sums).one()
    singles = Singles(count, better, squares or 0.0, math.nan if widths2 is None else widths2)
    best = select(*_COLUMNS).join(Search, Search.id == Trial.search_id).where(*rest)
    best = best.order_by(Trial.score.desc(), Trial.number).limit(2)
    found = levels([[*candidate.scores.values()] for candidate in several], singles, center)
    return _Candidates(found, [*several, *_gathered(session.execute(best))])


def _median(
    session: Session, rest: Sequence[ColumnElement[bool]], count: int, others: Sequence[float]
) -> float:
    """Return the median of the scores of some trials, which an index has in order, and of other scores."""
    last = (count + len(others)) // 2
    first = max(0, (count + len(others) - 1) // 2 - len(others))
    middle = select(Trial.score).where(*rest).order_by(Trial.score).offset(first).limit(last - first + 1)
    ordered = sorted([*(score for score in session.scalars(middle) if score is not None), *others])
    low = ordered[(count + len(others) - 1) // 2 - first]
    return (low + ordered[last - first]) / 2


_COLUMNS = (
    Search.name,
    Trial.search_id,
    Trial.architecture_id,
    Trial.number,
    Trial.architecture,
    Trial.repeat,
    Trial.score,
)


def _scores(session: Session, where: Sequence[ColumnElement[bool]]) -> list[_Scores]:
    """Return the scores of whole trainings by candidate, each seed once, in the order of first trials."""
    query = select(*_COLUMNS).where(*SCORED, *where).order_by(Trial.search_id, Trial.number)
    return _gathered(session.execute(query.join(Search, Search.id == Trial.search_id)))


def _gathered(rows: Iterable[Sequence[Any]]) -> list[_Scores]:
    found: dict[tuple[int, int], _Scores] = {}
    for name, search, key, number, text, repeat, score in rows:
        entry = found.setdefault((search, key), _Scores(name, number, text, {}))
        entry.scores.setdefault(repeat, score)
    return list(found.values())
