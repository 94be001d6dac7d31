"""The rows of trials: begun, closed and read, each within a transaction of the caller's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, func, select
from sqlalchemy.orm import Session

from nas.states import TrialState
from nas.storage import statements
from nas.storage.schema import Measurement, Trial, TrialKind

if TYPE_CHECKING:
    from nas.controller import Outcome


class Measured(NamedTuple):
    """One number that a trial measured after `step` training episodes; None for NaN."""

    trial_id: int
    metric: str
    step: int
    value: float | None


@dataclass(frozen=True, slots=True)
class NewTrial:
    """A trial to be recorded.

    Attributes:
        number: from 0, unique in its search.
        architecture: the encoding proposed; None where a supernet is trained.
        key: its canonical key, or None.
        space: the space of both.
        seed: of the training, in [0, 2⁶³).
        attempt: how often it was tried before.
        repeat: which of the architecture's seeds.
        episodes: to train on; None: as many as the search's budget says.
        parent: number of the trial that the training goes on from; None: it begins anew.
        race: whether one of the best is trained under a further seed.
        supernet: what was proposed, where a supernet is trained.
    """

    number: int
    architecture: str | None
    key: str | None
    space: str
    seed: int
    attempt: int
    repeat: int = 0
    episodes: int | None = None
    parent: int | None = None
    race: bool = False
    supernet: dict[str, Any] | None = None


class TrialCounts(NamedTuple):
    """How many trials of a search were begun, and of how many the outcome was recorded."""

    begun: int
    ended: int


@dataclass(frozen=True, slots=True)
class Derivations:
    """What a supernet derived, as JSON.

    Attributes:
        final: `{architecture, score}`, best first.
        epochs: `{step, architecture, score}`: what it would have derived after each epoch.
    """

    final: list[dict[str, Any]]
    epochs: list[dict[str, Any]]


def known(session: Session, search_id: int) -> TrialCounts:
    """Return how far a search is."""
    counts = select(func.count(), func.count(Trial.observed)).where(Trial.search_id == search_id)
    return TrialCounts(*session.execute(counts).one())


def insert(
    connection: Connection,
    search_id: int,
    new: NewTrial,
    architecture_id: int | None,
    began: datetime,
    by: str | None,
) -> int | None:
    """Record that a trial runs since then; return its id, also where the same was recorded before.

    The id is None, and nothing changes, where the search has another trial of this number, or `by`, a driver,
    does not drive it.
    """
    kind = TrialKind.EVALUATE if new.supernet is None else TrialKind.SUPERNET
    row = {
        "search_id": search_id,
        "number": new.number,
        "kind": (TrialKind.RACE if new.race else kind).value,
        "state": TrialState.RUNNING.value,
        "attempt": new.attempt,
        "repeat": new.repeat,
        "asked_episodes": new.episodes,
        "parent": new.parent,
        "architecture_id": architecture_id,
        "architecture": new.architecture,
        "supernet": new.supernet,
        "seed": new.seed,
        "created_at": began,
        "started_at": began,
    }
    statement = statements.insert_trial(connection.dialect.name, tuple(row), driven=by is not None)
    trial_id: int | None = connection.scalar(statement, row if by is None else {**row, "by": by})
    return trial_id


def close(
    connection: Connection,
    trial_id: int,
    outcome: Outcome,
    ended: datetime,
    derivations: Derivations | None = None,
    by: str | None = None,
) -> int | None:
    """Record a trial's outcome and measurements; return its place among the search's outcomes.

    The place is None, and nothing changes, where the trial was closed before, and not at this very time, or
    `by`, a driver, does not drive its search.

    Raises:
        ValueError: the outcome is not final.
    """
    if not outcome.state.final:
        raise ValueError(f"An outcome that is {outcome.state} closes no trial.")
    row = {"trial": trial_id, "finished_at": ended, **statements.columns(outcome)}
    if derivations is not None:
        row |= {"derived": derivations.final, "derived_epochs": derivations.epochs}
    if by is not None:
        row["by"] = by
    statement = statements.FINISH_TRIAL if by is None else statements.FINISH_DRIVEN_TRIAL
    observed: int | None = connection.scalar(statement, row)
    rows = [
        {"trial_id": trial_id, "metric": m.metric, "step": m.step, "value": m.value}
        for m in outcome.measurements
    ]
    if observed is not None and rows:
        connection.execute(statements.upsert_measurement(connection.dialect.name), rows)
    if observed is None:
        same = select(Trial.observed).where(Trial.id == trial_id, Trial.finished_at == ended)
        observed = connection.scalar(same)
    return observed


def measurements(session: Session, search_id: int, number: int | None) -> list[Measured]:
    """Return what the trials of a search measured, or one of them: by number, then metric, then step."""
    query = (
        select(Measurement.trial_id, Measurement.metric, Measurement.step, Measurement.value)
        .join(Trial, Trial.id == Measurement.trial_id)
        .where(Trial.search_id == search_id)
        .order_by(Trial.number, Measurement.metric, Measurement.step)
    )
    if number is not None:
        query = query.where(Trial.number == number)
    return [Measured._make(row) for row in session.execute(query)]
