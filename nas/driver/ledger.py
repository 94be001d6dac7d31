"""What a search has spent, and whether it is over: trials, worker time, failures."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from nas.controller import Derived, Measurement, Outcome
from nas.evaluator import AnyJob, SupernetJob
from nas.settings.search import SearchConfig
from nas.states import TrialState

REPEATS = 1_000
"""Reused trials without a trained one between them that end a search with `max_seconds`."""


def repeats(before: int, state: str) -> int:
    """Return how many reused trials followed the last trained one, after one more trial that ended so."""
    if state == TrialState.REUSED:
        return before + 1
    return before if state == TrialState.INFEASIBLE else 0


@dataclass(slots=True)
class Attempt:
    """A job at a worker, or on its way to one.

    Attributes:
        row: id of its trial.
        job: what is done.
        spent: worker seconds of the trial that this attempt's reports do not contain.
        kept: worker seconds that they do contain, from before: a supernet's, by its checkpoint.
        deaths: how many attempts before ended with their worker's death; the others failed.
        measurements: what was reported.
        derived: what a supernet would have derived, each after so many training episodes.
    """

    row: int
    job: AnyJob
    spent: float = 0.0
    kept: float = 0.0
    deaths: int = 0
    measurements: list[Measurement] = field(default_factory=list)
    derived: list[tuple[int, Derived]] = field(default_factory=list)
    _began: float = field(default_factory=lambda: time.monotonic())
    _reported: float = 0.0

    def report(self, outcome: Outcome) -> None:
        """Keep what was reported."""
        self.measurements.extend(outcome.measurements)
        self.derived.extend((outcome.train_episodes, derived) for derived in outcome.derived)
        self._reported = outcome.seconds

    @property
    def seconds(self) -> float:
        """Worker seconds of the trial so far, this attempt's by the clock: nobody else tells a lost one's."""
        return self.spent + max(self._reported, self.kept + time.monotonic() - self._began)

    def again(self, job: AnyJob, seconds: float, *, died: bool = False) -> Attempt:
        """Return the next attempt, after so many worker seconds; `died` if this one ended with its worker."""
        kept = 0.0
        if isinstance(job, SupernetJob) and job.folder is not None and job.seed == self.job.seed:
            kept = max(self._reported, self.kept)
        return Attempt(self.row, job, seconds - kept, kept, self.deaths + died)


@final
class Ledger:
    """Counts the trials of a search.

    Under `max_seconds` a reused trial, which costs nothing, is none of the `trials`. So that a search whose
    controller comes back to known networks ends nevertheless, `REPEATS` of them without a trained one between
    them are enough.

    Args:
        config: of the search.
        trials: how many there are to be.

    Attributes:
        trials: as given; more, if the search is extended.
        next: number of the trial to be begun next.
        ended: trials with a final outcome.
        raced: trials of a race, which are none of the `trials`.
        finished: whether the controller has nothing more to propose.
        broken: why the search cannot go on; None: it can.
    """

    def __init__(self, config: SearchConfig, trials: int) -> None:
        self._config, self.trials = config, trials
        self.next = self.ended = self.raced = self._own = 0
        self.finished = False
        self.broken: str | None = None
        self._spent = 0.0
        self._failed = self._reused = self._repeats = 0
        self._feasible = False
        self._infeasible: list[str] = []

    def add(self, number: int, outcome: Outcome, *, race: bool = False) -> None:
        """Count a trial that ended, now or before a resume; of a race, that it did."""
        self.ended += 1
        if race:
            return
        self._own += 1
        self._spent += outcome.seconds
        self._reused += outcome.state is TrialState.REUSED
        self._repeats = repeats(self._repeats, outcome.state)
        if outcome.architecture is not None:
            if outcome.state is TrialState.INFEASIBLE:
                self._infeasible.append(_line(outcome.error))
            else:
                self._feasible = True
        if outcome.architecture is None and outcome.state is not TrialState.COMPLETED:
            self.broken = f"The supernet (trial {number}) is {outcome.state}: {_line(outcome.error)}"

    def fail(self) -> None:
        """Count a failure against `max_failed`: a resumed search starts with a clean slate."""
        self._failed += 1

    @property
    def late(self) -> bool:
        """Whether the trials that ended took `max_seconds`."""
        limit = self._config.max_seconds
        return limit is not None and self._spent >= limit

    @property
    def enough(self) -> bool:
        """Whether no trial is to be added: there are `trials`, or no time or no new proposal is left."""
        return self.finished or self._counted >= self.trials or self.late or self.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether all that was proposed of late was known, and worker time is left."""
        return self._config.max_seconds is not None and self._repeats >= REPEATS

    @property
    def left(self) -> int:
        """How many trials are to be added at most."""
        return 0 if self.enough else self.trials - self._counted

    @property
    def _counted(self) -> int:
        """How many of the `trials` were begun."""
        own = self.next - self.raced
        return own if self._config.max_seconds is None else own - self._reused

    @property
    def hopeless(self) -> bool:
        """Whether too much failed for the search to go on."""
        return self.broken is not None or self._failed > self._config.max_failed * self._asked

    @property
    def _asked(self) -> int:
        return self.next if self.finished else self.trials + self.raced

    def complaint(self, name: str) -> str:
        """Return why a hopeless search ended, and what to do."""
        if self.broken is not None:
            return (
                f"{self.broken} It derives nothing. See `nas show {name}`; with the cause mended, "
                "start a new search."
            )
        return (
            f"{self._failed} of {self._asked} trials failed, more than max_failed="
            f"{self._config.max_failed:g} allows. See `nas show {name}`. Where a setting is the cause, start "
            f"a new search with another; where it lies outside, `nas resume {name}` goes on after that."
        )

    @property
    def barren(self) -> bool:
        """Whether every architecture was infeasible."""
        return bool(self._infeasible) and not self._feasible

    def lack(self, name: str) -> str:
        """Return why a barren search found nothing, and what to do."""
        among, reason = _commonest(self._infeasible)
        limits = dict.fromkeys(re.findall(r"constraints\.\w+", reason))
        sections = [("spaces", self._config.space), ("tasks", self._config.tasks)]
        listed = " and ".join(f"`nas {verb} {part['name']}`" for verb, part in sections if part)
        loosen = f"a greater {' and '.join(limits)}" if limits else "other settings"
        if self._config.proposer.given:
            loosen = f"other `controller.{self._config.proposer.given}`, or {loosen}"
        return (
            f"No architecture of the {len(self._infeasible)} that '{name}' tried is feasible. The commonest "
            f"reason, that of {among}: {reason.rstrip('.')}. Start a new search with {loosen}"
            f"{'' if limits else f'; see {listed}'}. Every reason: `nas show {name}`."
        )

    @property
    def infeasible(self) -> str | None:
        """How many trials were infeasible, and why most of them; None: none was."""
        if not self._infeasible:
            return None
        among, reason = _commonest(self._infeasible)
        return (
            f"{len(self._infeasible)} of {self._own} trials are infeasible. The commonest reason, that of "
            f"{among}: {reason.rstrip('.')}."
        )

    @property
    def ending(self) -> str | None:
        """Why no trial can be added to a completed search by asking for more; None: it can."""
        if self._config.proposer.one_shot:
            return "It is complete: all that its supernet derived was tried."
        if self.finished:
            name = self._config.controller["name"]
            return f"It is complete: the controller '{name}' has nothing more to propose."
        if self.exhausted:
            return (
                f"It ended since its last {self._repeats:,} proposals were known networks: the controller "
                f"'{self._config.controller['name']}' finds no other. It took {self._spent:,.0f} s of "
                f"max_seconds = {self._config.max_seconds:g} s."
            )
        if self.late and self._counted < self.trials:
            limit = f"{self._config.max_seconds:g} s of worker time"
            return f"It ended since its trials took max_seconds = {limit}."
        return None


def _line(error: str | None) -> str:
    """Return the first line of an error."""
    return ((error or "").strip() or "no reason given").splitlines()[0]


def _commonest(reasons: Sequence[str]) -> tuple[int, str]:
    """Return how many reasons of the commonest kind there are, and of these the one with the least numbers.

    Reasons that differ in numbers or quoted texts alone are of one kind; its least is nearest to a limit.
    """
    kinds = [re.sub(r"'[^']*'|\d+", "#", reason) for reason in reasons]
    kind, count = Counter(kinds).most_common(1)[0]
    alike = [reason for reason, its in zip(reasons, kinds, strict=True) if its == kind]
    return count, min(alike, key=lambda reason: [int(number) for number in re.findall(r"\d+", reason)])
