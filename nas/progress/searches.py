"""Live progress of a search: a panel on a terminal, a line in a notebook, one line a trial elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas.counts import clock, counted
from nas.progress import notebook
from nas.progress.events import Log, dated, search_events
from nas.progress.words import first
from nas.states import TrialState

if TYPE_CHECKING:
    from nas.controller import Outcome
    from nas.driver.search import SearchObserver
    from nas.evaluator import AnyJob, SupernetJob
    from nas.storage.schema import Search, Trial
    from nas.storage.store import Store

BEST = (TrialState.COMPLETED, TrialState.REUSED)
"""How trials end whose score is that of a whole training."""


@contextmanager
def progress(
    row: Search,
    train_episodes: int,
    store: Store,
    say: Callable[[str], None],
    *,
    quiet: bool = False,
    log: Log | None = None,
) -> Iterator[SearchObserver]:
    """Show a search's progress while it runs.

    Args:
        row: the search.
        train_episodes: of each trial.
        store: of its trials so far.
        say: prints a line on stderr.
        quiet: whether to show nothing.
        log: where events go, in place of what people read; None: nowhere.
    """
    if log is not None:
        with search_events(row, Tally(row, store), store, log) as events:
            yield events
        return
    if quiet:
        yield _Silent()
        return
    tally = Tally(row, store)
    if notebook.here():
        line = _Notebook(tally, row.name, train_episodes)
        try:
            yield line
        finally:
            line.end()
        return
    if not sys.stderr.isatty():
        yield _Lines(tally, dated(say))
        return
    console = Console(stderr=True)
    panel = _Panel(tally, train_episodes)
    with Live(panel, console=console, refresh_per_second=4, transient=True):
        yield panel
    console.print(tally.summary(), highlight=False)


@contextmanager
def following(row: Search, store: Store, say: Callable[[str], None]) -> Iterator[Callable[[Search], None]]:
    """Show the progress of a search that another process runs.

    Gives a function that looks into the database again, for a search's row as it is now.
    """
    tally = Tally(row, store)
    if not sys.stderr.isatty():
        tell = dated(say)
        tell(f"{row.name}: {tally.summary()}")

        def follow(now: Search) -> None:
            for line in tally.look(now, store):
                tell(f"{line} | {tally.progress()}")

        yield follow
        return
    console = Console(stderr=True)
    panel = _Panel(tally, row.config["budget"]["train_episodes"])

    def show(now: Search) -> None:
        for line in tally.look(now, store):
            panel.ended(line)
        panel.running = _running(now, store)

    with Live(panel, console=console, refresh_per_second=4, transient=True):
        yield show
    console.print(tally.summary(), highlight=False)


class Tally:
    """Counts, best so far and pace."""

    def __init__(self, row: Search, store: Store) -> None:
        self.total = row.trials
        self.derived: int | None = None
        self._apart = row.config.get("max_seconds") is not None
        self.simulated = row.config.get("tasks", "") is None
        """Whether the seconds of trials are looked up, and no clock's."""
        self._ended = self._reused = self._raced = self.failed = 0
        self.best: tuple[float, float | None, int] | None = None
        self._observed = 0
        for trial in store.history(row.id):
            self._count(trial)
        self._start = math.inf
        self._fresh = 0
        self._epochs = 0
        self._supernet_left: float | None = None

    def look(self, row: Search, store: Store) -> Iterator[str]:
        """Count the trials that the database has recorded since the last look; yield a line on each."""
        self._start = min(self._start, time.monotonic())
        if self.derived is None:
            self.total = row.trials
        for trial in store.history(row.id, after=self._observed):
            self._count(trial)
            self._pace(trial.state, supernet=trial.kind == "supernet")
            score = None if trial.score is None else (trial.score, trial.ci95)
            derived, simulated = len(trial.derived or ()), self.simulated
            length = None if trial.asked_episodes is None else trial.train_episodes
            words = _ended(
                trial.state, score, trial.reused, derived, length, trial.seconds, trial.error, simulated
            )
            yield f"trial {trial.number} {words}"

    def _count(self, trial: Trial) -> None:
        self._observed = trial.observed or self._observed
        self._raced += trial.kind == "race"
        self._ended += trial.kind != "race"
        self._reused += trial.state == "reused"
        self.failed += trial.state == "failed"
        if (
            trial.kind == "supernet"
            and trial.derived is not None
            and (trial.supernet or {}).get("whole", True)
        ):
            self._expect(trial.number, len(trial.derived))
        if trial.state in BEST and not trial.repeat and trial.asked_episodes is None:
            self._improve(trial.score, trial.ci95, trial.number)

    def start(self, job: AnyJob) -> None:
        """Take note that a trial started: the pace counts from the first, not from when Ray did."""
        from nas.evaluator import SupernetJob

        self._start = min(self._start, time.monotonic())
        if isinstance(job, SupernetJob):
            self._epochs, self._supernet_left = 0, None
            if job.supernet.whole:
                self._expect(job.number, job.supernet.derive)

    def epoch(self, job: SupernetJob, outcome: Outcome) -> str:
        """Take note that a supernet's epoch ended; return which, and how long the others will take."""
        self._epochs += 1
        of = job.supernet.budget.epochs
        self._supernet_left = outcome.seconds / self._epochs * (of - self._epochs)
        return f"epoch {self._epochs}/{of}, {clock(self._supernet_left)} left"

    def _expect(self, supernet: int, derived: int) -> None:
        """Take note that a supernet derives so many architectures, and that these are the last trials."""
        self.total, self.derived = supernet + 1 + derived, derived

    def _improve(self, score: float | None, ci95: float | None, number: int) -> None:
        if score is not None and (self.best is None or score > self.best[0]):
            self.best = score, ci95, number

    @property
    def reused(self) -> int:
        """Trials that cost nothing and are none of the total: those of a search with `max_seconds`."""
        return self._reused if self._apart and self.derived is None else 0

    @property
    def done(self) -> int:
        """Trials of the total that ended."""
        return self._ended - self.reused

    def add(self, number: int, outcome: Outcome) -> None:
        """Count a trial that ended."""
        self._raced += outcome.repeat > 0
        self._ended += outcome.repeat == 0
        self._reused += outcome.state == "reused"
        if outcome.architecture is None:
            self._supernet_left = None
            if self.derived is not None:
                self._expect(number, len(outcome.derived))
        self._pace(outcome.state, supernet=outcome.architecture is None)
        self.failed += outcome.state == "failed"
        if outcome.score is not None and outcome.state in BEST and _whole(outcome):
            self._improve(outcome.score.value, outcome.score.ci95, number)

    def _pace(self, state: str, *, supernet: bool) -> None:
        if supernet:  # how long it takes says nothing of what it derived: the pace begins anew
            self._start, self._fresh = math.inf, 0
        elif state != "infeasible" and not (state == "reused" and self.reused):
            self._fresh += 1

    @property
    def pace(self) -> float | None:
        """Trials a second, of those that ended since the first began; None: too few to tell."""
        seconds = time.monotonic() - self._start
        return self._fresh / seconds if self._fresh and seconds > 0 else None

    @property
    def left(self) -> str:
        """Estimated time left."""
        pace = self.pace
        if pace is not None:
            return clock((self.total - self.done) / pace)
        return "?" if self._supernet_left is None else f"{clock(self._supernet_left)} for the supernet"

    def summary(self) -> str:
        """Return how far the search is; a pace only where every trial costs time of its own."""
        trials = f"{self.done}/{self.total} trial{'' if self.total == 1 else 's'}"
        if self.derived is not None:
            trials = f"{trials} (a supernet, {self.derived} derived)"
        parts = [f"{trials} and {self.reused} reused" if self.reused else trials]
        if self._raced:
            parts.append(f"{counted(self._raced, 'further seed')} of the best")
        if self.best is not None:
            parts.append(f"best {_score(self.best[0], self.best[1])} (trial {self.best[2]})")
        if self.derived is None and not self.simulated and (pace := self.pace) is not None:
            parts.append(f"{60 * pace:,.1f} trials/min")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return " · ".join(parts)

    def progress(self) -> str:
        """Return the summary with the time left, unless no clock tells it."""
        return self.summary() if self.simulated else f"{self.summary()} · {self.left} left"


