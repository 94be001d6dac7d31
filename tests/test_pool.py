"""The loop over workers, with workers that do nothing but what a test says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from facts import refusal

from nas.errors import Stillborn
from nas.executors import pool
from nas.executors.pool import Died, PoolExecutor, Ready, Word, Worker


class End(NamedTuple):
    final: bool = True


class Scripted(Worker[int, Any]):
    def __init__(self, place: int, words: Sequence[Word[Any]]) -> None:
        super().__init__(place)
        self.words, self.killed, self.jobs = list(words), False, list[int]()

    def begin(self, job: int) -> None:
        self.job = job
        self.jobs.append(job)

    def answer(self, goes_on: bool) -> None: ...

    def hear(self) -> Word[Any]:
        return self.words.pop(0)

    def kill(self) -> None:
        self.killed = True


class Scripts(PoolExecutor[int, Any]):
    """Starts workers that say what the scripts do, in turn; one with nothing to say is not heard."""

    def __init__(self, workers: int, scripts: Sequence[Sequence[Word[Any]]]) -> None:
        self.said: list[str] = []
        super().__init__(workers, self.said.append)
        self.scripts, self.started = iter(scripts), list[Scripted]()

    def _start(self, place: int) -> Worker[int, Any]:
        self.started.append(Scripted(place, next(self.scripts, ())))
        return self.started[-1]

    def _heard(self, workers: Sequence[Worker[int, Any]], seconds: float) -> Sequence[Worker[int, Any]]:
        return [worker for worker in workers if isinstance(worker, Scripted) and worker.words][:1]


class Jobs:
    def __init__(self, count: int, left: int | None = None, stop: Callable[[], bool] = lambda: False) -> None:
        self.queue, self.running, self._left, self._stop = list(range(count)), set[int](), left, stop
        self.ended: list[int] = []
        self.deaths: list[str] = []

    @property
    def done(self) -> bool:
        return self._stop() or not (self.queue or self.running)

    @property
    def left(self) -> int:
        return len(self.queue) if self._left is None else self._left

    def next(self) -> int | None:
        if not self.queue or self._stop():
            return None
        self.running.add(self.queue[0])
        return self.queue.pop(0)

    def tick(self) -> None: ...

    def report(self, job: int, report: Any) -> bool:
        return True

    def finish(self, job: int, report: Any) -> None:
        self.running.remove(job)
        self.ended.append(job)

    def lost(self, job: int, error: str) -> None:
        self.running.remove(job)
        self.deaths.append(error)


def test_all_workers_are_asked_for_at_once_and_jobs_begin_on_those_that_are_ready() -> None:
    slow = Scripts(3, [(), (Ready(), *[End()] * 5), ()])
    jobs = Jobs(5)
    slow.run(jobs)
    assert [worker.jobs for worker in slow.started] == [[], [0, 1, 2, 3, 4], []]
    assert all(worker.killed for worker in slow.started)
    assert jobs.ended == [0, 1, 2, 3, 4]


def test_no_more_workers_start_than_there_may_be_jobs_for() -> None:
    few = Scripts(8, [(Ready(), End(), End()), (Ready(), End(), End())])
    few.run(Jobs(2))
    assert len(few.started) == 2
    one = Scripts(8, [(Ready(), End(), End())])
    one.run(Jobs(2, left=0))
    assert len(one.started) == 1


def test_a_worker_that_dies_is_replaced_at_its_place() -> None:
    jobs = Jobs(3)
    mortal = Scripts(1, [(Ready(), End(), Died("why")), (Ready(), End())])
    mortal.run(jobs)
    assert (jobs.ended, jobs.deaths) == ([0, 2], ["why"])
    assert [worker.place for worker in mortal.started] == [0, 0]
    assert mortal.started[0].killed


def test_workers_that_die_before_they_are_ready_cost_no_job_and_end_the_run() -> None:
    jobs = Jobs(3)
    patient = Scripts(1, [(Died("why"),)] * pool.DEATHS + [(Ready(), End(), End(), End())])
    patient.run(jobs)
    assert (jobs.ended, jobs.deaths) == ([0, 1, 2], [])
    with refusal(Stillborn, "the last cause"):
        Scripts(1, [(Died("the last cause"),)] * (pool.DEATHS + 1)).run(jobs := Jobs(3))
    assert jobs.deaths == []


def test_workers_whose_machine_goes_before_they_are_ready_end_nothing() -> None:
    """However many: machines come and go, and the next one may stay."""
    jobs = Jobs(2)
    Scripts(1, [(Died("gone", gone=True),)] * 3 * pool.DEATHS + [(Ready(), End(), End())]).run(jobs)
    assert (jobs.ended, jobs.deaths) == ([0, 1], [])


def test_a_stop_ends_the_wait_for_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    looks = iter([False] * 30)
    nobody = Scripts(2, [])
    nobody.run(Jobs(3, stop=lambda: next(looks, True)))
    assert all(worker.killed for worker in nobody.started)
    assert 2 <= len(nobody.said) <= 5  # after 30 s, 60 s, 120 s…
    assert "2 " in nobody.said[0]
