"""Jobs in processes of this machine: one at a time each, and none dies of another's death."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Generic

from nas.errors import Unwritable
from nas.executors.base import Executor, JobT, MakeRunner, ReportT, Workload
from nas.executors.capacity import device, here, rooms

TICK_SECONDS = 1.0

_SPAWN = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in whatever state they are


class ProcessExecutor(Executor[JobT, ReportT]):
    """Runs jobs in spawned processes, which end with this one.

    Each makes one runner and keeps it. When one dies, another takes its place. What runs when this process
    is interrupted is killed, and is then as its last checkpoint has it.

    Args:
        make: the runner of a process.
        workers: how many processes there are at most.
        gpus: share of a GPU that a job takes; None: the processes take the GPUs in turn.
    """

    def __init__(self, make: MakeRunner[JobT, ReportT], workers: int, gpus: float | None = None) -> None:
        self._make, self._gpus = make, gpus
        self._workers = workers if not gpus else max(int(min(workers, rooms(here(), 0, gpus))), 1)

    def run(self, workload: Workload[JobT, ReportT]) -> None:
        """Run every job; a process starts when there is a job for it."""
        pool: list[_Process[JobT, ReportT]] = []
        try:
            ended = True
            while True:
                while ended and sum(process.job is not None for process in pool) < self._workers:
                    job = workload.next()
                    if job is None:
                        ended = False
                    else:
                        self._idle(pool).take(job)
                busy = {process.connection: process for process in pool if process.job is not None}
                if not busy:
                    return
                for connection in wait(list(busy), TICK_SECONDS):
                    process = busy[connection]  # type: ignore[index]
                    process.hear(workload)
                    ended |= process.job is None
                    if not process.lives:
                        pool.remove(process)
                workload.tick()
        finally:
            for process in pool:
                process.kill()

    def _idle(self, pool: list[_Process[JobT, ReportT]]) -> _Process[JobT, ReportT]:
        """Return a process without a job; a new one, at the first free place, if there is none."""
        for process in pool:
            if process.job is None:
                return process
        taken = {process.place for process in pool}
        place = next(place for place in range(self._workers) if place not in taken)
        pool.append(_Process(self._make, place, self._gpus))
        return pool[-1]


class _Process(Generic[JobT, ReportT]):
    """The driver's end of one process."""

    def __init__(self, make: MakeRunner[JobT, ReportT], place: int, gpus: float | None) -> None:
        self.place = place
        self.connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(theirs, make, place, gpus), daemon=True)
        with _ignoring_interrupts():  # which the process inherits: the driver alone answers to Ctrl-C
            self._process.start()
        theirs.close()
        self.job: JobT | None = None
        self.lives = True

    def take(self, job: JobT) -> None:
        """Give it a job."""
        self.job = job
        self._send(job)

    def hear(self, workload: Workload[JobT, ReportT]) -> None:
        """Pass on what it has to say, or that it died.

        Raises:
            Unwritable: it cannot write the files of its job.
        """
        job = self.job
        assert job is not None, "a process without a job says nothing"
        try:
            report: ReportT | Unwritable = self.connection.recv()
        except (EOFError, OSError):
            self.lives, self.job = False, None
            self.connection.close()
            workload.lost(job, f"The worker process died: {self._death()}.")
            return
        if isinstance(report, Unwritable):
            raise report
        if not report.final:
            goes_on = workload.report(job, report)
            self._send(goes_on)
            if goes_on:
                return
        self.job = None
        workload.finish(job, report)

    def _send(self, what: JobT | bool) -> None:
        with suppress(OSError):  # it died meanwhile: `hear` will tell
            self.connection.send(what)

    def _death(self) -> str:
        self._process.join()
        code = self._process.exitcode or 0
        if code >= 0:
            return f"exit code {code}"
        memory = ", perhaps for lack of memory; try fewer --workers" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{memory}"

    def kill(self) -> None:
        """End it, whatever it does."""
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


def _end_with_driver() -> None:
    """End this process once its driver is gone, wherever it is: files are written whole or not at all."""
    driver = multiprocessing.parent_process()
    assert driver is not None, "the driver itself has nobody to outlive"
    wait([driver.sentinel])
    os._exit(1)


def _serve(connection: Connection, make: MakeRunner[JobT, ReportT], place: int, gpus: float | None) -> None:
    """Run jobs until the driver is gone, on the GPU of this place; with `gpus` = 0 on none."""
    threading.Thread(target=_end_with_driver, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from nas.executors.worker import reports

    if there := torch.cuda.device_count():
        torch.cuda.set_device(device(place, gpus, there))
    runner = make()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job: JobT = connection.recv()
            try:
                with closing(reports(runner, job)) as running:
                    for report in running:
                        connection.send(report)
                        if not report.final and not connection.recv():
                            break
            except Unwritable as error:
                connection.send(error)
