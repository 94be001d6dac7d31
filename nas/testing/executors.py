"""What every executor promises, for the trials of a search as for evaluations."""

from __future__ import annotations

import itertools
import os
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, final

import numpy as np
import pytest
from pydantic import Field

from nas.controller import Outcome
from nas.driver.trials import Trials
from nas.errors import StorageError, Unready, Unwritable
from nas.evaluation.work import EvaluationJob, Failure, Report, Trainings
from nas.evaluator import Job
from nas.executors.base import Executor, JobT, MakeRunner, ReportT, Runner
from nas.settings import evaluation, search
from nas.space import TaskShape
from nas.states import TrialState
from nas.storage.evaluations import Trained
from nas.tasks.base import Episode, Split, TaskSource
from nas.tasks.sinusoid import Sinusoid
from nas.testing.evaluators import Fault, fail
from nas.testing.toys import Toy


class Recorder(Generic[JobT, ReportT]):
    """A workload that notes what its executor does with it.

    Args:
        jobs: to run.
        stop_at: number of the job that is stopped at its first report.
        broken: the verb that raises, once it is under way.
    """

    def __init__(self, jobs: Sequence[JobT], stop_at: int | None = None, broken: str | None = None) -> None:
        self._jobs, self._queue = list(jobs), deque(jobs)
        self._open: set[int] = set()
        self._stop_at = stop_at
        self._broken = broken
        self.most = 0
        self.ticks = 0
        self.ends: dict[int, ReportT] = {}
        self.deaths: dict[int, str] = {}
        self.reports: dict[int, list[ReportT]] = {}

    @property
    def done(self) -> bool:
        """Whether there will be no further job."""
        return not self._queue and not self._open

    @property
    def left(self) -> int:
        """How many jobs wait for a worker."""
        return len(self._queue)

    def next(self) -> JobT | None:
        """Return the next job."""
        self._break("next")
        if not self._queue:
            return None
        job = self._queue.popleft()
        self._open.add(self._number(job))
        self.most = max(self.most, len(self._open))
        return job

    def tick(self) -> None:
        """Count."""
        self._break("tick")
        self.ticks += 1

    def report(self, job: JobT, report: ReportT) -> bool:
        """Note the report; stop the job that is to be stopped."""
        self._break("report")
        number = self._number(job)
        assert number in self._open
        assert not report.final
        self.reports.setdefault(number, []).append(report)
        return number != self._stop_at

    def finish(self, job: JobT, report: ReportT) -> None:
        """Note how a job ended."""
        self._break("finish")
        number = self._number(job)
        assert report.final == (number != self._stop_at)
        self._open.remove(number)
        self.ends[number] = report

    def lost(self, job: JobT, error: str) -> None:
        """Note the death."""
        number = self._number(job)
        self._open.remove(number)
        self.deaths[number] = error

    def _number(self, job: JobT) -> int:
        """Return the number of a job: it must be the very one that was given."""
        return next(number for number, given in enumerate(self._jobs) if given is job)

    def _break(self, verb: str) -> None:
        """Raise from the verb that is to be broken, though not at once."""
        if verb == self._broken and (self.reports or (verb == "next" and len(self._queue) < 3)):
            raise StorageError("the disk is gone")


@dataclass(frozen=True, slots=True)
class Span:
    """When a job ran, by the clock of this machine, and in which process."""

    final: ClassVar[bool] = True
    began: float
    ended: float
    process: int


class Sleeper(Runner[int, Span]):
    """Sleeps through each job; the first worker of all is ready at once, and each further one a second later.

    Args:
        folder: where workers find out which one they are.
        seconds: of a job.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds

    def warm(self) -> None:
        """Take a number, and start as slowly as that."""
        for number in itertools.count():
            with suppress(FileExistsError):
                (self._folder / str(number)).touch(exist_ok=False)
                time.sleep(number)
                return

    def run(self, job: int) -> Iterator[Span]:
        """Yield when it ran."""
        began = time.monotonic()
        time.sleep(self._seconds)
        yield Span(began, time.monotonic(), os.getpid())

    def failure(self, job: int, state: TrialState, error: str) -> Span:
        """There is none."""
        raise AssertionError(error)


class Lame(Sleeper):
    """Never gets ready."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 0)

    def warm(self) -> None:
        """Fail."""
        raise FileNotFoundError(f"no such folder: {self._folder}")


class Work(NamedTuple):
    """Jobs, and what makes the runner that runs them."""

    make: MakeRunner[Any, Any]
    jobs: Sequence[Any]


