"""Jobs in processes of this machine: one at a time each, and none dies of another's death."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection, wait

from nas.errors import Unready, Unwritable
from nas.executors.base import JobT, MakeRunner, ReportT
from nas.executors.capacity import Demand, device, here, rooms
from nas.executors.pool import Died, PoolExecutor, Ready, Word, Worker

_SPAWN = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in whatever state they are


class ProcessExecutor(PoolExecutor[JobT, ReportT]):
    """Runs jobs in spawned processes, which end with this one.

    Each makes one runner and keeps it. What runs when this process is interrupted is killed, and is then as
    its last checkpoint has it.

    Args:
        make: the runner of a process.
        workers: how many processes there are at most.
        demand: what a job takes, and so how many there is room for; without a share of a GPU, the processes
            take the GPUs in turn.
        say: told if none gets ready for long.
    """

    def __init__(
        self,
        make: MakeRunner[JobT, ReportT],
        workers: int,
        demand: Demand,
        say: Callable[[str], None],
    ) -> None:
        room = rooms(here(), demand, reserved=False)
        super().__init__(max(int(min(workers, room)), 1), say)
        self._make, self._gpus = make, demand.gpus

    def _start(self, place: int) -> Worker[JobT, ReportT]:
        return _Process(self._make, place, self._gpus)

    def _heard(
        self, workers: Sequence[Worker[JobT, ReportT]], seconds: float
    ) -> Sequence[Worker[JobT, ReportT]]:
        by = {worker.connection: worker for worker in workers if isinstance(worker, _Process)}
        return [by[connection] for connection in wait(list(by), seconds)]  # type: ignore[index]


class _Process(Worker[JobT, ReportT]):
    """The driver's end of one process."""

    def __init__(self, make: MakeRunner[JobT, ReportT], place: int, gpus: float | None) -> None:
        super().__init__(place)
        self.connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(theirs, make, place, gpus), daemon=True)
        with _ignoring_interrupts():  # which the process inherits: the driver alone answers to Ctrl-C
            self._process.start()
        theirs.close()

    def begin(self, job: JobT) -> None:
        """Give it a job."""
        self.job = job
        self._send(job)

    def answer(self, goes_on: bool) -> None:
        """Tell it whether its job goes on."""
        self._send(goes_on)

    def hear(self) -> Word[ReportT]:
        """Return what it has to say, or that it died."""
        try:
            word: Word[ReportT] = self.connection.recv()
        except (EOFError, OSError):
            return Died(f"The worker process died: {self._death()}.")
        return word

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
    faulthandler.enable()  # it and the next line as in Ray's workers
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from nas.executors.worker import logged, ready

    if there := torch.cuda.device_count():
        torch.cuda.set_device(device(place, gpus, there))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            runner = ready(lambda: make)
        except Unready as error:
            connection.send(error)
            return
        connection.send(Ready())
        while True:
            job: JobT = connection.recv()
            try:
                with closing(logged(runner, job)) as running:
                    for report in running:
                        connection.send(report)
                        if not report.final and not connection.recv():
                            break
            except (Unwritable, Unready) as error:
                connection.send(error)