def _whole(outcome: Outcome) -> bool:
    """Return whether an outcome is of a whole training under the first seed."""
    return outcome.repeat == 0 and outcome.episodes is None


def _score(value: float, ci95: float | None) -> str:
    """Return a score with half of its interval, where it has one."""
    return f"{value:.4f}" if ci95 is None or math.isnan(ci95) else f"{value:.4f} ± {ci95:.4f}"


def _result(outcome: Outcome, *, simulated: bool) -> str:
    score = (outcome.score.value, outcome.score.ci95) if outcome.score else None
    derived = len(outcome.derived)
    length = None if outcome.episodes is None else outcome.train_episodes
    return _ended(
        outcome.state, score, outcome.reused, derived, length, outcome.seconds, outcome.error, simulated
    )


def _ended(
    state: str,
    score: tuple[float, float | None] | None,
    reused: int | None,
    derived: int,
    length: int | None,
    seconds: float | None,
    error: str | None,
    simulated: bool,
) -> str:
    """Return how a trial ended in one line; of one that was asked to be short, after how many episodes."""
    of = f" {_score(*score)}" if score else ""
    origin = f" from trial {reused}" if reused is not None else ""
    networks = f", derived {derived}" if derived else ""
    clock = " of simulated time" if simulated else ""
    episodes = f" after {counted(length, 'episode')}" if length else ""
    took = f" in {seconds:.1f} s{clock}" if seconds else ""
    why = f": {first(error)}" if error else ""
    return f"{state}{origin}{of}{networks}{episodes}{took}{why}"


def _running(row: Search, store: Store) -> dict[int, tuple[float, str]]:
    """Return since when, by this process's clock, which trials run: how far they are is not recorded."""
    now, clock = datetime.now(UTC), time.monotonic()
    return {
        trial.number: (
            clock - (now - trial.started_at).total_seconds(),
            "supernet" if trial.kind == "supernet" else "running",
        )
        for trial in store.unfinished(row.id)
        if trial.state == "running"
    }


