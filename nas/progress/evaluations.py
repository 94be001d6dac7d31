"""Live progress of evaluations: bars on a terminal, a line in a notebook, one line a validation elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nas.progress import notebook
from nas.progress.ellipsis import shorten

if TYPE_CHECKING:
    from nas.evaluation.driver import EvaluationObserver
    from nas.evaluation.work import Begin, Curve, Report
    from nas.storage.schema import Evaluation


BAR = 12
"""Columns of a bar."""

ROOM = BAR + len("  20000/20000 validation 0.1234 0:00:00 -:--:--")
"""Columns that a line takes for all but the name of its training."""


@contextmanager
def watching(
    trainings: int, say: Callable[[str], None], *, quiet: bool = False
) -> Iterator[EvaluationObserver]:
    """Show the progress of so many trainings while they run.

    Args:
        trainings: how many.
        say: prints a line on stderr.
        quiet: whether to show nothing.
    """
    if quiet:
        yield _Lines(trainings, lambda line: None)
        return
    if notebook.here():
        line = notebook.Line()
        yield _Lines(trainings, partial(line.show, now=True))
        return
    if not sys.stderr.isatty():
        yield _Lines(trainings, say)
        return
    with _progress(Console(stderr=True)) as progress:
        yield _Bars(trainings, progress)


@contextmanager
def counting(episodes: int) -> Iterator[Callable[[], None]]:
    """Show on a terminal how many of so many episodes are done; gives what to call after each."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with _progress(Console(stderr=True)) as progress:
        progress.add_task("episodes", total=episodes, status=f"0/{episodes}", score="")
        yield partial(_count, progress)


def _count(progress: Progress) -> None:
    """Take note that one more is done of what the first bar counts."""
    every = progress.tasks[0]
    progress.update(every.id, advance=1, status=f"{every.completed + 1}/{every.total}")


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=BAR),
        TextColumn("{task.fields[status]}{task.fields[score]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


def _network(row: Evaluation) -> str:
    from nas.evaluation.published import name_of

    return name_of(row.config["space"], row.architecture) or f"{row.space}:{row.architecture}"


def _name(row: Evaluation) -> str:
    return f"{_network(row)} seed {row.seed}"


def _short(row: Evaluation, width: int) -> str:
    """Return a name that fits `width` columns: seed and trial whole, the middle of the network left out."""
    trial = "" if row.origin_trial is None else f"trial {row.origin_trial} "
    first, network = f"seed {row.seed} {trial}", _network(row)
    return first + shorten(network, max(width - len(first), 9))


class _Lines:
    """One plain line for everything worth knowing."""

    def __init__(self, trainings: int, say: Callable[[str], None]) -> None:
        self._trainings, self._say = trainings, say
        self._ended = 0

    def started(self, row: Evaluation) -> None:
        pass

    def reported(self, row: Evaluation, report: Report) -> None:
        from nas.evaluation.work import Begin, Curve, Failure, Lost
        from nas.storage.evaluations import Trained

        if isinstance(report, Curve):
            done, score = _last(report)
            total = row.config["budget"]["train_episodes"]
            self._say(f"{_name(row)}: {done}/{total} training episodes, validation {score:.4f}")
        elif isinstance(report, Begin):
            self._say(f"{_name(row)}: {_begins(report)}")
        elif isinstance(report, Lost):
            self._say(f"{_name(row)}: warning: {report.message}")
        elif isinstance(report, Trained):
            test = report.test
            self._end(row, f"test {test.value:.4f} ± {test.ci95:.4f} in {report.seconds:.0f} s")
        elif isinstance(report, Failure):
            self._end(row, f"{report.state}: {report.error.strip().splitlines()[0]}")

    def retried(self, row: Evaluation, error: str) -> None:
        self._say(f"{_name(row)}: trying again: {error.strip().splitlines()[0]}")

    def reused(self, row: Evaluation, *, by_other_code: bool) -> None:
        when = "evaluated before" + (", by other code than this" if by_other_code else "")
        self._end(row, f"test {row.test_score:.4f} ± {row.test_ci95:.4f}, {when}")

    def elsewhere(self, row: Evaluation) -> None:
        self._end(row, f"left out: pid {row.pid} on host {row.host} is running it")

    def _end(self, row: Evaluation, what: str) -> None:
        self._ended += 1
        self._say(f"{_name(row)}: {what} | {self._ended}/{self._trainings}")


class _Bars:
    """A bar for all, one for each training that runs, and a line above for each that ended."""

    def __init__(self, trainings: int, progress: Progress) -> None:
        self._progress = progress
        self._lines = _Lines(
            trainings,
            lambda line: progress.console.print(line, highlight=False, markup=False, soft_wrap=True),
        )
        progress.add_task("evaluations", total=trainings, status=f"0/{trainings}", score="")
        self._tasks: dict[int, TaskID] = {}

    def started(self, row: Evaluation) -> None:
        total = row.config["budget"]["train_episodes"]
        self._tasks[row.id] = self._add(row, total, f"0/{total}")

    def reported(self, row: Evaluation, report: Report) -> None:
        from nas.evaluation.work import Begin, Curve, Lost, Scoring
        from nas.evaluation.work import Progress as Done

        if isinstance(report, Done):
            self._advance(row, report.done)
        elif isinstance(report, Curve):
            done, score = _last(report)
            self._progress.update(self._tasks[row.id], score=f" validation {score:.4f}")
            self._advance(row, done)
        elif isinstance(report, Scoring):
            self._progress.remove_task(self._tasks[row.id])
            self._tasks[row.id] = self._add(row, None, f"testing on {report.episodes} episodes")
        elif isinstance(report, Begin | Lost):
            self._lines.reported(row, report)
        else:
            self._progress.remove_task(self._tasks.pop(row.id))
            _count(self._progress)
            self._lines.reported(row, report)

    def retried(self, row: Evaluation, error: str) -> None:
        self._lines.retried(row, error)

    def reused(self, row: Evaluation, *, by_other_code: bool) -> None:
        _count(self._progress)
        self._lines.reused(row, by_other_code=by_other_code)

    def elsewhere(self, row: Evaluation) -> None:
        _count(self._progress)
        self._lines.elsewhere(row)

    def _add(self, row: Evaluation, total: int | None, status: str) -> TaskID:
        """Add a bar; without a total it pulses."""
        name = _short(row, self._progress.console.width - ROOM - 2)
        return self._progress.add_task(f"  {name}", total=total, status=status, score="")

    def _advance(self, row: Evaluation, done: int) -> None:
        status = f"{done}/{row.config['budget']['train_episodes']}"
        self._progress.update(self._tasks[row.id], completed=done, status=status)


def _begins(begin: Begin) -> str:
    """Return where a training begins that a shorter one was before."""
    if begin.done:
        return f"goes on after the {begin.done} training episodes of an earlier training"
    return f"begins anew, not from a training of {begin.earlier} episodes: {begin.reason}"


def _last(curve: Curve) -> tuple[int, float]:
    """Return the training episodes and the validation score of a curve's last point."""
    last = curve.measurements[-1]
    return last.step, last.value
