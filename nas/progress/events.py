"""What happens, as one JSON document a line: `--log-format json`. Here alone events have their names.

Every line has `time` (ISO 8601, with its zone) and `event`; each kind of event has the further fields that
`FIELDS` lists, but for those without a value.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from nas.errors import NasError
from nas.progress.words import last, words
from nas.states import EvaluationState

if TYPE_CHECKING:
    from nas.controller import Outcome
    from nas.driver.search import SearchObserver
    from nas.evaluation.driver import EvaluationObserver
    from nas.evaluation.work import Report
    from nas.evaluator import AnyJob
    from nas.progress.searches import Tally
    from nas.storage.schema import Evaluation, Search
    from nas.storage.store import Store


class Event(StrEnum):
    """What a line tells."""

    SEARCH_STARTED = "search_started"
    SEARCH_ENDED = "search_ended"
    TRIAL_STARTED = "trial_started"
    TRIAL_REPORTED = "trial_reported"
    TRIAL_RETRIED = "trial_retried"
    TRIAL_ENDED = "trial_ended"
    EVALUATION_STARTED = "evaluation_started"
    EVALUATION_REPORTED = "evaluation_reported"
    EVALUATION_RETRIED = "evaluation_retried"
    EVALUATION_ENDED = "evaluation_ended"
    MESSAGE = "message"
    INTERRUPTED = "interrupted"
    ERROR = "error"


_TRIAL = ("search", "trial", "kind", "attempt")
_EVALUATION = ("evaluation", "search", "trial", "space", "architecture", "seed", "attempt")

FIELDS: dict[Event, tuple[str, ...]] = {
    Event.SEARCH_STARTED: ("search", "done", "total", "workers", "seed"),
    Event.SEARCH_ENDED: ("search", "state", "done", "total", "failed", "best"),
    Event.TRIAL_STARTED: _TRIAL,
    Event.TRIAL_REPORTED: (*_TRIAL, "node", "train_episodes", "seconds", "measured"),
    Event.TRIAL_RETRIED: (*_TRIAL, "error"),
    Event.TRIAL_ENDED: (
        *_TRIAL,
        "node",
        "state",
        "score",
        "ci95",
        "train_episodes",
        "seconds",
        "reused",
        "derived",
        "error",
        "done",
        "total",
        "best",
    ),
    Event.EVALUATION_STARTED: _EVALUATION,
    Event.EVALUATION_REPORTED: (*_EVALUATION, "train_episodes", "validation_score", "words"),
    Event.EVALUATION_RETRIED: (*_EVALUATION, "error"),
    Event.EVALUATION_ENDED: (
        *_EVALUATION,
        "node",
        "state",
        "test_score",
        "test_ci95",
        "train_episodes",
        "seconds",
        "reused",
        "driver",
        "error",
        "done",
        "total",
    ),
    Event.MESSAGE: ("level", "text"),
    Event.INTERRUPTED: ("signal",),
    Event.ERROR: ("code", "error"),
}
"""The fields of each event besides `time` and `event`."""


def stamp() -> str:
    """Return the time, to the millisecond, with its zone."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def dated(say: Callable[[str], None]) -> Callable[[str], None]:
    """Return what prints a line after the time."""
    return lambda text: say(f"{stamp()} {text}")


def line(event: Event, **fields: Any) -> str:
    """Return an event as one line; a field without a value is left out."""
    unknown = fields.keys() - set(FIELDS[event])
    assert not unknown, f"{event} has no {', '.join(sorted(unknown))}"
    given = {name: value for name in FIELDS[event] if (value := _plain(fields.get(name))) is not None}
    return json.dumps({"time": stamp(), "event": event.value, **given}, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return a value that JSON has: no number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: found for key, part in value.items() if (found := _plain(part)) is not None}
    return value


APART = 1.0
"""Seconds between two reports of a trial that are told: one with little to train has many a second."""


