"""A search whose evaluator follows a script: started, taken up again, and what it recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.controller import Outcome
from nas.driver import trials
from nas.driver.creation import create
from nas.driver.records import configuration
from nas.driver.search import SearchDriver, SearchObserver
from nas.evaluator import AnyJob, Job
from nas.executors.base import Executor, Workload
from nas.settings.search import SearchConfig, validate
from nas.storage.store import Store


class Silent:
    """An observer without a word."""

    def started(self, job: AnyJob) -> None:
        """Pass over a job."""

    def reported(self, job: AnyJob, outcome: Outcome) -> None:
        """Pass over a report."""

    def recorded(self, number: int, outcome: Outcome) -> None:
        """Pass over an outcome."""

    def retried(self, job: AnyJob, error: str) -> None:
        """Pass over a failure."""


class Script(Executor):
    """Ends each attempt as told, in this process; None: its worker dies."""

    def __init__(self, attempts: Sequence[Outcome | None]) -> None:
        self._attempts = attempts

    def run(self, workload: Workload) -> None:
        """Take so many jobs, and end each."""
        for outcome in self._attempts:
            job = workload.next()
            assert job is not None
            if outcome is None:
                workload.lost(job, "killed")
            else:
                assert isinstance(job, Job)
                workload.finish(job, replace(outcome, architecture=job.architecture))


class Killed(BaseException):
    """The driver dies."""


class Dying(Executor):
    """Runs some jobs inline, then dies with one more begun."""

    def __init__(self, config: SearchConfig, jobs: int) -> None:
        self._inline, self._jobs = trials.executor(config, config.make_source()), jobs

    def run(self, workload: Workload) -> None:
        class Limited:
            left = self._jobs

            def __getattr__(self, name: str) -> Any:
                return getattr(workload, name)

            def next(self) -> Job | None:
                job = workload.next()
                Limited.left -= 1
                if Limited.left < 0:
                    raise Killed
                return job

        self._inline.run(Limited())  # type: ignore[arg-type]


def configure(**changes: Any) -> SearchConfig:
    """Return a search by evolution in a toy space; name what matters, the rest is filled in."""
    values: dict[str, Any] = {
        "space": "nas.testing.toys:Toy",
        "controller": {"name": "evolution", "population": 5, "sample": 2},
        "tasks": "sinusoid",
        "learner": "maml",
        "evaluator": "nas.testing.evaluators:Scripted",
        "executor": "inline",
        "trials": 30,
        "seed": 3,
    }
    return validate(values | changes)


def images(**changes: Any) -> SearchConfig:
    """Return a random search for small networks on three classes of glyphs, likewise."""
    values: dict[str, Any] = {
        "space": "few_shot",
        "controller": "random",
        "tasks": {"name": "glyphs", "ways": 3, "queries": 5},
        "learner": "prototypical",
        "trials": 3,
        "seed": 5,
    }
    return configure(**values | changes)


def start(store: Store, config: SearchConfig) -> SearchDriver:
    """Write a new search to the database."""
    tasks = config.make_source()
    return SearchDriver(store, create(store, config, tasks), config, config.make_space(), tasks, Silent())


def reopen(store: Store, name: str, observer: SearchObserver | None = None, more: int = 0) -> SearchDriver:
    """Take up a search that is in the database, with so many trials more."""
    row = store.search(name)
    row.trials += more
    config = configuration(row)
    return SearchDriver(store, row, config, config.make_space(), config.make_source(), observer or Silent())


def begin(store: Store, config: SearchConfig, folder: Path | None, *, dies_after: int | None = None) -> None:
    """Run a new search with its files in a folder; its driver dies after so many jobs, if that is given."""
    tasks = config.make_source()
    row = create(store, config, tasks)
    driver = SearchDriver(store, row, config, config.make_space(), tasks, Silent(), folder)
    if dies_after is None:
        driver.run(trials.executor(config, tasks))
        return
    with pytest.raises(Killed):
        driver.run(Dying(config, dies_after))


def run(store: Store, config: SearchConfig, executor: Executor | None = None) -> list[tuple[Any, ...]]:
    """Run a new search to its end; return what it recorded."""
    search = start(store, config)
    search.run(executor or trials.executor(config, config.make_source()))
    return results(store, "@last")


def killed(store: Store, config: SearchConfig, jobs: int) -> list[tuple[Any, ...]]:
    """Run a new search whose driver dies after so many jobs, then the rest of it; return what it recorded."""
    search = start(store, config)
    name = store.search("@last").name
    with pytest.raises(Killed):
        search.run(Dying(config, jobs))
    reopen(store, name).run(trials.executor(config, config.make_source()))
    return results(store, name)


def results(store: Store, name: str) -> list[tuple[Any, ...]]:
    """Return the trials of a search as (number, state, architecture, score, seed)."""
    row = store.search(name)
    return [(t.number, t.state, t.architecture, t.score, t.seed) for t in store.trials(row.id)]
