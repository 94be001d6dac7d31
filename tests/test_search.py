from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from nas.config import SearchConfig, validate
from nas.controller import Controller, Evaluate, Outcome, Proposal, Score, State, TrainSupernet
from nas.errors import ConfigError, StorageError, TooManyFailures
from nas.evaluator import Job, SupernetJob
from nas.executors.base import Executor, Workload
from nas.executors.inline import InlineExecutor
from nas.ledger import Attempt
from nas.search import Search, create
from nas.space import Architecture, SearchSpace
from nas.storage.store import Store

SCRIPTED = "nas.testing.evaluators:Scripted"


class Watcher:
    def __init__(self) -> None:
        self.recorded_numbers: list[int] = []
        self.retries: list[str] = []

    def started(self, job: Job) -> None: ...

    def reported(self, job: Job, outcome: Outcome) -> None: ...

    def recorded(self, number: int, outcome: Outcome) -> None:
        self.recorded_numbers.append(number)

    def retried(self, job: Job, error: str) -> None:
        self.retries.append(error)


def configure(**changes: Any) -> SearchConfig:
    values: dict[str, Any] = {
        "space": "nas.testing.toys:Toy",
        "controller": {"name": "evolution", "population": 5, "sample": 2},
        "tasks": "sinusoid",
        "learner": "maml",
        "evaluator": SCRIPTED,
        "executor": "inline",
        "trials": 30,
        "seed": 3,
    }
    return validate(values | changes)


@pytest.fixture
def store(tmp_path: Path):
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        yield store


def start(store: Store, config: SearchConfig) -> Search:
    tasks = config.make_tasks()
    row = create(store, config, tasks)
    return Search(store, row, config, config.make_space(), tasks, Watcher())


def reopen(store: Store, name: str, watcher: Watcher | None = None) -> Search:
    row = store.search(name)
    config = validate(row.config)
    return Search(store, row, config, config.make_space(), config.make_tasks(), watcher or Watcher())


def run(store: Store, config: SearchConfig, executor: Executor | None = None) -> list[tuple[Any, ...]]:
    search = start(store, config)
    search.run(executor or InlineExecutor(config, config.make_tasks()))
    return results(store, "@last")


def results(store: Store, name: str) -> list[tuple[Any, ...]]:
    row = store.search(name)
    return [(t.number, t.state, t.architecture, t.score, t.seed) for t in store.trials(row.id)]


def test_a_search_ends_with_every_trial_recorded(store: Store) -> None:
    rows = run(store, configure())
    assert [row[0] for row in rows] == list(range(30))
    assert {row[1] for row in rows} <= {"completed", "reused"}
    search = store.search("@last")
    assert search.state == "completed"
    assert search.finished_at is not None


def test_the_same_seed_gives_the_same_search(store: Store) -> None:
    config = configure()
    assert run(store, config) == run(store, config)
    assert run(store, config) != run(store, configure(seed=4))


def test_a_network_scores_the_same_under_every_controller(store: Store) -> None:
    first = {row[2]: row[4] for row in run(store, configure())}
    second = {row[2]: row[4] for row in run(store, configure(controller="random", trials=200))}
    shared = first.keys() & second.keys()
    assert all(first[text] == second[text] for text in shared)


def test_isomorphic_architectures_are_not_trained_twice(store: Store) -> None:
    config = configure(space={"name": "nas.testing.toys:Toy", "layers": 1}, controller="random", trials=40)
    run(store, config)
    search = store.search("@last")
    trials = store.trials(search.id)
    space = config.make_space()
    keys = [space.canonical(space.decode(t.architecture)) for t in trials if t.state == "completed"]
    assert len(keys) == len(set(keys)) <= 8
    scores = {t.number: t.score for t in trials}
    reused = [t for t in trials if t.state == "reused"]
    assert len(reused) >= 32
    for trial in reused:
        assert trial.reused is not None
        assert trial.reused < trial.number
        assert trial.score == scores[trial.reused]
        assert trial.seconds == 0


