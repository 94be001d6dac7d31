"""Where jobs run: in this process, in processes of this machine, or on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nas.errors import ConfigError

if TYPE_CHECKING:
    from nas.executors.base import Executor, JobT, MakeRunner, ReportT

Name = Literal["ray", "process", "inline"]


def make_executor(
    name: Name,
    make: MakeRunner[JobT, ReportT],
    *,
    workers: int = 1,
    cpus: int = 1,
    gpus: float | None = None,
    address: str | None = None,
) -> Executor[JobT, ReportT]:
    """Return an executor.

    Args:
        name: which one.
        make: makes the runner of each worker.
        workers: jobs at a time.
        cpus: cores that Ray reserves for a job.
        gpus: share of a GPU that a job takes; None: the GPUs are split evenly over the workers.
        address: of a Ray cluster; None: that of RAY_ADDRESS, or a Ray started here.
    """
    if name == "inline":
        from nas.executors.inline import InlineExecutor

        return InlineExecutor(make)
    if name == "process":
        from nas.executors.process import ProcessExecutor

        return ProcessExecutor(make, workers, gpus)
    from nas.executors.ray import RayExecutor

    return RayExecutor(make, workers, cpus, gpus, address)


def check_workers(name: Name, workers: int) -> None:
    """Refuse several jobs at a time where only one runs.

    Raises:
        ConfigError: for `inline` and more than one worker.
    """
    if name == "inline" and workers > 1:
        raise ConfigError(
            f"workers={workers}: the inline executor runs one job at a time; use --executor process or ray."
        )
