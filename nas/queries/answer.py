"""What a search recommends, with how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from nas import plugins
from nas.answer import Level, Levels, levels
from nas.controller import Controller
from nas.errors import NasError
from nas.intervals import half_width_over_seeds
from nas.objective import Objective
from nas.queries.leaderboard import protocol_of
from nas.states import TrialState
from nas.storage.schema import Search, Trial
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
    width: float | None
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
        own = _scores(session, [search])
        given = _scores(session, _given(session, search))
    if not own:
        return None
    found = levels(
        [list(candidate.scores.values()) for candidate in own],
        [candidate.width for candidate in own if candidate.width is not None],
    )
    order = sorted(range(len(own)), key=lambda i: (-found.candidates[i].mean, -found.candidates[i].observed))
    best, level = own[order[0]], found.candidates[order[0]]
    second = order[1] if len(order) > 1 else None
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
        runner_up=None if second is None else own[second].trial,
        beats_runner_up=None if second is None else found.beats(level, found.candidates[second]),
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


def _scores(session: Session, searches: Sequence[Search]) -> list[_Scores]:
    """Return the scores of whole trainings by candidate, each seed once, in the order of first trials."""
    names = {search.id: search.name for search in searches}
    query = (
        select(
            Trial.search_id,
            Trial.architecture_id,
            Trial.number,
            Trial.architecture,
            Trial.ci95,
            Trial.repeat,
            Trial.score,
        )
        .where(Trial.search_id.in_(list(names)), Trial.state == TrialState.COMPLETED.value)
        .where(Trial.score.is_not(None), Trial.architecture.is_not(None))
        .order_by(Trial.search_id, Trial.number)
    )
    found: dict[tuple[int, int | None], _Scores] = {}
    for search, key, number, text, width, repeat, score in session.execute(query):
        assert text is not None  # by the query
        assert score is not None
        entry = found.setdefault((search, key), _Scores(names[search], number, text, width, {}))
        entry.scores.setdefault(repeat, score)
    return list(found.values())