class Log:
    """Where events go.

    Args:
        write: prints a line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def tell(self, event: Event, **fields: Any) -> None:
        """Write an event."""
        self._write(line(event, **fields))


@contextmanager
def search_events(row: Search, tally: Tally, store: Store, log: Log) -> Iterator[SearchObserver]:
    """Tell what a search does, from its start to its end."""
    counts = {"search": row.name, "done": tally.done, "total": tally.total}
    log.tell(Event.SEARCH_STARTED, **counts, workers=row.config.get("workers"), seed=row.seed)
    try:
        yield _SearchEvents(row.name, tally, log)
    finally:
        state = None
        with suppress(NasError):  # the database may be what ended it
            state = store.search(row.name).state
        log.tell(
            Event.SEARCH_ENDED,
            search=row.name,
            state=state,
            done=tally.done,
            total=tally.total,
            failed=tally.failed,
            best=_best(tally),
        )


class _SearchEvents:
    """Tells what becomes of each trial."""

    def __init__(self, search: str, tally: Tally, log: Log) -> None:
        self._search, self._tally, self._log = search, tally, log
        self._running: dict[int, AnyJob] = {}
        self._told: dict[int, float] = {}

    def started(self, job: AnyJob) -> None:
        self._running[job.number] = job
        self._told.pop(job.number, None)
        self._tally.start(job)
        self._log.tell(Event.TRIAL_STARTED, **self._trial(job))

    def reported(self, job: AnyJob, outcome: Outcome) -> None:
        now = time.monotonic()
        if now - self._told.get(job.number, -math.inf) < APART:
            return
        self._told[job.number] = now
        self._log.tell(
            Event.TRIAL_REPORTED,
            **self._trial(job),
            node=outcome.node,
            train_episodes=outcome.train_episodes,
            seconds=outcome.seconds,
            measured={found.metric: found.value for found in outcome.measurements},
        )

    def recorded(self, number: int, outcome: Outcome) -> None:
        job, score = self._running.pop(number, None), outcome.score
        self._tally.add(number, outcome)
        trial = {"search": self._search, "trial": number} if job is None else self._trial(job)
        self._log.tell(
            Event.TRIAL_ENDED,
            **trial,
            node=outcome.node,
            state=outcome.state.value,
            score=score and score.value,
            ci95=score and score.ci95,
            train_episodes=outcome.train_episodes,
            seconds=outcome.seconds,
            reused=outcome.reused,
            derived=len(outcome.derived) or None,
            error=outcome.error,
            done=self._tally.done,
            total=self._tally.total,
            best=_best(self._tally),
        )

    def retried(self, job: AnyJob, error: str) -> None:
        self._running.pop(job.number, None)
        self._log.tell(Event.TRIAL_RETRIED, **self._trial(job), error=error)

    def _trial(self, job: AnyJob) -> dict[str, Any]:
        from nas.evaluator import SupernetJob

        kind = "supernet" if isinstance(job, SupernetJob) else "evaluate"
        return {"search": self._search, "trial": job.number, "kind": kind, "attempt": job.attempt}


def _best(tally: Tally) -> dict[str, Any] | None:
    if tally.best is None:
        return None
    score, ci95, trial = tally.best
    return {"score": score, "ci95": ci95, "trial": trial}


def evaluation_events(trainings: int, log: Log) -> EvaluationObserver:
    """Return what tells of so many trainings."""
    return _EvaluationEvents(trainings, log)


class _EvaluationEvents:
    """Tells what becomes of so many trainings."""

    def __init__(self, trainings: int, log: Log) -> None:
        self._trainings, self._log = trainings, log
        self._ended = 0
        self._attempts: dict[int, int] = {}

    def started(self, row: Evaluation) -> None:
        self._log.tell(Event.EVALUATION_STARTED, **self._of(row))

    def reported(self, row: Evaluation, report: Report) -> None:
        from nas.evaluation.work import Begin, Failure, Lost, Progress, Scoring, Validated

        said: dict[str, Any] = {}
        match report:
            case Progress():
                said = {"train_episodes": report.done}
            case Validated():
                done, score = last(report)
                said = {"train_episodes": done, "validation_score": score}
            case Begin() | Scoring() | Lost():
                said = {"words": words(row, report)}
            case Failure():
                self._end(row, report.state.value, node=report.node, error=report.error)
                return
            case _:
                self._end(
                    row,
                    EvaluationState.COMPLETED.value,
                    node=report.node,
                    test_score=report.test.value,
                    test_ci95=report.test.ci95,
                    train_episodes=report.train_episodes,
                    seconds=report.seconds,
                )
                return
        self._log.tell(Event.EVALUATION_REPORTED, **self._of(row), **said)

    def retried(self, row: Evaluation, error: str) -> None:
        self._log.tell(Event.EVALUATION_RETRIED, **self._of(row), error=error)
        self._attempts[row.id] = self._attempts.get(row.id, 0) + 1

    def reused(self, row: Evaluation, *, by_other_code: bool) -> None:
        scores = {"test_score": row.test_score, "test_ci95": row.test_ci95}
        self._end(row, row.state, reused="by other code" if by_other_code else "by this code", **scores)

    def elsewhere(self, row: Evaluation) -> None:
        self._end(row, row.state, driver=f"pid {row.pid} on host {row.host}")

    def _end(self, row: Evaluation, state: str, **found: Any) -> None:
        self._ended += 1
        counts = {"done": self._ended, "total": self._trainings}
        self._log.tell(Event.EVALUATION_ENDED, **self._of(row), state=state, **found, **counts)

    def _of(self, row: Evaluation) -> dict[str, Any]:
        return {
            "evaluation": row.id,
            "search": row.origin_search,
            "trial": row.origin_trial,
            "space": row.space,
            "architecture": row.architecture,
            "seed": row.seed,
            "attempt": self._attempts.get(row.id, 0),
        }
