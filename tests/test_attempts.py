"""How often trials, supernets and evaluations are tried: one setting, `retries`, counts for all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted_searches import Script, configure, reopen, start

from nas.controller import Outcome, Score
from nas.errors import NasError
from nas.evaluation.driver import EvaluationDriver
from nas.evaluation.targets import Targets
from nas.evaluation.work import Failure
from nas.evaluator import Job
from nas.executors.attempts import DEATHS
from nas.executors.base import Executor, Workload
from nas.progress.evaluations import watching
from nas.settings.evaluation import validate
from nas.states import EvaluationState, TrialState
from nas.storage.store import Store
from nas.testing.stores import begin, search

ONE_SHOT = {"name": "darts", "derive": 1, "budget": {"epochs": 1, "steps": 1, "validation_episodes": 2}}
SINUSOID = {"space": "mlp", "tasks": "sinusoid", "learner": {"name": "maml", "inner_lr": 0.01}}


class Doomed(Executor):
    """Ends every job the same way, in this process; None: its worker dies. Counts the jobs."""

    def __init__(self, end: Any) -> None:
        self._end, self.jobs = end, list[Any]()

    def run(self, workload: Workload) -> None:
        """Take jobs until there is none."""
        while (job := workload.next()) is not None:
            self.jobs.append(job)
            if self._end is None:
                workload.lost(job, "killed")
            elif isinstance(self._end, Outcome):
                architecture = job.architecture if isinstance(job, Job) else None
                workload.finish(job, replace(self._end, architecture=architecture))
            else:
                workload.finish(job, self._end)


FAILED = Outcome(TrialState.FAILED, None, seconds=1.0, error="OSError: no")


@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize("end", [FAILED, None], ids=["failed", "lost"])
@pytest.mark.parametrize("kind", ["trial", "supernet"])
def test_a_search_tries_so_often(store: Store, kind: str, end: Outcome | None, retries: int) -> None:
    one_shot = {"space": "nas.testing.toy_supernet:ToyCurves", "controller": ONE_SHOT}
    changes: dict[str, Any] = {"trials": 1} if kind == "trial" else one_shot
    executor = Doomed(end)
    with pytest.raises(NasError):
        start(store, configure(name="s", retries=retries, max_failed=0.0, **changes)).run(executor)
    further = DEATHS if end is None else retries
    assert [job.attempt for job in executor.jobs] == [*range(further + 1)]
    assert len({job.seed for job in executor.jobs}) == (1 if end is None else retries + 1)
    assert store.trial(store.search("s").id, 0).attempt == further


GOOD = Outcome(TrialState.COMPLETED, None, Score(0.5, 0.1, 9), seconds=2.0)


def test_deaths_of_workers_leave_a_network_its_retries(store: Store) -> None:
    """Two machines are taken away, the training fails once, and another machine is: it is no failed trial."""
    search = start(store, configure(name="s", trials=1, retries=1, max_failed=0.0))
    assert search.run(Script([None, None, FAILED, None, GOOD])) == "completed"
    trial = store.trial(store.search("s").id, 0)
    assert (trial.state, trial.attempt) == ("completed", 4)


def test_a_resumed_search_knows_what_failed_and_what_died(store: Store) -> None:
    search = start(store, configure(name="s", trials=1, retries=1, max_failed=0.0))
    assert search.run(Script([None, None, None])) == "interrupted"
    assert reopen(store, "s").run(Script([FAILED, None])) == "interrupted"
    with pytest.raises(NasError):
        reopen(store, "s").run(Script([FAILED]))
    assert store.trial(store.search("s").id, 0).attempt == 5


def targets(store: Store, **changes: Any) -> Targets:
    return Targets(store, lambda values: values.update(changes))


def ended(store: Store, folder: Path, end: Failure | None, **settings: Any) -> tuple[int, str]:
    """Return how many jobs one evaluation took, and its state."""
    chosen = targets(store, **SINUSOID, **settings).choose(["mlp:maml"])
    executor = Doomed(end)
    with watching(1, lambda line: None, quiet=True) as observer:
        [[row]] = EvaluationDriver(store, folder, observer).run(chosen, 1, executor)
    assert [job.attempt for job in executor.jobs] == [*range(len(executor.jobs))]
    return len(executor.jobs), row.state


@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize("end", [Failure(EvaluationState.FAILED, "OSError: no"), None])
def test_an_evaluation_is_tried_so_often(
    store: Store, tmp_path: Path, end: Failure | None, retries: int
) -> None:
    further = DEATHS if end is None else retries
    assert ended(store, tmp_path, end, retries=retries) == (further + 1, "failed")


@pytest.mark.parametrize(
    "end", [Failure(EvaluationState.FAILED, "Diverged: nan"), Failure(EvaluationState.INFEASIBLE, "no")]
)
def test_what_would_fail_again_is_not_tried_again(store: Store, tmp_path: Path, end: Failure) -> None:
    assert ended(store, tmp_path, end, retries=3) == (1, end.state)


def test_no_result_depends_on_it(store: Store) -> None:
    once, often = (validate(SINUSOID | {"retries": retries}) for retries in (0, 5))
    for without in ("", "space"):
        assert once.digest({}, without=without) == often.digest({}, without=without)  # type: ignore[arg-type]
    assert once.lineage({}) == often.lineage({})


def test_an_evaluation_is_tried_as_often_as_its_search_says(store: Store) -> None:
    row = search(store, name="s", config=configure(**SINUSOID, retries=4).model_dump(mode="json"))
    begin(store, row, 0, architecture="maml", key="maml", space="mlp")
    [target] = targets(store).choose(["s/0"])
    assert target.config.retries == 4
    [target] = targets(store, retries=0).choose(["s/0"])
    assert target.config.retries == 0