def _so_far(job: AnyJob, outcome: Outcome, train_episodes: int, tally: Tally) -> str:
    """Return what is known of a running job in a few words; of a supernet it is told after each epoch."""
    from nas.evaluator import SupernetJob

    if isinstance(job, SupernetJob):
        parts = [f"supernet, {tally.epoch(job, outcome)}"]
    else:
        parts = [f"{outcome.train_episodes}/{train_episodes} episodes"]
    seen = {m.metric: m.value for m in outcome.measurements}
    for metric, word in (("train_loss", "loss"), ("supernet_score", "score")):
        if metric in seen:
            parts.append(f"{word} {seen[metric]:.3f}")
    return ", ".join(parts)


class _Lines:
    """One plain line a trial."""

    def __init__(self, tally: Tally, say: Callable[[str], None]) -> None:
        self._tally, self._say = tally, say

    def started(self, job: AnyJob) -> None:
        self._tally.start(job)

    def reported(self, job: AnyJob, outcome: Outcome) -> None:
        if outcome.architecture is None:  # the epoch of a supernet, which takes as long as a trial
            self._say(f"trial {job.number} {_so_far(job, outcome, 0, self._tally)}")

    def recorded(self, number: int, outcome: Outcome) -> None:
        self._tally.add(number, outcome)
        ended = _result(outcome, simulated=self._tally.simulated)
        self._say(f"trial {number} {ended} | {self._tally.progress()}")

    def retried(self, job: AnyJob, error: str) -> None:
        self._say(f"trial {job.number} failed, trying again: {first(error)}")


class _Notebook:
    """One line that changes: how far the search is, and what ran or ended last."""

    def __init__(self, tally: Tally, name: str, train_episodes: int) -> None:
        self._tally, self._name, self._train_episodes = tally, name, train_episodes
        self._line = notebook.StatusLine()

    def started(self, job: AnyJob) -> None:
        self._tally.start(job)

    def reported(self, job: AnyJob, outcome: Outcome) -> None:
        self._show(f"trial {job.number} {_so_far(job, outcome, self._train_episodes, self._tally)}")

    def recorded(self, number: int, outcome: Outcome) -> None:
        self._tally.add(number, outcome)
        self._show(f"trial {number} {_result(outcome, simulated=self._tally.simulated)}")

    def retried(self, job: AnyJob, error: str) -> None:
        self._show(f"trial {job.number} failed, trying again: {first(error)}")

    def end(self) -> None:
        """Show the summary, which stays."""
        self._line.show(f"{self._name}: {self._tally.summary()}", now=True)

    def _show(self, what: str) -> None:
        self._line.show(f"{self._name}: {self._tally.progress()} | {what}")


class _Silent:
    """An observer without a word."""

    def started(self, job: AnyJob) -> None:
        pass

    def reported(self, job: AnyJob, outcome: Outcome) -> None:
        pass

    def recorded(self, number: int, outcome: Outcome) -> None:
        pass

    def retried(self, job: AnyJob, error: str) -> None:
        pass


class _Panel:
    """A bar, the best so far, what runs now, and the last trials that ended."""

    def __init__(self, tally: Tally, train_episodes: int) -> None:
        self._tally, self._train_episodes = tally, train_episodes
        self.running: dict[int, tuple[float, str]] = {}
        self._last: list[str] = []

    def ended(self, line: str) -> None:
        """Show a line among the last."""
        self._last = [*self._last[-2:], line]

    def started(self, job: AnyJob) -> None:
        self._tally.start(job)
        self.running[job.number] = time.monotonic(), "starting"

    def reported(self, job: AnyJob, outcome: Outcome) -> None:
        start = self.running[job.number][0]
        self.running[job.number] = start, _so_far(job, outcome, self._train_episodes, self._tally)

    def recorded(self, number: int, outcome: Outcome) -> None:
        self.running.pop(number, None)
        self._tally.add(number, outcome)
        self.ended(f"trial {number} {_result(outcome, simulated=self._tally.simulated)}")

    def retried(self, job: AnyJob, error: str) -> None:
        self.running.pop(job.number, None)
        self.ended(f"trial {job.number} failed, trying again: {first(error)}")

    def __rich__(self) -> Group:
        tally = self._tally
        head = Table.grid(padding=(0, 1))
        head.add_row(ProgressBar(total=tally.total, completed=tally.done, width=32), Text(tally.summary()))
        now = time.monotonic()
        lines = [
            Text(
                f"  trial {number}: {what}, {now - start:.0f} s",
                style="cyan",
                overflow="ellipsis",
                no_wrap=True,
            )
            for number, (start, what) in sorted(self.running.items())
        ]
        ended = [Text(f"  {line}", style="dim", overflow="ellipsis", no_wrap=True) for line in self._last]
        left = [] if tally.simulated else [Text(f"  time left {tally.left}", style="dim")]
        return Group(head, *ended, *lines, *left)
