"""Where jobs run: in this process, in processes of this machine, or on Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from nas.errors import ConfigError
from nas.executors.capacity import USUAL, Demand

if TYPE_CHECKING:
    from nas.executors.base import Executor, JobT, MakeRunner, ReportT

Name = Literal["ray", "process", "inline"]


def make_executor(
    name: Name,
    make: MakeRunner[JobT, ReportT],
    *,
    workers: int = 1,
    demand: Demand = USUAL,
    address: str | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> Executor[JobT, ReportT]:
    """Return an executor.

    Args:
        name: which one.
        make: makes the runner of each worker.
        workers: jobs at a time.
        demand: what a job takes of a machine; Ray reserves it, processes share GPUs by it.
        address: of a Ray cluster; None: that of RAY_ADDRESS, or a Ray started here.
        say: told if no worker gets ready for long.
    """
    if name == "inline":
        from nas.executors.inline import InlineExecutor

        return InlineExecutor(make)
    if name == "process":
        from nas.executors.process import ProcessExecutor

        return ProcessExecutor(make, workers, demand, say)
    from nas.executors.ray import RayExecutor

    return RayExecutor(make, workers, demand, address, say)


def check_workers(name: Name, workers: int) -> None:
    """Refuse several jobs at a time where only one runs.

    Raises:
        ConfigError: for `inline` and more than one worker.
    """
    if name == "inline" and workers > 1:
        raise ConfigError(
            f"workers={workers}: the inline executor runs one job at a time; use --executor process or ray."
        )