def trials(folder: Path, count: int, faults: Mapping[int, Fault] | None = None, seconds: float = 0) -> Work:
    """Return trials that report at two rungs; some have faults, by number."""
    config = search.validate(
        {
            "space": "nas.testing.toys:Toy",
            "controller": "random",
            "tasks": "sinusoid",
            "learner": "maml",
            "evaluator": {
                "name": "nas.testing.evaluators:Scripted",
                "faults": dict(faults or {}),
                "seconds": seconds,
            },
            "scheduler": {"minimum": 10, "eta": 2},
            "budget": {"train_episodes": 40},
        }
    )
    space = Toy()
    first = space.decode(".".join("0" for _ in space.decisions))
    around = [first, *space.neighbours(first)]
    jobs = [Job(n, 0, around[n % len(around)], seed=n) for n in range(count)]
    return Work(partial(Trials, config, config.make_source()), jobs)


@final
class Faulty(TaskSource):
    """Sinusoids with each input given twice; its training tasks may be none."""

    name: ClassVar[str] = "faulty"

    def __init__(
        self, *, fault: Annotated[Fault | None, Field(description="what goes wrong in training")] = None
    ) -> None:
        self._fault, self._waves = fault, Sinusoid(shots=2, queries=2)

    @property
    def shape(self) -> TaskShape:
        """Two numbers to a number."""
        return TaskShape((2,), 1)

    @property
    def label(self) -> str:
        """That of the sinusoids."""
        return self._waves.label

    def fingerprint(self, split: Split) -> tuple[str, str]:
        """Return that of the sinusoids."""
        return self._waves.fingerprint(split)

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        """Fail, or draw tasks."""
        fail(self._fault if split == "train" else None)
        wave = self._waves.sample(split, tasks, rng)
        support, query = wave.support_x.expand(-1, -1, 2), wave.query_x.expand(-1, -1, 2)
        return replace(wave, support_x=support, query_x=query)


def evaluations(
    folder: Path, count: int, faults: Mapping[int, Fault] | None = None, seconds: float = 0
) -> Work:
    """Return evaluations that report after two validations and before the test; some have faults."""
    space = Toy()
    jobs = []
    for number in range(count):
        fault = (faults or {}).get(number)
        config = evaluation.validate(
            {
                "space": "nas.testing.toys:Toy",
                "tasks": {"name": "nas.testing.executors:Faulty", **({"fault": fault} if fault else {})},
                "learner": {"name": "maml", "meta_batch": 2},
                "budget": {"train_episodes": 4, "validate_every": 2, "validation_episodes": 2},
            }
        )
        few = config.budget.model_copy(update={"test_episodes": 10 + int(1000 * seconds)})
        config = config.model_copy(update={"budget": few})
        text = space.encode(space.decode(".".join("0" for _ in space.decisions)))
        jobs.append(EvaluationJob(number, f"job-{number}", config, text, seed=number, folder=folder))
    return Work(Trainings, jobs)


def state(report: Outcome | Report) -> str:
    """Return the state that a final report ends in."""
    if isinstance(report, Trained):
        return "completed"
    assert isinstance(report, Outcome | Failure)
    return report.state


KINDS = pytest.mark.parametrize("kind", [trials, evaluations])


