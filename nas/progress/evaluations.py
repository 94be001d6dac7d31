"""Live progress of evaluations: bars on a terminal, a line in a notebook, one line a validation elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nas.counts import clock, counted
from nas.progress import notebook
from nas.progress.ellipsis import shorten
from nas.progress.events import Log, dated, evaluation_events
from nas.progress.words import first, last, words

if TYPE_CHECKING:
    from nas.evaluation.driver import EvaluationObserver
    from nas.evaluation.work import Report
    from nas.storage.schema import Evaluation


BAR = 12
"""Columns of a bar."""

NAME = 60
"""Columns of a training's name in a notebook."""

ROOM = BAR + len("  20000/20000 validation 0.1234 0:00:00 -:--:--")
"""Columns that a line takes for all but the name of its training."""


@contextmanager
def watching(
    trainings: int, say: Callable[[str], None], *, quiet: bool = False, log: Log | None = None
) -> Iterator[EvaluationObserver]:
    """Show the progress of so many trainings while they run.

    Args:
        trainings: how many.
        say: prints a line on stderr.
        quiet: whether to show nothing.
        log: where events go, in place of what people read; None: nowhere.
    """
    if log is not None:
        yield evaluation_events(trainings, log)
        return
    if quiet:
        yield _Lines(trainings, lambda line: None)
        return
    if notebook.here():
        line = _Notebook(trainings)
        try:
            yield line
        finally:
            line.end()
        return
    if not sys.stderr.isatty():
        yield _Lines(trainings, dated(say))
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
        from nas.evaluation.work import Progress, Scoring

        if report.final:
            self._end(row, words(row, report))
        elif not isinstance(report, Progress | Scoring):
            self._say(f"{_name(row)}: {words(row, report)}")

    def retried(self, row: Evaluation, error: str) -> None:
        self._say(f"{_name(row)}: {_again(error)}")

    def reused(self, row: Evaluation, *, by_other_code: bool) -> None:
        self._end(row, _before(row, by_other_code=by_other_code))

    def elsewhere(self, row: Evaluation) -> None:
        self._end(row, _left_out(row))

    def _end(self, row: Evaluation, what: str) -> None:
        self._ended += 1
        self._say(f"{_name(row)}: {what} | {self._ended}/{self._trainings}")


class _Notebook:
    """One line that changes: how many trainings ended, and what ran or ended last."""

    def __init__(self, trainings: int) -> None:
        self._trainings, self._line = trainings, notebook.StatusLine()
        self._ended = self._fresh = self._failed = 0
        self._start = math.inf

    def started(self, row: Evaluation) -> None:
        self._start = min(self._start, time.monotonic())

    def reported(self, row: Evaluation, report: Report) -> None:
        from nas.evaluation.work import Failure

        if report.final:
            self._ended += 1
            self._fresh += 1
            self._failed += isinstance(report, Failure)
        self._show(row, words(row, report))

    def retried(self, row: Evaluation, error: str) -> None:
        self._show(row, _again(error))

    def reused(self, row: Evaluation, *, by_other_code: bool) -> None:
        self._ended += 1
        self._show(row, _before(row, by_other_code=by_other_code))

    def elsewhere(self, row: Evaluation) -> None:
        self._ended += 1
        self._show(row, _left_out(row))

    def end(self) -> None:
        """Show the summary, which stays."""
        self._line.show(self._summary(), now=True)

    def _summary(self) -> str:
        counts = f"{self._ended}/{counted(self._trainings, 'evaluation')}"
        return f"{counts} · {self._failed} without a result" if self._failed else counts

    def _show(self, row: Evaluation, words: str) -> None:
        left = ""
        if self._fresh:
            pace = (time.monotonic() - self._start) / self._fresh
            left = f" · {clock(pace * (self._trainings - self._ended))} left"
        self._line.show(f"{self._summary()}{left} | {_short(row, NAME)}: {words}")


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
        from nas.evaluation.work import Begin, Lost, Scoring, Validated
        from nas.evaluation.work import Progress as Done

        if isinstance(report, Done):
            self._advance(row, report.done)
        elif isinstance(report, Validated):
            done, score = last(report)
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


def _again(error: str) -> str:
    return f"trying again: {first(error)}"


def _before(row: Evaluation, *, by_other_code: bool) -> str:
    """Return what an evaluation scored that was there."""
    when = "evaluated before" + (", by other code than this" if by_other_code else "")
    return f"test {row.test_score:.4f} ± {row.test_ci95:.4f}, {when}"


def _left_out(row: Evaluation) -> str:
    return f"left out: pid {row.pid} on host {row.host} is running it"
