"""The rows of searches: named, found, listed and deleted, each within a transaction of the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from sqlalchemy import delete as delete_from
from sqlalchemy import exists, func, or_, select, text
from sqlalchemy.orm import Session

from nas.errors import ConfigError, NotFound
from nas.states import SearchState, TrialState
from nas.storage import lease, names
from nas.storage.columns import now
from nas.storage.schema import Architecture, Evaluation, Search, Trial, TrialKind

INHERITED = "inherited"
"""Where the environment of a search says what it knew of earlier ones: how much of each, and a hash."""

CONTINUED = "continued"
"""Where the environment of a search has the command that goes on with it as its last driver ran it."""

_AT_ONCE = 500
"""Ids in one statement: databases limit how many a statement may name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSearch:
    """A search to be recorded.

    Attributes:
        name: None to have one made of its parts.
        source: the file that it came from, verbatim.
        config: the configuration, resolved.
        space, controller, tasks, learner: names of the plug-ins.
        task_label: the task in a few words.
        executor: where its trials run.
        seed: of everything random.
        trials: how many it is to have.
        settings: hash of what a score depends on besides what is chosen and the seed.
        environment: versions of what runs it, the machine, and the data.
        plugins: what the plug-ins of the configuration are now.
    """

    name: str | None
    source: str | None
    config: dict[str, Any]
    space: str
    controller: str
    tasks: str
    task_label: str
    learner: str
    executor: str
    seed: int
    trials: int
    settings: str
    environment: dict[str, Any]
    plugins: dict[str, Any] | None = None

    def row(self) -> Search:
        """Return its row, of a search that no one drives yet and that has no name."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "name"}
        return Search(**values, state=SearchState.INTERRUPTED.value, created_at=now(), stop_requested=False)


class NewInherited(NamedTuple):
    """What a new search knows of one network, as `nas.storage.schema.Inherited`."""

    origin: str
    architecture: str
    share: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A search in a list.

    Attributes:
        search: its row.
        trials: how many are in each state; those of a race are not counted.
        best, ci95: the best score of a whole training, with half of its 95 % interval over tasks.
        seconds: worker time of all trials.
        supernet: whether one trains a supernet.
    """

    search: Search
    trials: dict[str, int] = field(default_factory=dict)
    best: float | None = None
    ci95: float | None = None
    seconds: float = 0.0
    supernet: bool = False


def add(session: Session, search: Search, name: str | None) -> None:
    """Write a new search under a name, or without one under `{controller}-{space}-{tasks}`, made unique.

    Raises:
        ConfigError: the name is taken, or is no name.
    """
    if session.get_bind().dialect.name == "postgresql":  # SQLite has one writer anyway
        session.execute(text("LOCK TABLE searches IN SHARE ROW EXCLUSIVE MODE"))
    search.name = named(session, name, search.controller, search.space, search.tasks)
    session.add(search)


def named(session: Session, name: str | None, *parts: str) -> str:
    """Return the name that a new search gets: its own, or without one the first free one of its parts.

    Raises:
        ConfigError: the name is taken, or is no name.
    """
    if name is not None:
        check_free(session, name)
        return name
    base = names.default(*parts)
    taken = set(session.scalars(select(Search.name).where(Search.name.startswith(base, autoescape=True))))
    return names.free(base, taken)


def continuation(search: Search) -> str:
    """Return the command that goes on with a search where its last driver ran."""
    said: str = search.environment.get(CONTINUED, f"nas resume {search.name}")
    return said


def continued(environment: dict[str, Any], command: str | None) -> dict[str, Any]:
    """Return the environment of a search that another command goes on with; None: `nas resume NAME`."""
    rest = {key: value for key, value in environment.items() if key != CONTINUED}
    return rest if command is None else {**rest, CONTINUED: command}


