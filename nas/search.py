"""The search: propose, run, record, observe."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from nas.asha import AshaState
from nas.config import SearchConfig, maker
from nas.controller import Controller, Evaluate, Measurement, Outcome, Reject, Reuse, Score, State
from nas.errors import ConfigError, NasError, TooManyFailures
from nas.evaluator import Job
from nas.executors.base import Executor
from nas.provenance import classes, environment, training_seed
from nas.space import SearchSpace
from nas.storage.lease import HEARTBEAT_SECONDS, mine
from nas.storage.schema import Search as SearchRow
from nas.storage.schema import Trial as TrialRow
from nas.storage.store import Store
from nas.tasks.base import TaskSource
from nas.training import rehearse


class Observer(Protocol):
    """Who watches a search: the progress display."""

    def started(self, job: Job) -> None:
        """Take note that a job went to a worker."""

    def reported(self, job: Job, outcome: Outcome) -> None:
        """Take note of what is known so far of a running job."""

    def recorded(self, number: int, outcome: Outcome) -> None:
        """Take note of a final outcome, committed."""

    def retried(self, job: Job, error: str) -> None:
        """Take note that a failed job will be tried again."""


@dataclass(slots=True)
class _Running:
    """A job at a worker: its row, its best-known outcome, and how often it has been tried."""

    row: int
    job: Job
    measurements: list[Measurement]


class Search:
    """One search, new or resumed: the workload of an executor, the history of a controller.

    Everything known comes from the database: `run` replays the recorded outcomes, in their order, to a fresh
    controller and scheduler, and queues again what was running when the driver before died.
    """

    def __init__(
        self,
        store: Store,
        row: SearchRow,
        config: SearchConfig,
        space: SearchSpace,
        tasks: TaskSource,
        observer: Observer,
    ) -> None:
        self._store, self._id, self._name = store, row.id, row.name
        self._config, self._space = config, space
        self._trials = row.trials
        self._observer = observer
        self._controller: Controller = config.make_controller(space, tasks)
        self._scheduler = (
            AshaState(config.scheduler, config.budget.train_episodes) if config.scheduler else None
        )
        self._running: dict[int, _Running] = {}
        self._again: deque[tuple[int, Job]] = deque()
        self._next = 0
        self._ended = 0
        self._failed = 0  # since this driver took over: a resumed search starts with a clean slate
        self._stopping = False
        self._beat = 0.0
        recorded, now = row.environment.get("classes"), classes(tasks)
        if recorded not in (None, now):
            raise ConfigError(
                f"The tasks of search '{row.name}' have changed since it began: classes were {recorded}, "
                f"and are {now}. Scores would not compare; bring the data back, or start a new search."
            )

    # The workload

    @property
    def done(self) -> bool:
        """Whether there will be no further job."""
        if self._stopping or self._hopeless:
            return True
        return self._next >= self._trials and not self._again and not self._running

    def next(self) -> Job | None:
        """Return the next job; what needs no worker is recorded on the way."""
        self.tick()
        if self._stopping or self._hopeless:
            return None
        if self._again:
            row, job = self._again.popleft()
            self._store.restart(row, attempt=job.attempt, seed=job.seed)
            return self._start(row, job)
        while self._next < self._trials:
            self.tick()
            if self.done:
                return None
            number = self._next
            pending = [running.job.architecture for running in self._running.values()]
            rng = np.random.default_rng([self._config.seed, number])
            proposal = self._controller.propose(number, pending, rng)
            if proposal is None:
                if not self._running:
                    raise NasError(
                        f"The controller '{self._config.controller['name']}' waits for a result at trial "
                        f"{number}, but nothing runs."
                    )
                return None
            self._next += 1
            architecture = proposal.architecture
            key = self._space.canonical(architecture)
            job = Job(number, 0, architecture, training_seed(self._config.seed, key, 0))
            outcome = None if isinstance(proposal, Evaluate) else self._without_worker(proposal)
            row = self._store.begin(
                self._id,
                number,
                architecture=self._space.encode(architecture),
                key=key,
                space=self._space.name,
                seed=job.seed,
                attempt=0,
                outcome=outcome,
            )
            if outcome is None:
                return self._start(row, job)
            self._learn(number, outcome)
            self._observer.recorded(number, outcome)
        return None

    def tick(self) -> None:
        """Show a sign of life, and look whether a stop was asked for, every few seconds.

        Called before what writes, too: a driver that slept so long that another took over finds out in time.

        Raises:
            StorageError: another process drives the search now.
        """
        now = time.monotonic()
        if now - self._beat >= HEARTBEAT_SECONDS:
            self._beat = now
            self._stopping = self._store.heartbeat(self._id) or self._stopping

    def report(self, job: Job, outcome: Outcome) -> bool:
        """Keep the measurements; at a rung, ask the scheduler whether to go on."""
        self._running[job.number].measurements.extend(outcome.measurements)
        self._observer.reported(job, outcome)
        if self._scheduler is None or outcome.score is None:
            return True
        return self._scheduler.report(job.number, outcome.train_episodes, outcome.score.value)

    def finish(self, job: Job, outcome: Outcome) -> None:
        """Record a final outcome, or queue a failed job again, with new weights: a failure is in the seed."""
        if outcome.state is State.FAILED and self._retry(job, outcome.error or "", new_seed=True):
            return
        running = self._running.pop(job.number)
        whole = replace(outcome, measurements=(*running.measurements, *outcome.measurements))
        self._record(running.row, job.number, whole)

    def lost(self, job: Job, error: str) -> None:
        """Queue the job of a dead worker again, unchanged; out of attempts, record it as failed."""
        if not self._retry(job, error, new_seed=False):
            running = self._running.pop(job.number)
            self._record(running.row, job.number, Outcome(State.FAILED, job.architecture, error=error))

    # The driver

    def run(self, executor: Executor) -> str:
        """Run to the end; return the search's state: `completed`, or `stopped` on request.

        Raises:
            TooManyFailures: more trials failed than `max_failed` allows.
            KeyboardInterrupt: after running trials were marked for `nas resume`.
        """
        end = "interrupted"
        self._store.acquire(self._id)
        try:
            self._replay()
            executor.run(self)
            if self._hopeless:
                end = "failed"
            elif self._ended >= self._trials:
                end = "completed"
            elif self._stopping:
                end = "stopped"
        finally:
            if mine(self._store.search(self._name)):
                self._store.interrupt(self._id)
                self._store.release(self._id, end)
        if self._hopeless:
            raise TooManyFailures(
                f"{self._failed} of {self._trials} trials failed, more than max_failed="
                f"{self._config.max_failed:g} allows. See `nas show {self._name}`; with the cause mended, "
                f"`nas resume {self._name}` goes on."
            )
        return end

    @property
    def _hopeless(self) -> bool:
        return self._failed > self._config.max_failed * self._trials

    def _start(self, row: int, job: Job) -> Job:
        self._running[job.number] = _Running(row, job, [])
        self._observer.started(job)
        return job

    def _retry(self, job: Job, error: str, *, new_seed: bool) -> bool:
        if job.attempt >= self._config.retries:
            return False
        attempt = job.attempt + 1
        key = self._space.canonical(job.architecture)
        seed = training_seed(self._config.seed, key, attempt) if new_seed else job.seed
        if self._scheduler is not None:
            self._scheduler.forget(job.number)
        running = self._running.pop(job.number)
        self._again.append((running.row, replace(job, attempt=attempt, seed=seed)))
        self._observer.retried(job, error)
        return True

    def _without_worker(self, proposal: Reuse | Reject) -> Outcome:
        if isinstance(proposal, Reject):
            return Outcome(State.INFEASIBLE, proposal.architecture, error=proposal.reason)
        known = self._outcome(self._store.trial(self._id, proposal.trial))
        return replace(
            known,
            state=State.REUSED,
            architecture=proposal.architecture,
            train_episodes=0,
            seconds=0.0,
            reused=proposal.trial,
        )

    def _record(self, row: int, number: int, outcome: Outcome) -> None:
        self.tick()
        if self._store.finish(row, outcome) is not None:
            self._failed += outcome.state is State.FAILED
            if self._scheduler is not None and outcome.state is State.FAILED:
                self._scheduler.forget(number)
            self._learn(number, outcome)
            self._observer.recorded(number, outcome)

    def _learn(self, number: int, outcome: Outcome) -> None:
        """Let the controller observe what a resumed search will let it observe again: no measurements."""
        self._ended += 1
        self._controller.observe(number, replace(outcome, measurements=()))

    def _replay(self) -> None:
        history = self._store.history(self._id)
        for trial in history:
            self._learn(trial.number, self._outcome(trial))
        if self._scheduler is not None:
            numbers = {trial.id: trial.number for trial in history if trial.state != State.FAILED}
            for seen in self._store.measurements(self._id):
                if seen.metric == "score" and seen.value is not None and seen.trial_id in numbers:
                    self._scheduler.record(numbers[seen.trial_id], seen.step, seen.value)
        for trial in self._store.unfinished(self._id):
            architecture = self._space.decode(trial.architecture)
            self._again.append((trial.id, Job(trial.number, trial.attempt, architecture, trial.seed)))
        self._next = self._ended + len(self._again)

    def _outcome(self, trial: TrialRow) -> Outcome:
        score = None
        if trial.score is not None:
            score = Score(
                trial.score,
                trial.ci95 or 0.0,
                trial.episodes or 0,
                trial.split or "",
                trial.classes or "",
                trial.normalization or "",
            )
        return Outcome(
            State(trial.state),
            self._space.decode(trial.architecture),
            score,
            trial.train_episodes or 0,
            trial.seconds or 0.0,
            trial.parameters,
            trial.macs,
            error=trial.error,
            reused=trial.reused,
        )


def create(store: Store, config: SearchConfig, tasks: TaskSource, source: str | None = None) -> SearchRow:
    """Write a new search to the database.

    Args:
        store: where to.
        config: what was resolved.
        tasks: the task source that the configuration names.
        source: the TOML file that it came from, verbatim.

    Raises:
        ConfigError: the name is taken, the controller refuses its settings, or the learner the tasks.
    """
    rehearse(tasks, maker("learner", config.learner))
    config.make_controller(config.make_space(), tasks)
    return store.create_search(
        name=config.name,
        source=source,
        config=config.model_dump(mode="json"),
        space=config.space["name"],
        controller=config.controller["name"],
        tasks=config.tasks["name"],
        task_label=tasks.label,
        learner=config.learner["name"],
        executor=config.executor,
        seed=config.seed,
        trials=config.trials,
        settings=config.settings,
        environment={**environment(), "classes": classes(tasks)},
    )
