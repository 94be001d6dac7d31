"""The search: propose, run, record, observe."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import deque
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from nas.controller import Controller, Evaluate, Finish, Outcome, Reject, Reuse, TrainSupernet
from nas.driver.inheritance import bequeath
from nas.driver.ledger import Attempt, Ledger
from nas.driver.records import Records, document, forget, recordable
from nas.driver.retention import Retention
from nas.errors import ConfigError, HeadLost, Infeasible, NasError, TooManyFailures, Unreachable
from nas.evaluator import AnyJob, Job, SupernetJob
from nas.executors.attempts import again, revived
from nas.executors.base import Executor
from nas.executors.output import holds
from nas.racing import Race
from nas.settings.search import SearchConfig
from nas.space import Space
from nas.states import TrialState
from nas.storage.lease import Pulse, mine
from nas.storage.schema import Search, TrialKind
from nas.storage.store import Store
from nas.storage.trials import NewTrial, TrialCounts
from nas.tasks.base import ScoreSource
from nas.training.provenance import (
    LATER,
    MEMORY,
    classes,
    environment,
    machine,
    machines,
    proposal_rng,
)


class SearchObserver(Protocol):
    """Who watches a search: the progress display."""

    def started(self, job: AnyJob) -> None:
        """Take note that a job went to a worker."""

    def reported(self, job: AnyJob, outcome: Outcome) -> None:
        """Take note of what is known so far of a running job."""

    def recorded(self, number: int, outcome: Outcome) -> None:
        """Take note of a final outcome, committed."""

    def retried(self, job: AnyJob, error: str) -> None:
        """Take note that a failed job will be tried again."""


class SearchDriver:
    """One search, new or resumed: the workload of an executor, the history of a controller.

    Everything known comes from the database: `run` replays the recorded outcomes, in their order, to a fresh
    controller and scheduler, and queues again what was running when the driver before died. A supernet goes
    on from its checkpoint in `folder`, which workers must see too; without a folder it begins again. A row
    with more trials than the database has extends the search. `again` is the command that goes on with it, if
    not `nas resume NAME`.
    """

    def __init__(
        self,
        store: Store,
        row: Search,
        config: SearchConfig,
        space: Space[Any],
        tasks: ScoreSource,
        observer: SearchObserver,
        folder: Path | None = None,
        again: str | None = None,
    ) -> None:
        self._store, self._id, self._name = store, row.id, row.name
        self._command = again
        self._config, self._space = config, space
        self._observer = observer
        recorded, now = row.environment.get("classes"), classes(tasks)
        self._records = Records(row.name, config, space, folder, now, row.environment.get(MEMORY))
        self._controller: Controller = config.make_controller(space, tasks)
        bequeath(store, row, space, self._controller)
        self._scheduler = config.make_stopper()
        self._supernet_first = config.proposer.one_shot or (
            config.prescreen is not None and config.prescreen.supernet is not None
        )
        self._race = None if config.racing is None else Race(config.racing, space)
        kept = config.kept
        self._retention = None if kept is None or folder is None else Retention(kept, space.canonical)
        self._races: set[int] = set()
        self._own: list[int] = []
        """Numbers of the trials that the controller chose: it counts these alone."""
        self._whole = config.budget.train_episodes
        self._row, self._ledger = row, Ledger(config, row.trials)
        self._running: dict[int, Attempt] = {}
        self._again: deque[Attempt] = deque()
        self._begun = self._stopping = False
        self._pulse = Pulse()
        if recorded not in (None, now):
            raise ConfigError(
                f"The tasks of search '{row.name}' have changed since it began: classes were {recorded}, "
                f"and are {now}. Scores would not compare; bring the data back, or start a new search."
            )

    # The workload

    @property
    def done(self) -> bool:
        """Whether there will be no further job."""
        if self._stopping or self._ledger.hopeless:
            return True
        return self._ledger.enough and not self._again and not self._running and self._raced

    @property
    def left(self) -> int:
        """How many further jobs there may be before one that runs ends: all else waits for a supernet."""
        if self._stopping or self._ledger.hopeless:
            return 0
        if self._supernet_first and not self._ledger.ended:
            return 0 if self._running else 1
        further = 0 if self._race is None else self._config.workers
        return len(self._again) + self._ledger.left + further

    @property
    def _raced(self) -> bool:
        """Whether no finalist is to be trained under a further seed."""
        return self._race is None or self._race.propose(()) is None

    @property
    def ending(self) -> str | None:
        """Why a completed search does not go on if more trials are asked for; None: it does."""
        return self._ledger.ending

    @property
    def infeasible(self) -> str | None:
        """How many trials were infeasible, and why most of them; None: none was."""
        return self._ledger.infeasible

    def next(self) -> AnyJob | None:
        """Return the next job; what needs no worker is recorded on the way."""
        self._begun = True
        self.tick()
        if self._stopping or self._ledger.hopeless:
            return None
        if self._again:
            waiting = self._again.popleft()
            self._restart(waiting)
            return self._start(Attempt(waiting.row, waiting.job, waiting.spent, waiting.kept, waiting.deaths))
        while not self._ledger.enough:
            self.tick()
            if self.done:
                return None
            number, place = self._ledger.next, len(self._own)
            jobs = [
                running.job for running in self._running.values() if running.job.number not in self._races
            ]
            pending = [self._counted(job.evaluation) for job in jobs if isinstance(job, Job)]
            rng = proposal_rng(self._config.seed, place)
            began = time.perf_counter()
            proposal = self._controller.propose(place, pending, rng)
            counts = self._config.prescreen and not self._config.looks_up  # a simulated clock takes no part
            screening = time.perf_counter() - began if counts else 0.0
            if proposal is None:
                if not self._running:
                    raise NasError(
                        f"The controller '{self._config.controller['name']}' waits for a result at trial "
                        f"{number}, but nothing runs."
                    )
                return None
            if isinstance(proposal, Finish):
                self._ledger.finished = True
                break
            self._ledger.next += 1
            self._own.append(number)
            if isinstance(proposal, TrainSupernet):
                return self._start_supernet(number, proposal)
            outcome = None
            if isinstance(proposal, Evaluate) and (proposal.episodes or 0) >= self._whole:
                proposal = replace(proposal, episodes=None)
            if not isinstance(proposal, Evaluate):
                outcome = self._without_worker(proposal)
                proposal = Evaluate(proposal.architecture, outcome.repeat, outcome.episodes, outcome.parent)
            elif proposal.parent is not None:
                proposal = replace(proposal, parent=self._own[proposal.parent])
            job = self._begin(number, proposal, outcome, screening)
            if job is not None:
                return job
        return self._next_of_race()

    def _counted(self, evaluation: Evaluate) -> Evaluate:
        """Return an evaluation with its parent by the controller's own count."""
        if evaluation.parent is None:
            return evaluation
        return replace(evaluation, parent=bisect_left(self._own, evaluation.parent))

    def _next_of_race(self) -> AnyJob | None:
        """Return the next further seed of a finalist, once the search's own trials have ended."""
        jobs = [running.job for running in self._running.values()]
        pending = [job.evaluation for job in jobs if isinstance(job, Job) and job.number in self._races]
        if self._race is None or len(pending) < len(jobs):
            return None
        evaluation = self._race.propose(pending)
        if evaluation is None:
            return None
        number = self._ledger.next
        self._ledger.next += 1
        self._ledger.raced += 1
        self._races.add(number)
        return self._begin(number, evaluation, race=True)

    def _begin(
        self,
        number: int,
        evaluation: Evaluate,
        outcome: Outcome | None = None,
        spent: float = 0.0,
        *,
        race: bool = False,
    ) -> AnyJob | None:
        """Write a trial that took so many seconds to choose; return its job, or None if it has ended."""
        job = self._records.evaluation(number, evaluation)
        row = self._store.begin(
            self._id,
            NewTrial(
                number,
                architecture=self._space.text(job.architecture),
                key=self._space.canonical(job.architecture),
                space=self._space.name,
                seed=job.seed,
                attempt=0,
                repeat=job.repeat,
                episodes=job.episodes,
                parent=job.parent,
                race=race,
            ),
            outcome=outcome,
        )
        if outcome is None:
            return self._start(Attempt(row, job, spent))
        self._learn(number, outcome)
        self._observer.recorded(number, outcome)
        return None

    def tick(self) -> None:
        """Show a sign of life, and look whether a stop was asked for, every few seconds.

        Called before what writes, too: a driver that slept so long that another took over finds out in time.

        Raises:
            StorageError: another process drives the search now.
        """
        if self._pulse.due():
            self._stopping = self._store.heartbeat(self._id) or self._stopping

    def report(self, job: AnyJob, outcome: Outcome) -> bool:
        """Keep the measurements; at a rung, ask the scheduler whether to go on."""
        self._running[job.number].report(outcome)
        self._observer.reported(job, outcome)
        score = outcome.score
        if self._scheduler is None or score is None or not math.isfinite(score.value):
            return True
        if isinstance(job, Job) and job.repeat:  # only first seeds are compared on the way
            return True
        return self._scheduler.report(job.number, outcome.train_episodes, score.value)

    def finish(self, job: AnyJob, outcome: Outcome) -> None:
        """Record a final outcome, or queue a failed job again, with new weights: a failure is in the seed.

        An outcome that is not final is that of a trial that the scheduler stopped.
        """
        if not outcome.final:
            outcome = replace(outcome, state=TrialState.STOPPED, measurements=())
        running = self._running[job.number]
        seconds = running.spent + outcome.seconds
        limit = self._config.resources.seconds if isinstance(job, Job) else None
        in_vain = limit is not None and outcome.seconds >= limit  # another attempt would take as long
        in_vain |= isinstance(job, Job) and job.parent is not None  # and would go on from the same state
        failed = outcome.state is TrialState.FAILED
        if failed and self._retry(job, outcome.error or "", seconds, died=False, in_vain=in_vain):
            return
        seen = (*running.measurements, *outcome.measurements)
        self._record(job.number, replace(outcome, seconds=seconds, measurements=seen))

    def lost(self, job: AnyJob, error: str) -> None:
        """Queue the job of a dead worker again, unchanged; after too many deaths, record it as failed."""
        seconds = self._running[job.number].seconds
        if job.log is not None and holds(Path(job.log)):
            error = f"{error} What it printed: `nas logs {self._name}/{job.number}`"
        if not self._retry(job, error, seconds, died=True):
            architecture = job.architecture if isinstance(job, Job) else None
            self._record(job.number, Outcome(TrialState.FAILED, architecture, seconds=seconds, error=error))

    # The driver

    def run(self, executor: Executor[AnyJob, Outcome]) -> str:
        """Run to the end; return the search's state: `completed`, or `stopped` on request.

        Nothing changes, not even the number of trials, before all is loaded and this process is the driver.

        Raises:
            ConfigError: another process drives it, or went on with it since its trials were read.
            TooManyFailures: more trials failed than `max_failed` allows, or a supernet did not complete.
            Infeasible: every architecture was.
            KeyboardInterrupt: after running trials were marked for `nas resume`.
        """
        end, in_vain, lost, before = "interrupted", False, False, self._store.search(self._name)
        self._replay()  # whatever cannot be loaded fails here, and changes nothing
        known = TrialCounts(self._ledger.next, self._ledger.ended)
        row = self._store.acquire(self._id, total=self._row.trials, known=known, again=self._command)
        self._ledger.trials = row.trials
        try:
            here, places = machine(environment()), machines(row.environment)
            if here is not None and places and here != places[-1]:
                later = {LATER: [*places[1:], here]}
                self._store.settle(self._id, {**row.environment, **later})
            with self._store.patience.minding(executor.look):
                executor.run(self)
            if self._ledger.hopeless:
                end = "failed"
            elif self._ledger.enough and self._ledger.ended >= self._ledger.next and self._raced:
                end = "failed" if self._ledger.barren else "completed"
                self._records.forget_trials()
            elif self._stopping:
                end = "stopped"
        except Exception as error:
            in_vain, lost = not self._begun, isinstance(error, HeadLost)
            raise
        finally:
            with suppress(Unreachable) if lost else nullcontext():  # the database may be away as well
                self._leave(end, before if in_vain else None)
        if self._ledger.hopeless:
            raise TooManyFailures(self._ledger.complaint(self._name))
        if end == "failed":
            raise Infeasible(self._ledger.lack(self._name))
        return end

    def _leave(self, end: str, before: Search | None) -> None:
        """Leave the search in a state, or as it was before."""
        if before is not None:
            self._store.restore(before)
        elif mine(self._store.search(self._name)):
            self._store.interrupt(self._id)
            self._store.release(self._id, end)

    def _start(self, attempt: Attempt) -> AnyJob:
        self._running[attempt.job.number] = attempt
        self._observer.started(attempt.job)
        return attempt.job

    def _restart(self, attempt: Attempt) -> None:
        job = attempt.job
        self._store.restart(attempt.row, attempt=job.attempt, seed=job.seed, seconds=attempt.spent)

    def _start_supernet(self, number: int, proposal: TrainSupernet) -> AnyJob:
        job = self._records.supernet(number, proposal)
        row = self._store.begin(
            self._id,
            NewTrial(
                number,
                architecture=None,
                key=None,
                space=self._space.name,
                seed=job.seed,
                attempt=0,
                supernet=document(proposal),
            ),
        )
        return self._start(Attempt(row, job))

    def _retry(self, job: AnyJob, error: str, seconds: float, *, died: bool, in_vain: bool = False) -> bool:
        deaths = self._running[job.number].deaths
        failures = job.attempt - deaths
        if not (revived(deaths) if died else again(failures, self._config.retries, in_vain=in_vain)):
            return False
        self.tick()
        next_job = self._records.again(job, new_seed=not died)
        if self._scheduler is not None:
            self._scheduler.forget(job.number)
        waiting = self._running.pop(job.number).again(next_job, seconds, died=died)
        self._restart(waiting)  # now: a driver that dies before its turn comes must not forget the attempt
        self._again.append(waiting)
        if not died:
            forget(job)
        self._observer.retried(job, error)
        return True

    def _without_worker(self, proposal: Reuse | Reject) -> Outcome:
        if isinstance(proposal, Reject):
            return Outcome(
                TrialState.INFEASIBLE,
                proposal.architecture,
                error=proposal.reason,
                repeat=proposal.repeat,
                episodes=proposal.episodes,
                parent=None if proposal.parent is None else self._own[proposal.parent],
            )
        taken = replace(proposal, trial=self._own[proposal.trial])
        return self._records.reused(taken, self._store.trial(self._id, taken.trial))

    def _record(self, number: int, outcome: Outcome) -> None:
        self.tick()
        running, outcome, derivations = self._running.pop(number), recordable(outcome), None
        if isinstance(running.job, SupernetJob):
            derivations = self._records.derivations(outcome, running.derived)
        else:
            repeat, episodes, parent = running.job.repeat, running.job.episodes, running.job.parent
            outcome = replace(outcome, repeat=repeat, episodes=episodes, parent=parent)
            other = episodes is not None or self._records.inherits(running.job)
            if other and outcome.state is TrialState.COMPLETED:
                outcome = replace(outcome, state=TrialState.PAUSED)
        if self._store.finish(running.row, outcome, derivations) is not None:
            forget(running.job)
            if outcome.state is TrialState.FAILED:
                self._ledger.fail()
                if self._scheduler is not None:
                    self._scheduler.forget(number)
            self._learn(number, outcome)
            if self._retention is not None:
                self._retention.add(running.job, outcome)
                self._sweep(self._retention)
            if (needed := self._controller.continuable()) is not None:
                going = [attempt.job for attempt in (*self._running.values(), *self._again)]
                self._records.forget_parts({self._own[own] for own in needed}, going)
            self._observer.recorded(number, outcome)

    def _sweep(self, retention: Retention) -> None:
        """Delete states of short trainings that nothing will go on from."""
        if retention.due:
            going = [attempt.job for attempt in (*self._running.values(), *self._again)]
            further = self._ledger.left + len(going)
            retention.sweep(self._controller.promotable(further), going)

    def _learn(self, number: int, outcome: Outcome) -> None:
        """Let the controller observe what a resumed search will let it observe again: no measurements."""
        self._ledger.add(number, outcome, race=number in self._races)
        completed = outcome.state is TrialState.COMPLETED and outcome.score is not None
        if self._scheduler is not None and completed and outcome.score and not outcome.repeat:
            self._scheduler.complete(number, outcome.score.value)
        if self._race is not None:
            self._race.observe(number, outcome)
        if number in self._races:  # nothing that the controller asked for
            return
        reused = None if outcome.reused is None else bisect_left(self._own, outcome.reused)
        parent = None if outcome.parent is None else bisect_left(self._own, outcome.parent)
        told = replace(outcome, measurements=(), reused=reused, parent=parent, node=None)
        self._controller.observe(bisect_left(self._own, number), told)

    def _replay(self) -> None:
        history = self._store.history(self._id)
        unfinished = self._store.unfinished(self._id)
        begun = (*history, *unfinished)
        self._races = {trial.number for trial in begun if trial.kind == TrialKind.RACE}
        self._own = sorted(trial.number for trial in begun if trial.kind != TrialKind.RACE)
        self._ledger.raced = len(self._races)
        for trial in history:
            outcome = self._records.outcome(trial)
            if self._config.proposer.continues:
                self._records.job(trial)  # others may go on from it
            self._learn(trial.number, outcome)
            if self._retention is not None and outcome.state is TrialState.PAUSED:
                self._retention.add(self._records.job(trial), outcome)
        if self._scheduler is not None:
            failed = TrialState.FAILED
            judged = {trial.id: trial for trial in history if trial.state != failed and not trial.repeat}
            for seen in self._store.measurements(self._id):
                if seen.metric != "score" or seen.value is None or seen.trial_id not in judged:
                    continue
                of = judged[seen.trial_id]
                if seen.step < (of.asked_episodes or self._whole):  # the last score stopped nothing
                    self._scheduler.record(of.number, seen.step, seen.value)
        for trial in unfinished:
            job = self._records.job(trial)
            deaths = self._records.deaths(job)
            self._again.append(Attempt(trial.id, job, trial.seconds or 0.0, deaths=deaths))
        self._ledger.next = self._ledger.ended + len(self._again)
