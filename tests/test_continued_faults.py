"""Trainings that go on from one another while jobs fail, and workers and the driver die at any moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_searches import Killed, Silent, configure

from nas.controller import Outcome, Score
from nas.driver.creation import create
from nas.driver.records import configuration
from nas.driver.search import SearchDriver
from nas.evaluator import Job
from nas.executors.base import Executor, Workload
from nas.settings.search import SearchConfig
from nas.states import TrialState
from nas.storage.store import Store
from nas.training.checkpoint import Checkpoint

SLOTS = {"learner": {"lr": [0.001, 0.01, 0.1], "meta_batch": [2, 4]}}
POPULATION = {"population": 3, "interval": 10}
SEARCHES: dict[str, dict[str, Any]] = {
    "pbt": {"controller": {"name": "pbt", **POPULATION}, "slots": SLOTS, "trials": 15},
    "pba": {"controller": {"name": "pba", **POPULATION}, "slots": SLOTS, "trials": 15},
    "lamarckian": {"controller": {"name": "lamarckian", "population": 3, "sample": 2}},
}
ENDINGS = [TrialState.COMPLETED, TrialState.FAILED, TrialState.STOPPED, TrialState.INFEASIBLE, None]
CHANCES = [0.55, 0.2, 0.05, 0.05, 0.15]
"""Of the endings of an attempt; None: its worker dies."""


class Unruly(Executor):
    """Ends jobs by chance, in any order; the driver is killed after some events.

    A job that completes leaves a state. One that goes on from another finds its state, and has its seed.
    """

    def __init__(self, rng: np.random.Generator, folder: Path, ended: dict[int, Job]) -> None:
        self._rng, self._folder, self._ended = rng, folder, ended
        self._workers = int(rng.integers(1, 5))

    def run(self, workload: Workload) -> None:
        """Run jobs to the end, or to the driver's."""
        running: list[Job] = []
        for _ in range(int(self._rng.integers(1, 40))):
            job = workload.next() if len(running) < self._workers and self._rng.random() < 0.7 else None
            if job is not None:
                self._begin(job)
                running.append(job)
            elif running:
                self._end(running.pop(int(self._rng.integers(len(running)))), workload)
            elif workload.done:
                return
        raise Killed

    def _begin(self, job: Job) -> None:
        if job.parent is not None:
            parent = self._ended[job.parent]
            assert job.seed == parent.seed
            assert job.lineage[-1].name == parent.name
            assert Checkpoint(self._folder, parent.name).path.exists()

    def _end(self, job: Job, workload: Workload) -> None:
        ending = ENDINGS[self._rng.choice(len(ENDINGS), p=CHANCES)]
        if ending is None:
            workload.lost(job, "killed")
            return
        score = Score(float(self._rng.random()), 0.1, 5)
        if ending is TrialState.COMPLETED and job.episodes is not None:
            Checkpoint(self._folder, job.name).save({})
            self._ended[job.number] = job
        scored = score if ending in (TrialState.COMPLETED, TrialState.STOPPED) else None
        workload.finish(job, Outcome(ending, job.architecture, scored, job.episodes or 40, 0.5))


def learned(driver: SearchDriver) -> dict[str, Any]:
    """Return what the controllers of a driver know."""
    found: dict[str, Any] = {}
    controller: Any = driver._controller
    while controller is not None:
        own = dict(vars(controller))
        controller = own.pop("_controller", None)
        own["_tried"] = getattr(own.get("_tried"), "_keys", None)
        found |= {name: value for name, value in own.items() if "space" not in name}
    return found


def survive(store: Store, config: SearchConfig, folder: Path, seed: int) -> set[str]:
    """Run a search through whatever chance has for it; return the states of its trials."""
    rng, ended = np.random.default_rng(seed), dict[int, Job]()
    tasks, space = config.make_source(), config.make_space()
    name = create(store, config, tasks).name

    def taken_up() -> SearchDriver:
        row = store.search(name)
        return SearchDriver(store, row, configuration(row), space, tasks, Silent(), folder)

    while True:
        live = taken_up()
        try:
            live.run(Unruly(rng, folder, ended))
        except Killed:
            replayed = taken_up()
            replayed._replay()
            assert learned(replayed) == learned(live)
        else:
            rows = store.trials(store.search(name).id)
            assert not list(folder.glob("checkpoints/*"))
            return {row.state for row in rows}


@pytest.mark.parametrize("seed", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4, 5, 6, 8))])
@pytest.mark.parametrize("controller", SEARCHES)
def test_no_state_that_is_needed_is_dropped(store: Store, tmp_path: Path, controller: str, seed: int) -> None:
    """A resumed search knows what the one before knew, whatever was lost."""
    changes = {"budget": {"train_episodes": 40}, "max_failed": 1.0, "learner": "maml", "seed": seed}
    config = configure(**{**changes, **SEARCHES[controller]})
    assert {"paused", "failed"} <= survive(store, config, tmp_path, seed)