def check_free(session: Session, name: str) -> None:
    """Refuse a name that a search has.

    Raises:
        ConfigError: the name is taken, or is no name.
    """
    if session.scalar(select(Search.id).where(Search.name == names.checked(name))) is not None:
        raise ConfigError(
            f"name: a search '{name}' already exists; resume it with `nas resume {name}`, or choose "
            "another --name."
        )


def find(session: Session, reference: str) -> Search:
    """Return a search by its name, by a prefix that no other name has, or the newest as `@last`.

    Raises:
        NotFound: no such search.
        ConfigError: several names have the prefix.
    """
    if reference == "@last":
        last = session.scalar(select(Search).order_by(Search.id.desc()).limit(1))
        if last is None:
            raise NotFound("There is no search yet; start one with `nas run`.")
        return last
    name = names.match(reference, session.scalars(select(Search.name)).all())
    return session.scalars(select(Search).where(Search.name == name)).one()


def locked(session: Session, search_id: int) -> Search:
    """Return a search, held until the end of the transaction.

    Raises:
        NotFound: there is none with this id.
    """
    search = session.get(Search, search_id, with_for_update=True)
    if search is None:
        raise NotFound(f"No search has the id {search_id}; list them with `nas ls`.")
    return search


def summaries(session: Session, limit: int = 0, only: Sequence[int] | None = None) -> list[Summary]:
    """Return the searches, newest first, `limit` at most; 0: all. `only` has the ids of those asked for."""
    chosen = select(Search.id).order_by(Search.id.desc()).limit(limit or None)
    if only is not None:
        chosen = chosen.where(Search.id.in_(only))
    some = bool(limit) or only is not None
    own = Trial.kind != TrialKind.RACE.value
    whole = Trial.state == TrialState.COMPLETED.value
    trials = (
        select(
            Trial.search_id,
            Trial.state,
            func.count().filter(own).label("count"),
            func.sum(Trial.seconds).label("seconds"),
            func.count().filter(Trial.kind == TrialKind.SUPERNET.value).label("supernets"),
        )
        .where(*((Trial.search_id.in_(chosen),) if some else ()))
        .group_by(Trial.search_id, Trial.state)
        .subquery()
    )
    best, ci95 = (
        select(column)
        .where(Trial.search_id == Search.id, whole, own, Trial.repeat == 0, Trial.score.is_not(None))
        .order_by(Trial.score.desc(), Trial.number)
        .limit(1)
        .correlate(Search)
        .scalar_subquery()
        for column in (Trial.score, Trial.ci95)
    )
    query = select(Search, best, ci95, *(trials.c[name] for name in trials.c.keys()[1:]))
    rows = query.outerjoin(trials).order_by(Search.id.desc())
    if some:
        rows = rows.where(Search.id.in_(chosen))
    found: dict[int, Summary] = {}
    for search, score, half, state, number, seconds, supernets in session.execute(rows):
        summary = found.setdefault(search.id, Summary(search, best=score, ci95=half))
        if number:
            summary.trials[state] = number
        found[search.id] = replace(
            summary,
            seconds=summary.seconds + (seconds or 0.0),
            supernet=summary.supernet or bool(supernets),
        )
    return list(found.values())


def delete(session: Session, search_id: int) -> None:
    """Delete a search, and the architectures that nothing else refers to.

    Raises:
        NotFound: there is none with this id.
        ConfigError: a live process drives it.
    """
    search = locked(session, search_id)
    if lease.driven(search):
        raise lease.refuse(search)
    mine = select(Trial.architecture_id).where(Trial.search_id == search_id)
    architectures = session.scalars(mine.distinct()).all()
    session.execute(delete_from(Search).where(Search.id == search_id))
    unused = ~or_(
        exists().where(Trial.architecture_id == Architecture.id),
        exists().where(Evaluation.architecture_id == Architecture.id),
    )
    for start in range(0, len(architectures), _AT_ONCE):
        some = Architecture.id.in_(architectures[start : start + _AT_ONCE])
        session.execute(delete_from(Architecture).where(some, unused))
