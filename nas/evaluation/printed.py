"""What the workers of a search and of its evaluations printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nas.evaluation.targets import file_name
from nas.executors.output import JobLog, holds, logs, of_evaluations, of_trials
from nas.storage.schema import Search
from nas.storage.store import Store


class Printed(NamedTuple):
    """What one attempt printed.

    Attributes:
        what: `SEARCH/TRIAL`, of an evaluation with its seed.
        attempt: from 0.
        path: of the file.
    """

    what: str
    attempt: int
    path: Path


def printed(store: Store, search: Search, number: int | None, folder: Path) -> list[Printed]:
    """Return what trials and then evaluations of a search printed, in the order of their numbers.

    Args:
        store: the database.
        search: in question.
        number: of a trial; None: of all.
        folder: of artifacts.

    Raises:
        NotFound: the search has no such trial.
    """
    if number is not None:
        trial = store.trial(search.id, number)
        number = number if trial.reused is None else trial.reused
    trials = [
        Printed(f"{search.name}/{log.job}", log.attempt, log.path)
        for log in logs(of_trials(folder, search.name))
        if holds(log.path) and (number is None or log.job == str(number))
    ]
    return trials + list(_evaluations(store, search, number, logs(of_evaluations(folder))))


def _evaluations(store: Store, search: Search, number: int | None, found: list[JobLog]) -> Iterator[Printed]:
    for row, space, key in store.evaluations.of_search(search.id) if found else ():
        if number is None or row.origin_trial == number:
            own = file_name(row.settings, space, key, row.seed)
            what = f"the evaluation of {search.name}/{row.origin_trial} under seed {row.seed}"
            yield from (
                Printed(what, log.attempt, log.path) for log in found if log.job == own and holds(log.path)
            )
