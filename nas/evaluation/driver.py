"""The driver of evaluations: claims each row, gives it to a worker, records what comes back."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from nas import fingerprints
from nas.errors import ConfigError, HeadLost, Unreachable
from nas.evaluation.artifacts import gone
from nas.evaluation.incomplete import in_vain as would_fail
from nas.evaluation.targets import Target
from nas.evaluation.work import EvaluationJob, Failure, Lost, Report, Validated, code
from nas.executors.attempts import again, revived
from nas.executors.base import Executor
from nas.files import writing
from nas.settings.evaluation import APART, validate
from nas.states import EvaluationState
from nas.storage import lease
from nas.storage.evaluations import NewEvaluation, Trained
from nas.storage.schema import Evaluation
from nas.storage.store import Store
from nas.training.checkpoint import Checkpoint
from nas.training.provenance import environment


class EvaluationObserver(Protocol):
    """Who watches: the progress display."""

    def started(self, row: Evaluation) -> None:
        """Take note that an evaluation began, or goes on."""

    def reported(self, row: Evaluation, report: Report) -> None:
        """Take note of what a worker says; `Trained` and `Failure` are committed."""

    def retried(self, row: Evaluation, error: str) -> None:
        """Take note that an evaluation that failed, or whose worker died, goes on from its checkpoint."""

    def reused(self, row: Evaluation, *, by_other_code: bool) -> None:
        """Take note that an evaluation was there, perhaps computed by other code than is installed now."""

    def elsewhere(self, row: Evaluation) -> None:
        """Take note that another process runs an evaluation."""


class EvaluationDriver:
    """Runs evaluations that the database does not have yet: the workload of an executor.

    Args:
        store: the database of results.
        folder: of checkpoints and weights.
        observer: told of all that happens.
        lost_weights: whether what is completed is run again where the file of its weights is gone.
    """

    def __init__(
        self, store: Store, folder: Path, observer: EvaluationObserver, *, lost_weights: bool = False
    ) -> None:
        self._store, self._folder, self._observer = store, folder, observer
        self._lost_weights = lost_weights
        self._environment = environment()
        self._running: dict[int, Evaluation] = {}
        self._deaths: Counter[int] = Counter()
        self._ids: dict[tuple[Any, ...], int] = {}
        self._jobs: Iterator[EvaluationJob] = iter(())
        self._waiting: deque[EvaluationJob] = deque()
        self._unclaimed = 0
        self._claimed = True
        self._pulse = lease.Pulse()

    def run(
        self, targets: Sequence[Target], seeds: int, executor: Executor[EvaluationJob, Report]
    ) -> list[list[Evaluation]]:
        """Evaluate each target under the training seeds 0 to `seeds` − 1; return its rows, by seed.

        What is completed under the same settings is not run again, whatever code it was computed by; what
        failed or was interrupted is. A failure costs its own evaluation alone.

        Raises:
            Unwritable: the folder cannot be written; what runs can be run again.
            KeyboardInterrupt: after what runs was marked as interrupted; the same call goes on.
        """
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        distinct = list({target.identity: target for target in targets}.values())
        self._jobs, self._claimed = self._claims(distinct, seeds), False
        self._unclaimed, lost = len(distinct) * seeds, False
        try:
            first = self.next()  # without any, no worker is to start
            if first is not None:
                self._waiting.append(first)
            with self._store.patience.minding(executor.look):
                executor.run(self)
        except HeadLost:
            lost = True
            raise
        finally:
            with suppress(Unreachable) if lost else nullcontext():  # the database may be away as well
                self._store.evaluations.interrupt(list(self._running))
        return [
            [self._store.evaluations.get(self._ids[(*target.identity, seed)]) for seed in range(seeds)]
            for target in targets
        ]

    # The workload

    @property
    def done(self) -> bool:
        """Whether there will be no further job."""
        return self._claimed and not self._running

    @property
    def left(self) -> int:
        """How many further jobs there may be before one that runs ends."""
        return self._unclaimed + len(self._waiting)

    def next(self) -> EvaluationJob | None:
        """Return the next job; what needs no worker is told on the way."""
        if self._waiting:
            return self._waiting.popleft()
        job = next(self._jobs, None)
        self._claimed = job is None
        return job

    def tick(self) -> None:
        """Show a sign of life every few seconds.

        Raises:
            StorageError: another process drives one of the evaluations now.
        """
        if self._running and self._pulse.due():
            self._store.evaluations.heartbeat(list(self._running))

    def report(self, job: EvaluationJob, report: Report) -> bool:
        """Record what was measured."""
        self.tick()
        if isinstance(report, Validated | Lost):
            self._store.evaluations.measure(job.id, report.measurements)
        self._observer.reported(self._running[job.id], report)
        return True

    def finish(self, job: EvaluationJob, report: Report) -> None:
        """Record how an evaluation ended, or have what failed go on from its checkpoint."""
        self.tick()
        if isinstance(report, Failure):
            failures, in_vain = job.attempt - self._deaths[job.id], would_fail(report.state, report.error)
            if again(failures, job.config.retries, in_vain=in_vain):
                self._repeat(job, report.error)
                return
        self._close(job, report)

    def lost(self, job: EvaluationJob, error: str) -> None:
        """Have another worker go on from the checkpoint; after too many deaths, record a failure."""
        self.tick()
        if revived(self._deaths[job.id]):
            self._deaths[job.id] += 1
            self._repeat(job, error)
        else:
            self._close(job, Failure(EvaluationState.FAILED, error))

    # The driver

    def _close(self, job: EvaluationJob, report: Report) -> None:
        if isinstance(report, Trained):
            self._store.evaluations.complete(job.id, report)
            Checkpoint(job.folder, job.name).remove()
        elif isinstance(report, Failure):
            self._store.evaluations.fail(job.id, report.state, report.error)
        self._observer.reported(self._running.pop(job.id), report)

    def _repeat(self, job: EvaluationJob, error: str) -> None:
        self._waiting.append(replace(job, attempt=job.attempt + 1))
        self._observer.retried(self._running[job.id], error)

    def _claims(self, targets: Sequence[Target], seeds: int) -> Iterator[EvaluationJob]:
        for seed in range(seeds):
            for target in targets:
                row = self._claim(target, seed)
                if self._lost_weights and gone(self._store, row, self._folder):
                    row = self._claim(target, seed, anew=True)
                self._unclaimed -= 1
                self._ids[(*target.identity, seed)] = row.id
                if row.state == EvaluationState.COMPLETED:
                    other = row.environment.get("code") != code(target.config)
                    self._observer.reused(row, by_other_code=other)
                elif not lease.mine(row):
                    self._observer.elsewhere(row)
                else:
                    self._running[row.id] = row
                    self._observer.started(row)
                    yield EvaluationJob(
                        row.id,
                        target.file_name(seed),
                        target.config,
                        target.architecture,
                        seed,
                        self._folder,
                        target.lineage(seed),
                        self._earlier(target, seed),
                    )

    def _earlier(self, target: Target, seed: int) -> int:
        """Return the length of the longest complete training that differs in being shorter; 0 if none is."""
        length, lineage = target.config.budget.train_episodes, target.config.lineage(target.classes)
        shorter = [0]
        for row in self._store.evaluations.of_network(target.space, target.key):
            episodes = row.config["budget"]["train_episodes"]
            if row.seed != seed or row.state != EvaluationState.COMPLETED or episodes >= length:
                continue
            with suppress(ConfigError):  # of plugins that are no longer what they were
                if validate(row.config).lineage(row.environment.get("classes", {})) == lineage:
                    shorter.append(episodes)
        return max(shorter)

    def _claim(self, target: Target, seed: int, *, anew: bool = False) -> Evaluation:
        config = target.config.model_dump(mode="json", exclude=APART)
        return self._store.evaluations.claim(
            NewEvaluation(
                architecture=target.architecture,
                key=target.key,
                space=target.space,
                settings=target.settings,
                protocol=target.protocol,
                seed=seed,
                config=config,
                task_label=target.task_label,
                environment={
                    **self._environment,
                    "code": code(target.config),
                    "classes": dict(target.classes),
                },
                plugins=fingerprints.take(config, target.config.make_space()),
                origin=target.origin,
            ),
            anew=anew,
        )
