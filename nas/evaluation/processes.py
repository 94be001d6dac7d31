"""Worker processes: one evaluation at a time each, and none dies of another's death."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait

from nas.errors import Unwritable
from nas.evaluation.work import Failure, Job, Report, reports
from nas.storage.evaluations import Trained
from nas.storage.schema import EvaluationState

TICK_SECONDS = 1.0

_SPAWN = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in whatever state they are


def run(jobs: Iterator[Job], workers: int) -> Iterator[tuple[Job, Report] | None]:
    """Run jobs in up to `workers` processes of one torch thread each; yield their reports as they come.

    Where there are GPUs, the processes take them in turn.

    Every job ends with `Trained` or `Failure`, the latter too when its process dies; then another process
    takes the next job. None comes now and then, so that the caller may show signs of life. Leaving the
    iterator kills the processes: what runs is then as its last checkpoint has it.

    Args:
        jobs: asked for the next one when a process is free.
        workers: how many run at a time.

    Raises:
        Unwritable: a process cannot write the files of its job.
    """
    pool: list[_Worker] = []
    places = itertools.count()
    more = True
    try:
        while True:
            while more and sum(worker.job is not None for worker in pool) < workers:
                job = next(jobs, None)
                more = job is not None
                if job is not None:
                    idle = next((worker for worker in pool if worker.job is None), None)
                    if idle is None:
                        pool.append(idle := _Worker(next(places)))
                    idle.take(job)
            busy = {worker.connection: worker for worker in pool if worker.job is not None}
            if not busy:
                return
            ready = wait(list(busy), TICK_SECONDS)
            if not ready:
                yield None
            for connection in ready:
                worker = busy[connection]  # type: ignore[index]
                job, report = worker.report()
                if not worker.lives:
                    pool.remove(worker)
                yield job, report
    finally:
        for worker in pool:
            worker.kill()


class _Worker:
    """The driver's end of one process."""

    def __init__(self, place: int) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(theirs, place), daemon=True)
        with _ignoring_interrupts():  # which the process inherits: the driver alone answers to Ctrl-C
            self._process.start()
        theirs.close()
        self.job: Job | None = None
        self.lives = True

    def take(self, job: Job) -> None:
        self.job = job
        with suppress(OSError):  # it died while it had nothing to do: `report` will tell
            self.connection.send(job)

    def report(self) -> tuple[Job, Report]:
        job = self.job
        assert job is not None, "a worker without a job reports nothing"
        try:
            report: Report | Unwritable = self.connection.recv()
        except (EOFError, OSError):
            report = Failure(EvaluationState.FAILED, f"The worker process died: {self._death()}.")
            self.lives = False
            self.connection.close()
        if isinstance(report, Unwritable):
            raise report
        if isinstance(report, Trained | Failure):
            self.job = None
        return job, report

    def _death(self) -> str:
        self._process.join()
        code = self._process.exitcode or 0
        if code >= 0:
            return f"exit code {code}"
        memory = ", perhaps for lack of memory; try fewer --workers" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{memory}"

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main one may say so
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def default_workers(cores: int) -> int:
    """Return how many trainings run at a time if nobody says: one a GPU, or without any one a core."""
    import torch

    return torch.cuda.device_count() or cores


def _end_with_driver() -> None:
    """End this process once its driver is gone, wherever it is: files are written whole or not at all."""
    driver = multiprocessing.parent_process()
    assert driver is not None, "the driver itself has nobody to outlive"
    wait([driver.sentinel])
    os._exit(1)


def _serve(connection: Connection, place: int) -> None:
    """Run jobs until the driver is gone, on GPU number `place` modulo how many there are."""
    threading.Thread(target=_end_with_driver, daemon=True).start()
    import torch

    from nas.tasks.base import TaskSource

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    if gpus := torch.cuda.device_count():
        torch.cuda.set_device(place % gpus)
    held: tuple[dict[str, object], TaskSource] | None = None

    def tasks(job: Job) -> TaskSource:
        nonlocal held
        if held is None or held[0] != job.config.tasks:
            held = job.config.tasks, job.config.make_tasks()
        return held[1]

    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job: Job = connection.recv()
            try:
                for report in reports(job, tasks):
                    connection.send(report)
            except Unwritable as error:
                connection.send(error)
