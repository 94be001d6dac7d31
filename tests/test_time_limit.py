"""`resources.seconds`: what takes longer ends, wherever it is, and the search goes on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import final

import pytest
from command_line import nas
from scripted_searches import configure, reopen, start

from nas.controller import Outcome, Score
from nas.driver.trials import executor
from nas.evaluator import Context, Evaluator, Job
from nas.executors.limit import Overtime, limited
from nas.states import TrialState
from nas.storage.store import Store


@final
class Hanging(Evaluator):
    """Hangs in trial 1, in code that keeps every Exception; trial 2 hangs after a rung."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def evaluate(self, job: Job) -> Iterator[Outcome]:
        score = Score(0.5, 0.1, 4)
        if job.number == 2:
            yield Outcome(TrialState.RUNNING, job.architecture, score, 10)
        while job.number in (1, 2):
            try:
                time.sleep(0.01)
            except Exception:
                continue
        yield Outcome(TrialState.COMPLETED, job.architecture, score, 40)


def test_trials_that_hang_end_and_the_search_goes_on(store: Store) -> None:
    config = configure(
        name="s",
        evaluator="test_time_limit:Hanging",
        trials=4,
        deduplicate=False,
        scheduler={"minimum": 10, "eta": 2},
        budget={"train_episodes": 40},
        resources={"seconds": 0.3},
    )
    assert start(store, config).run(executor(config, config.make_tasks())) == "completed"
    trials = store.trials(store.search("s").id)
    assert [trial.state for trial in trials] == ["completed", "failed", "stopped", "completed"]
    late, stopped = trials[1:3]
    assert late.attempt == 0
    assert late.seconds is not None
    assert late.seconds >= 0.3
    assert late.error is not None
    assert "resources.seconds = 0.3" in late.error
    assert (stopped.score, stopped.train_episodes) == (0.5, 10)
    assert reopen(store, "s").ending is None


def test_the_limit_ends_with_its_block() -> None:
    with pytest.raises(Overtime), limited(0.05):
        time.sleep(10)
    with limited(0.05):
        pass
    time.sleep(0.1)
    with pytest.raises(Overtime), limited(-1.0):
        raise AssertionError


def test_elsewhere_than_in_the_main_thread_nothing_is_interrupted() -> None:
    ended: list[bool] = []

    def run() -> None:
        with limited(0.01):
            time.sleep(0.05)
        ended.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ended == [True]


@pytest.mark.slow
def test_a_supernet_ends_with_its_epoch_and_derives(db: Path) -> None:
    nas(
        *("run", "--space=nas.testing.toy_supernet:ToyCurves", "--controller=nas.testing.oneshot:ToyOneShot"),
        *("--tasks=sinusoid", "--learner=maml", "--set=learner.inner_lr=0.01", "--executor=inline"),
        *("--name=s", "--trials=3", "--derive=2", "--set=controller.budget.epochs=3"),
        *("--set=budget.train_episodes=4", "--set=budget.validation_episodes=4"),
        "--set=resources.seconds=0.000001",
    )
    supernet = json.loads(nas("show", "s/0", "-f", "json")[1])
    assert (supernet["state"], len(supernet["derived_epochs"]), len(supernet["derived"])) == (
        "completed",
        1,
        2,
    )
    assert "resources.seconds" in supernet["error"]
    assert json.loads(nas("show", "s/1", "-f", "json")[1])["state"] == "failed"
