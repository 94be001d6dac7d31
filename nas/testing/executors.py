"""What every executor promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Any

import pytest

from nas.controller import Outcome, State
from nas.errors import StorageError
from nas.evaluator import AnyJob, Job
from nas.executors.base import Executor
from nas.settings.search import SearchConfig, validate
from nas.tasks.base import TaskSource
from nas.testing.toys import Toy


class Recorder:
    """A workload that notes what its executor does with it."""

    def __init__(self, jobs: int, stop_at: int | None = None, broken: str | None = None) -> None:
        space = Toy()
        first = space.decode(".".join("0" for _ in space.decisions))
        around = [first, *space.neighbours(first)]
        self._queue = deque(Job(n, 0, around[n % len(around)], seed=n) for n in range(jobs))
        self._open: set[int] = set()
        self._stop_at = stop_at
        self._broken = broken
        self.most = 0
        self.ticks = 0
        self.outcomes: dict[int, Outcome] = {}
        self.deaths: dict[int, str] = {}
        self.reports: dict[int, list[Outcome]] = {}

    @property
    def done(self) -> bool:
        """Whether there will be no further job."""
        return not self._queue and not self._open

    def next(self) -> AnyJob | None:
        """Return the next job."""
        self._break("next")
        if not self._queue:
            return None
        job = self._queue.popleft()
        self._open.add(job.number)
        self.most = max(self.most, len(self._open))
        return job

    def tick(self) -> None:
        """Count."""
        self._break("tick")
        self.ticks += 1

    def report(self, job: AnyJob, outcome: Outcome) -> bool:
        """Note the report; stop the job that is to be stopped."""
        self._break("report")
        assert job.number in self._open
        assert not outcome.state.final
        self.reports.setdefault(job.number, []).append(outcome)
        return job.number != self._stop_at

    def finish(self, job: AnyJob, outcome: Outcome) -> None:
        """Note the outcome."""
        self._break("finish")
        assert outcome.state.final
        self._open.remove(job.number)
        self.outcomes[job.number] = outcome

    def lost(self, job: AnyJob, error: str) -> None:
        """Note the death."""
        self._open.remove(job.number)
        self.deaths[job.number] = error

    def _break(self, verb: str) -> None:
        """Raise from the verb that is to be broken, though not at once."""
        if verb == self._broken and (self.reports or (verb == "next" and len(self._queue) < 3)):
            raise StorageError("the disk is gone")


class ExecutorSuite(ABC):
    """Tests that every executor passes; a subclass says how to make one, and whether its workers may die."""

    isolated = True
    """Whether trials run outside this process."""

    @abstractmethod
    def make(self, config: SearchConfig, tasks: TaskSource) -> Executor:
        """Return the executor to test."""

    def run(self, workload: Recorder, workers: int = 1, **settings: Any) -> Recorder:
        """Run a workload with the scripted evaluator."""
        config = validate(
            {
                "space": "nas.testing.toys:Toy",
                "controller": "random",
                "tasks": "sinusoid",
                "learner": "maml",
                "evaluator": {"name": "nas.testing.evaluators:Scripted", **settings.pop("script", {})},
                "executor": "ray" if self.isolated else "inline",
                "workers": workers,
                **settings,
            }
        )
        self.make(config, config.make_tasks()).run(workload)
        assert workload.done
        return workload

    def test_every_job_ends_once(self) -> None:
        workload = self.run(Recorder(12))
        assert sorted(workload.outcomes) == list(range(12))
        assert {outcome.state for outcome in workload.outcomes.values()} == {State.COMPLETED}
        assert workload.most == 1
        assert workload.ticks > 0

    def test_outcomes_belong_to_their_jobs(self) -> None:
        first, second = self.run(Recorder(6)), self.run(Recorder(6))
        assert first.outcomes == second.outcomes
        space = Toy()
        start = first.outcomes[0].architecture
        assert start is not None
        around = [start, *space.neighbours(start)]
        assert [first.outcomes[n].architecture for n in range(6)] == around[:6]

    def test_no_job_is_no_error(self) -> None:
        assert self.run(Recorder(0)).outcomes == {}

    @pytest.mark.parametrize("fault", ["raise", "diverge", "memory"])
    def test_a_failure_costs_one_trial(self, fault: str) -> None:
        workload = self.run(Recorder(4), script={"faults": {1: fault}})
        assert [workload.outcomes[n].state for n in range(4)] == [
            "completed",
            "failed",
            "completed",
            "completed",
        ]
        assert workload.outcomes[1].error
        assert workload.outcomes[1].score is None

    def test_infeasible_is_told_from_failed(self) -> None:
        workload = self.run(Recorder(3), script={"faults": {0: "infeasible"}})
        assert workload.outcomes[0].state is State.INFEASIBLE
        assert workload.outcomes[0].error == "No network has so many layers."

    def test_reports_at_rungs_and_stops(self) -> None:
        settings: dict[str, Any] = {"scheduler": {"minimum": 10, "eta": 2}, "budget": {"train_episodes": 40}}
        workload = self.run(Recorder(3, stop_at=1), **settings)
        assert [outcome.train_episodes for outcome in workload.reports[0]] == [10, 20]
        assert [outcome.train_episodes for outcome in workload.reports[1]] == [10]
        stopped = workload.outcomes[1]
        assert stopped.state is State.STOPPED
        assert stopped.train_episodes == 10
        assert stopped.score == workload.reports[1][0].score
        assert workload.outcomes[2].state is State.COMPLETED

    def test_a_killed_worker_costs_one_job(self) -> None:
        if not self.isolated:
            pytest.skip("trials run in this very process")
        workload = self.run(Recorder(4), script={"faults": {1: "kill"}})
        assert set(workload.deaths) == {1}
        assert "died" in workload.deaths[1]
        assert sorted(workload.outcomes) == [0, 2, 3]

    @pytest.mark.parametrize("verb", ["next", "report", "finish", "tick"])
    def test_what_the_workload_raises_ends_the_run(self, verb: str) -> None:
        settings: dict[str, Any] = {"scheduler": {"minimum": 10, "eta": 2}, "budget": {"train_episodes": 40}}
        with pytest.raises(StorageError, match="the disk is gone"):
            self.run(Recorder(4, broken=verb), **settings)

    def test_workers_work_side_by_side(self) -> None:
        if not self.isolated:
            pytest.skip("one trial at a time")
        workload = self.run(Recorder(8), workers=2, script={"seconds": 0.2})
        assert sorted(workload.outcomes) == list(range(8))
        assert workload.most == 2