def test_without_deduplication_every_trial_is_trained(store: Store) -> None:
    space = {"name": "nas.testing.toys:Toy", "layers": 1}
    rows = run(store, configure(space=space, controller="random", deduplicate=False))
    assert {row[1] for row in rows} == {"completed"}


def test_constraints_are_kept(store: Store) -> None:
    config = configure(controller="random", constraints={"max_parameters": 60})
    run(store, config)
    space, shape = config.make_space(), config.make_tasks().shape
    for trial in store.trials(store.search("@last").id):
        if trial.state == "infeasible":
            assert "parameters" in (trial.error or "") or "wider" in (trial.error or "")
        else:
            assert space.cost(space.decode(trial.architecture), shape).parameters <= 60


class Killed(BaseException):
    """The driver dies."""


class Dying(Executor):
    """Runs some jobs inline, then dies with one more begun."""

    def __init__(self, config: SearchConfig, jobs: int) -> None:
        self._inline, self._jobs = InlineExecutor(config, config.make_tasks()), jobs

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


@pytest.mark.parametrize("jobs", [0, 1, 7, 12])
def test_a_resumed_search_continues_as_if_never_stopped(store: Store, jobs: int) -> None:
    config = configure(name="whole")
    whole = run(store, config)
    broken = configure(name="broken")
    search = start(store, broken)
    with pytest.raises(Killed):
        search.run(Dying(broken, jobs))
    assert store.search("broken").state == "interrupted"
    before = [row for row in results(store, "broken") if row[1] != "interrupted"]
    watcher = Watcher()
    reopen(store, "broken", watcher).run(InlineExecutor(broken, broken.make_tasks()))
    after = results(store, "broken")
    assert [row for row in after if row in before] == before
    assert after == whole
    assert set(watcher.recorded_numbers).isdisjoint(row[0] for row in before)


def test_a_finished_search_grows(store: Store) -> None:
    config = configure(name="grows", trials=12)
    first = run(store, config)
    store.extend(store.search("grows").id, 18)
    reopen(store, "grows").run(InlineExecutor(config, config.make_tasks()))
    assert results(store, "grows")[:12] == first
    assert results(store, "grows") == run(store, configure())


def test_a_failed_attempt_is_repeated_with_other_weights(store: Store) -> None:
    evaluator = {"name": SCRIPTED, "faults": {2: "diverge"}, "once": True}
    run(store, configure(evaluator=evaluator, trials=5, name="faulty"))
    clean = run(store, configure(trials=5))
    trial = store.trial(store.search("faulty").id, 2)
    assert trial.state == "completed"
    assert trial.attempt == 1
    assert trial.seed != clean[2][4]


@pytest.mark.parametrize("fault", ["raise", "diverge", "memory"])
def test_a_failing_trial_is_one_row_and_the_search_goes_on(store: Store, fault: str) -> None:
    config = configure(evaluator={"name": SCRIPTED, "faults": {2: fault}}, trials=6, retries=2)
    search = start(store, config)
    search.run(InlineExecutor(config, config.make_tasks()))
    trials = store.trials(store.search("@last").id)
    assert [t.state for t in trials].count("failed") == 1
    assert trials[2].state == "failed"
    assert trials[2].attempt == 2
    assert trials[2].error
    assert trials[2].score is None
    assert len(trials) == 6


def test_too_many_failures_end_the_search(store: Store) -> None:
    faults = dict.fromkeys(range(30), "raise")
    config = configure(evaluator={"name": SCRIPTED, "faults": faults}, trials=20, max_failed=0.2, retries=0)
    search = start(store, config)
    with pytest.raises(TooManyFailures, match="nas show"):
        search.run(InlineExecutor(config, config.make_tasks()))
    assert store.search("@last").state == "failed"
    assert len(store.trials(store.search("@last").id)) == 5