class ExecutorSuite(ABC):
    """Tests that every executor passes; a subclass says how to make one, and whether its workers may die."""

    isolated = True
    """Whether jobs run outside this process."""

    @abstractmethod
    def make(self, make: MakeRunner[Any, Any], workers: int) -> Executor[Any, Any]:
        """Return the executor to test."""

    def run(
        self, work: Work, workers: int = 1, *, stop_at: int | None = None, broken: str | None = None
    ) -> Recorder[Any, Any]:
        """Run jobs to their ends."""
        workload = Recorder[Any, Any](work.jobs, stop_at, broken)
        self.make(work.make, workers).run(workload)
        assert workload.done
        return workload

    @KINDS
    def test_every_job_ends_once(self, kind: Any, tmp_path: Path) -> None:
        workload = self.run(kind(tmp_path, 5))
        assert sorted(workload.ends) == list(range(5))
        assert {state(report) for report in workload.ends.values()} == {"completed"}
        assert workload.most == 1
        assert workload.ticks > 0

    def test_outcomes_belong_to_their_jobs(self, tmp_path: Path) -> None:
        work = trials(tmp_path, 6)
        first, second = self.run(work), self.run(work)
        assert first.ends == second.ends
        assert [first.ends[n].architecture for n in range(6)] == [job.architecture for job in work.jobs]

    def test_weights_belong_to_their_jobs(self, tmp_path: Path) -> None:
        work = evaluations(tmp_path, 2)
        ends = self.run(work).ends
        assert [Path(ends[n].weights.uri).name.rpartition("-")[0] for n in range(2)] == ["job-0", "job-1"]
        assert ends[0].scores != ends[1].scores
        again = self.run(evaluations(tmp_path / "again", 2)).ends
        assert [again[n].scores for n in range(2)] == [ends[n].scores for n in range(2)]

    def test_no_job_is_no_error(self, tmp_path: Path) -> None:
        assert self.run(trials(tmp_path, 0)).ends == {}

    @KINDS
    @pytest.mark.parametrize("fault", ["raise", "diverge", "memory"])
    def test_a_failure_costs_one_job(self, kind: Any, fault: Fault, tmp_path: Path) -> None:
        ends = self.run(kind(tmp_path, 3, {1: fault})).ends
        assert [state(ends[n]) for n in range(3)] == ["completed", "failed", "completed"]
        assert ends[1].error

    @KINDS
    def test_infeasible_is_told_from_failed(self, kind: Any, tmp_path: Path) -> None:
        end = self.run(kind(tmp_path, 2, {0: "infeasible"})).ends[0]
        assert state(end) == "infeasible"
        assert end.error == "No network has so many layers."

    def test_reports_come_at_rungs(self, tmp_path: Path) -> None:
        reports = self.run(trials(tmp_path, 2), stop_at=1).reports
        assert [outcome.train_episodes for outcome in reports[0]] == [10, 20]
        assert [outcome.train_episodes for outcome in reports[1]] == [10]

    @KINDS
    def test_a_job_may_be_stopped_at_a_report(self, kind: Any, tmp_path: Path) -> None:
        workload = self.run(kind(tmp_path, 3), stop_at=1)
        assert len(workload.reports[0]) > 1
        assert workload.reports[1] == [workload.ends[1]]
        assert [state(workload.ends[n]) for n in (0, 2)] == ["completed", "completed"]

    @KINDS
    def test_a_killed_worker_costs_one_job(self, kind: Any, tmp_path: Path) -> None:
        if not self.isolated:
            pytest.skip("jobs run in this very process")
        workload = self.run(kind(tmp_path, 3, {1: "kill"}))
        assert set(workload.deaths) == {1}
        assert "died" in workload.deaths[1]
        assert sorted(workload.ends) == [0, 2]

    def test_what_cannot_be_written_ends_the_run(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(Unwritable):
            self.run(evaluations(tmp_path / "file" / "folder", 2))

    def test_a_worker_that_sees_another_folder_ends_the_run(self, tmp_path: Path) -> None:
        work = evaluations(tmp_path, 2)
        with pytest.raises(Unwritable):
            self.run(work._replace(make=partial(Trainings, (), tmp_path / "mark")))
        assert list(tmp_path.iterdir()) == []

    @KINDS
    @pytest.mark.parametrize("verb", ["next", "report", "finish", "tick"])
    def test_what_the_workload_raises_ends_the_run(self, kind: Any, verb: str, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="the disk is gone"):
            self.run(kind(tmp_path, 4), broken=verb)

    def test_workers_work_side_by_side(self, tmp_path: Path) -> None:
        """What is counted is the time that workers spend on jobs, once all of them are ready."""
        if not self.isolated:
            pytest.skip("one job at a time")
        workers, seconds, jobs = 2, 0.5, 24
        spans = self.run(Work(partial(Sleeper, tmp_path, seconds), range(jobs)), workers).ends.values()
        first = [min(span.began for span in spans if span.process == p) for p in {s.process for s in spans}]
        assert len(first) == workers  # a worker is used for many jobs, and none is left out
        begin, end = max(first), sorted(span.ended for span in spans)[-workers]
        busy = sum(max(min(span.ended, end) - max(span.began, begin), 0.0) for span in spans)
        assert busy > 0.9 * workers * (end - begin)

    def test_a_worker_that_cannot_start_ends_the_run(self, tmp_path: Path) -> None:
        with pytest.raises(Unready, match=f"{socket.gethostname()}.*no such folder"):
            self.run(Work(partial(Lame, tmp_path / "none"), range(3)))

    def test_what_wants_no_worker_starts_none(self, tmp_path: Path) -> None:
        self.run(Work(partial(Lame, tmp_path / "none"), ()))
