"""The statements of the hot path, built once: two of them, and two commits, per trial."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, inspect, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import aliased

from nas.costs import OWN
from nas.storage.schema import Architecture, Base, Measurement, Search, Trial

if TYPE_CHECKING:
    from nas.controller import Outcome

_other = aliased(Trial)

DRIVES = select(Search.id).where(Search.driver == bindparam("by")).with_for_update(read=True, of=Search)
"""Finds what a driver drives, and keeps others from taking it over until the transaction ends."""

FINISH_TRIAL = (
    update(Trial)
    .where(Trial.id == bindparam("trial"), Trial.observed.is_(None))
    .values(
        observed=select(func.coalesce(func.max(_other.observed), 0) + 1)
        .where(_other.search_id == Trial.search_id)
        .scalar_subquery()
    )
    .returning(Trial.observed)
)
"""Closes a trial that is still open, and tells its place in the order of outcomes."""

FINISH_DRIVEN_TRIAL = FINISH_TRIAL.where(
    Trial.search_id == DRIVES.where(Search.id == Trial.search_id).scalar_subquery()
)
"""The same, where a driver drives the trial's search."""

HEARTBEAT = (
    update(Search)
    .where(Search.id == bindparam("search"), Search.driver == bindparam("by"))
    .returning(Search.stop_requested)
)

"""Shows a sign of life of a driver that drives the search still, and tells whether it is asked to stop."""

DRIVES_SEARCH = DRIVES.where(Search.id == bindparam("search_id"))

DRIVES_TRIAL = DRIVES.join(Trial, Trial.search_id == Search.id).where(Trial.id == bindparam("trial"))


@cache
def upsert_architecture(dialect: str) -> Any:
    """Return the statement that inserts or finds an architecture, and tells its id."""
    architecture = into(dialect, Architecture)
    # An update that changes nothing, unlike DO NOTHING, returns the id of the row that was there.
    return architecture.on_conflict_do_update(
        index_elements=[Architecture.space, Architecture.key], set_={"key": architecture.excluded.key}
    ).returning(Architecture.id)


@cache
def insert_trial(dialect: str, columns: tuple[str, ...], *, driven: bool) -> Any:
    """Return the statement that inserts a trial, or finds the one recorded at the same time; tells its id.

    Args:
        dialect: of the database.
        columns: what is known of the trial.
        driven: whether only where the driver `by` drives the search.
    """
    trial = into(dialect, Trial)
    if driven:
        table = inspect(Trial).local_table
        row = (bindparam(name, type_=table.c[name].type) for name in columns)
        trial = trial.from_select(columns, DRIVES_SEARCH.with_only_columns(*row))
    return trial.on_conflict_do_update(
        index_elements=[Trial.search_id, Trial.number],
        set_={"number": trial.excluded.number},
        where=Trial.created_at == trial.excluded.created_at,
    ).returning(Trial.id)


@cache
def upsert_measurement(dialect: str) -> Any:
    """Return the statement that sets a measurement of a trial."""
    measurement = into(dialect, Measurement)
    return measurement.on_conflict_do_update(
        index_elements=[Measurement.trial_id, Measurement.metric, Measurement.step],
        set_={"value": measurement.excluded.value},
    )


def into(dialect: str, table: type[Base]) -> Any:
    """Return an insertion that may say what to do about a conflict, which is not in the SQL standard."""
    return {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect](table)


def columns(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as the columns of its trial."""
    score = outcome.score
    return {
        "state": str(outcome.state),
        "score": score and score.value,
        "ci95": score and score.ci95,
        "episodes": score and score.episodes,
        "split": score and score.split,
        "classes": score and score.classes,
        "normalization": score and score.normalization,
        "train_episodes": outcome.train_episodes,
        "continued_episodes": outcome.continued or None,
        "seconds": outcome.seconds,
        **{name: outcome.costs.get(name) for name in OWN},
        "error": outcome.error and storable(outcome.error),
        "reused": outcome.reused,
    }


def storable(message: str) -> str:
    """Replace what no database can hold: whatever a failure says, it is recorded."""
    return message.encode("utf-8", "replace").decode().replace("\0", "?")