def test_a_stop_request_ends_the_search_between_trials(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.search.HEARTBEAT_SECONDS", 0.0)
    config = configure(name="stops")
    search = start(store, config)

    class Stopping(Watcher):
        def recorded(self, number: int, outcome: Outcome) -> None:
            if number == 4:
                store.request_stop(store.search("stops").id)

    search._observer = Stopping()
    assert search.run(InlineExecutor(config, config.make_tasks())) == "stopped"
    assert store.search("stops").state == "stopped"
    assert 5 <= len(store.trials(store.search("stops").id)) < 30
    assert reopen(store, "stops").run(InlineExecutor(config, config.make_tasks())) == "completed"
    assert results(store, "stops") == run(store, configure())


class Script(Executor):
    """Ends each attempt as told, in this process."""

    def __init__(self, attempts: list[Outcome | None]) -> None:
        self._attempts = attempts

    def run(self, workload: Workload) -> None:
        for outcome in self._attempts:
            job = workload.next()
            assert job is not None
            if outcome is None:
                workload.lost(job, "killed")
            else:
                assert isinstance(job, Job)
                workload.finish(job, replace(outcome, architecture=job.architecture))


class Noting(Controller):
    """Random search that keeps what it observes."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space, self.seen = space, list[Outcome]()

    def propose(
        self, number: int, pending: Sequence[Architecture], rng: np.random.Generator
    ) -> Proposal | None:
        return Evaluate(self._space.sample(rng))

    def observe(self, number: int, outcome: Outcome) -> None:
        self.seen.append(outcome)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_observed_is_what_a_replay_tells(
    store: Store, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score that is not finite is none, live as after a resume."""
    monkeypatch.setattr(SearchConfig, "make_controller", lambda self, space, tasks: Noting(space, 0))
    config = configure(trials=2, name="s", deduplicate=False)
    live = start(store, config)
    outcomes = [Outcome(State.COMPLETED, None, Score(x, 0.5, 9), seconds=1.0) for x in (value, 0.25)]
    assert live.run(Script([*outcomes])) == "completed"
    again = reopen(store, "s")
    again._replay()
    seen, replayed = (search._controller.seen for search in (live, again))  # type: ignore[attr-defined]
    assert seen == replayed
    assert [outcome.score and outcome.score.value for outcome in seen] == [None, 0.25]
    assert [outcome.state for outcome in seen] == ["completed"] * 2


def test_every_attempt_counts_its_seconds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed one what it reported, a lost one the time on the clock; a resume counts the same."""
    clock = itertools.count(0, 10)
    config = configure(trials=3, name="s", retries=2, controller="random", max_failed=1.0, max_seconds=1e6)
    failed = Outcome(State.FAILED, None, seconds=3.0, error="diverged")
    good = Outcome(State.COMPLETED, None, Score(0.5, 0.1, 9), seconds=2.0)
    live = start(store, config)
    monkeypatch.setattr("nas.ledger.time.monotonic", lambda: float(next(clock)))
    attempts: list[Outcome | None] = [failed, failed, good, None, None, None]
    assert live.run(Script([*attempts, failed, good])) == "completed"
    trials = store.trials(store.search("s").id)
    assert trials[0].seconds == 3 + 3 + 2
    lost = trials[1].seconds
    assert trials[1].state == "failed"
    assert lost is not None
    assert lost >= 3 * 10
    assert trials[2].seconds == 3 + 2
    again = reopen(store, "s")
    again._replay()
    assert again._ledger._spent == live._ledger._spent == 8 + lost + 5


def test_the_seconds_of_a_failed_attempt_survive_the_driver(store: Store) -> None:
    config = configure(trials=1, name="s", retries=2)
    failed = Outcome(State.FAILED, None, seconds=3.0, error="diverged")
    good = Outcome(State.COMPLETED, None, Score(0.5, 0.1, 9), seconds=2.0)
    assert start(store, config).run(Script([failed])) == "interrupted"
    assert (store.trial(store.search("s").id, 0).attempt, store.search("s").state) == (1, "interrupted")
    assert reopen(store, "s").run(Script([good])) == "completed"
    assert store.trial(store.search("s").id, 0).seconds == 5.0


def test_a_lost_supernet_counts_what_its_checkpoint_tells_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("nas.ledger.time.monotonic", lambda: now[0])
    job = SupernetJob(0, 0, TrainSupernet("x"), 7, "one", "folder")
    first = Attempt(1, job)
    first.report(Outcome(State.RUNNING, None, seconds=8.0))
    now[0] = 10.0
    second = first.again(replace(job, attempt=1), first.seconds)
    assert (second.spent, second.kept) == (2.0, 8.0)
    now[0] = 15.0
    assert second.seconds == 15.0
    assert (third := second.again(replace(job, attempt=2, seed=8), 15.0)).spent == 15.0
    assert third.kept == 0


def test_asha_stops_trials_and_survives_a_resume(store: Store) -> None:
    changes: dict[str, Any] = {
        "scheduler": {"minimum": 30, "eta": 3},
        "controller": "random",
        "budget": {"train_episodes": 300},
        "trials": 40,
    }
    config = configure(name="asha", **changes)
    whole = run(store, config)
    assert 5 < [row[1] for row in whole].count("stopped") < 40
    broken = configure(name="asha-broken", **changes)
    with pytest.raises(Killed):
        start(store, broken).run(Dying(broken, 15))
    reopen(store, "asha-broken").run(InlineExecutor(broken, broken.make_tasks()))
    assert results(store, "asha-broken") == whole


def test_a_second_driver_is_refused(store: Store) -> None:
    config = configure(trials=3)
    search = start(store, config)
    row = store.search("@last")
    store.acquire(row.id)
    with store._database.write() as connection:
        connection.execute(text("UPDATE searches SET pid = 1"))  # init lives, and is not this process
    with pytest.raises(ConfigError, match="is being run by pid 1"):
        search.run(InlineExecutor(config, config.make_tasks()))


def test_a_driver_that_was_taken_over_writes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.search.HEARTBEAT_SECONDS", 0.0)
    config = configure(name="taken", trials=6)
    search = start(store, config)

    class Taken(Watcher):
        def recorded(self, number: int, outcome: Outcome) -> None:
            if number == 2:
                with store._database.write() as connection:
                    connection.execute(text("UPDATE searches SET pid = 1, heartbeat_at = '2100-01-01'"))

    search._observer = Taken()
    with pytest.raises(StorageError, match="another took it over"):
        search.run(InlineExecutor(config, config.make_tasks()))
    row = store.search("taken")
    assert (row.state, row.pid) == ("running", 1)
    assert [trial.number for trial in store.history(row.id)] == [0, 1, 2]


def test_a_learner_that_cannot_learn_the_tasks_is_refused(store: Store) -> None:
    config = configure(learner="prototypical")
    with pytest.raises(ConfigError, match="prototypical"):
        create(store, config, config.make_tasks())
    assert store.searches() == []


def test_results_hold_what_comparisons_need(store: Store) -> None:
    config = configure(name="rich")
    run(store, config)
    row = store.search("rich")
    assert validate(row.config) == config
    assert row.settings == config.settings
    assert {"torch", "ray", "python"} <= row.environment.keys()
    trial = store.trial(row.id, 0)
    assert (trial.episodes, trial.normalization, trial.split) == (100, "transductive", "scripted/validation")


def test_settings_hash_ignores_what_scores_do_not_depend_on() -> None:
    base = configure()
    for change in ({"trials": 5}, {"seed": 9}, {"controller": "random"}, {"name": "x"}, {"retries": 0}):
        assert configure(**change).settings == base.settings
    assert configure(budget={"train_episodes": 7}).settings != base.settings
    assert copy.deepcopy(base).settings == base.settings
