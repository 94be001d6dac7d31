"""The inside of a worker: it gets ready, and whatever goes wrong in a job becomes its last report."""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable, Generator

import torch

from nas.errors import Infeasible, NasError, Unready, Unwritable
from nas.executors.base import JobT, MakeRunner, ReportT, Runner
from nas.executors.limit import Overtime, limited
from nas.executors.output import written_to
from nas.states import TrialState


def ready(make: Callable[[], MakeRunner[JobT, ReportT]]) -> Runner[JobT, ReportT]:
    """Return a warm runner, once what makes it has been found.

    Raises:
        Unready: this machine cannot have one: a plug-in or the data is not here.
    """
    try:
        runner = make()()
        runner.warm()
    except NasError as error:
        raise Unready(socket.gethostname(), str(error), error.exit_code) from error
    except Exception as error:  # of whatever a plug-in does when it is imported or made
        at = traceback.extract_tb(error.__traceback__)[-1]
        said = str(error).partition("\n")[0]  # Ray appends a trace to what it could not load
        why = f"{type(error).__name__}: {said} ({at.filename}, line {at.lineno})."
        raise Unready(socket.gethostname(), why) from error
    return runner


def logged(runner: Runner[JobT, ReportT], job: JobT) -> Generator[ReportT, None, None]:
    """Yield the job's reports, while this process writes to the job's file.

    Raises:
        Unwritable, Unready: as `reports`.
    """
    with written_to(runner.log(job)):
        yield from reports(runner, job)


def reports(runner: Runner[JobT, ReportT], job: JobT) -> Generator[ReportT, None, None]:
    """Yield the job's reports, the last one final.

    Nothing that a job raises gets out, but for what no job is to blame for; then it has no final report, and
    can be run again.

    Raises:
        Unwritable: the job cannot write its files.
        Unready: this machine lacks a plug-in or the data that the job asks for.
    """
    began, limit = time.perf_counter(), runner.limit(job)
    try:
        running = runner.run(job)
        while True:
            with limited(limit and limit + began - time.perf_counter()):
                report = next(running, None)
            if report is None:
                yield runner.failure(job, TrialState.FAILED, "It ended without a final report.")
                return
            yield report
            if report.final:
                return
    except Overtime:
        yield runner.failure(job, TrialState.STOPPED, f"It took longer than resources.seconds = {limit:g} s.")
    except Infeasible as error:
        yield runner.failure(job, TrialState.INFEASIBLE, str(error))
    except (Unwritable, Unready):
        raise
    except NasError as error:
        yield runner.failure(job, TrialState.FAILED, f"{type(error).__name__}: {error}")
    except Exception as error:  # whatever plugin code raises must cost one job, not all
        where = "".join(traceback.format_exception(error)[-6:])
        yield runner.failure(job, TrialState.FAILED, f"{type(error).__name__}: {error}\n{where}")
    finally:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
