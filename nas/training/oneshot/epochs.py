"""From a supernet's job to its outcomes: epochs, each recorded and saved, and the architectures derived."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.controller import Derived, Measurement, Outcome
from nas.errors import Diverged
from nas.evaluator import Context, SupernetJob
from nas.learners.base import remedy
from nas.metrics import shared_metric
from nas.product import candidate_of, default_with
from nas.space import Architecture
from nas.states import TrialState
from nas.supernet import Mixture
from nas.training import generators
from nas.training.checkpoint import Checkpoint
from nas.training.loop import copied
from nas.training.oneshot import memory
from nas.training.oneshot.assembly import Assembly, assemble
from nas.training.oneshot.batches import Bilevel
from nas.training.rates import Rates
from nas.training.scoring import score


def train_supernet(context: Context, job: SupernetJob) -> Iterator[Outcome]:
    """Train a supernet epoch by epoch, then derive architectures.

    Yields an outcome after each epoch, with what was measured and what would be derived now; last, a final
    one with what is derived, and with the scores of the job's sample, whose time is not counted.
    `train_loss` is the mean of what the strategy's steps returned: under `enas` that includes the policy's
    turns, whose losses are of outer batches. A job that has a checkpoint goes on from it to the same bits,
    and first yields again what it had yielded before.

    Raises:
        Unwritable: its checkpoint cannot be written.
        Infeasible: it does not fit in memory, or the space has no network for the tasks.
        Unsupported: the space has no supernet, or the learner's update is no gradient.
        Diverged: a loss or a prediction is not finite.
    """
    return _Run(context, job).outcomes()


class _Run:
    """One job on its way: all that a checkpoint holds."""

    def __init__(self, context: Context, job: SupernetJob) -> None:
        self._began = time.perf_counter()
        self._context, self._whole, self._job = context.networks(), context, job
        self._checkpoint = None if job.folder is None else Checkpoint(Path(job.folder), job.name)
        saved = None if self._checkpoint is None else self._checkpoint.load()
        if saved is None or not self._continued(saved):
            if job.memory is None:
                memory.check(context, job.supernet, job.seed)
            self._fresh()
            if job.memory is not None:
                memory.check_again(context, job.supernet, self._assembly, job.memory)

    def _continued(self, saved: Mapping[str, Any]) -> bool:
        """Go on from a checkpoint; return whether it fits."""
        self._fresh()
        try:
            self._restore(saved)
        except (KeyError, TypeError, ValueError, RuntimeError):  # of a plugin that has changed since
            return False
        return True

    def _fresh(self) -> None:
        job, tasks = self._job, self._context.tasks
        self._assembly: Assembly = assemble(self._whole, job.supernet, job.seed)
        self._rates = Rates(self._assembly.optimizer, self._assembly.learner.decay)
        self._batches = Bilevel(self._assembly, tasks, job.supernet.budget.batch, job.seed)
        self._epochs: list[Outcome] = []
        self._stop: str | None = None
        self._before = 0.0

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the epochs that were, train the others, derive."""
        for outcome in self._outcomes():
            yield self._completed(outcome)

    def _completed(self, outcome: Outcome) -> Outcome:
        """Return an outcome whose derived networks are architectures of the search's space."""
        space = self._whole.space
        if self._assembly.space is space:
            return outcome
        derived = (Derived(default_with(space, network), score) for network, score in outcome.derived)
        return replace(outcome, derived=tuple(derived))

    def _outcomes(self) -> Iterator[Outcome]:
        yield from self._epochs
        if not self._epochs:
            self._save()  # a folder that cannot be written shows before an epoch is lost
        budget = self._job.supernet.budget
        while len(self._epochs) < budget.epochs and self._stop is None:
            try:
                self._epochs.append(self._epoch())
            except Diverged:
                if self._checkpoint is not None:
                    self._checkpoint.remove()  # from there it would diverge again
                raise
            self._save()
            yield self._epochs[-1]
        derived = self._assembly.strategy.derive(self._job.supernet.derive, self._score)
        ended = self._outcome(TrialState.COMPLETED, tuple(derived))
        yield replace(ended, measurements=tuple(self._sampled()))  # which is no part of the search's time

    def _save(self) -> None:
        if self._checkpoint is not None:
            self._checkpoint.save(self._state())

    def _epoch(self) -> Outcome:
        strategy, batches, budget = self._assembly.strategy, self._batches, self._job.supernet.budget
        losses = []
        for step in range(budget.steps):
            progress = (len(self._epochs) + step / budget.steps) / budget.epochs
            self._rates.set(progress)
            losses.append(strategy.step(batches.next(), self._assembly.optimizer, progress))
            if not math.isfinite(losses[-1]):
                raise Diverged(
                    f"The training loss of the supernet is {losses[-1]} in epoch {len(self._epochs)}. "
                    f"{remedy(self._assembly.learner)}"
                )
        seen = strategy.end_epoch(batches.next())
        self._stop = seen.stop or self._late()
        metrics = {"train_loss": float(np.mean(losses)), "supernet_score": self._mixed(strategy.mixture())}
        derived: tuple[Derived, ...] = ()
        if seen.architecture is not None:
            derived = (Derived(seen.architecture, self._score(seen.architecture)),)
            metrics["derived_score"] = derived[0].score
        return self._outcome(TrialState.RUNNING, derived, {**metrics, **seen.measurements})

    def _late(self) -> str | None:
        limit = self._context.seconds
        if limit is None or self._seconds < limit:
            return None
        return f"It took resources.seconds = {limit:g} s after {len(self._epochs) + 1} epochs."

    def _score(self, architecture: Architecture) -> float:
        """Score an architecture with the shared weights, on validation tasks: what counts is its network."""
        network = candidate_of(self._assembly.space, architecture).architecture
        return self._networks(self._assembly.backbone.supernet.mixture_of(network))

    def _sampled(self) -> Iterator[Measurement]:
        """Yield the sample's scores with the shared weights, NaN where a prediction is not finite."""
        space, held = self._whole.space, self._assembly.backbone.supernet
        for architecture in self._job.sample if held.decisions else ():
            try:
                value = self._networks(held.mixture_of(candidate_of(space, architecture).architecture))
            except Diverged:
                value = math.nan
            text = space.text(architecture)
            yield Measurement(self._batches.drawn, shared_metric(text), value)

    def _mixed(self, mixture: Mixture) -> float:
        self._assembly.mix([weights.detach() for weights in mixture])
        return self._networks(self._assembly.backbone.mixture)

    def _networks(self, mixture: Mixture) -> float:
        assembly, episodes = self._assembly, self._job.supernet.budget.validation_episodes
        assembly.backbone.mixture = [weights.detach() for weights in mixture]
        return score(assembly.learner, self._context.tasks, "validation", episodes, assembly.arithmetic).value

    def _outcome(
        self, state: TrialState, derived: tuple[Derived, ...], metrics: Mapping[str, float] | None = None
    ) -> Outcome:
        done = self._batches.drawn
        return Outcome(
            state,
            None,
            train_episodes=done,
            seconds=self._seconds,
            costs={"parameters": self._assembly.parameters},
            measurements=tuple(Measurement(done, name, value) for name, value in (metrics or {}).items()),
            error=self._stop if state.final else None,
            derived=derived,
        )

    @property
    def _seconds(self) -> float:
        return self._before + time.perf_counter() - self._began

    def _state(self) -> dict[str, Any]:
        assembly = self._assembly
        return {
            "learner": copied(assembly.learner.state_dict()),
            "optimizer": copied(assembly.optimizer.state_dict()),
            "strategy": copied(assembly.strategy.state_dict()),
            "batches": self._batches.state(),
            **generators.state(assembly.arithmetic.device),
            "epochs": [_written(outcome) for outcome in self._epochs],
            "stop": self._stop,
            "seconds": self._seconds,
        }

    def _restore(self, saved: Mapping[str, Any]) -> None:
        assembly = self._assembly
        assembly.learner.load_state_dict(saved["learner"])
        assembly.optimizer.load_state_dict(saved["optimizer"])
        assembly.strategy.load_state_dict(saved["strategy"])
        self._batches.restore(saved["batches"])
        generators.restore(saved, assembly.arithmetic.device)
        space = self._assembly.space.name
        self._epochs = [_read(written, space, assembly.parameters) for written in saved["epochs"]]
        self._stop, self._before = saved["stop"], saved["seconds"]


def _written(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome of an epoch as plain containers, which a checkpoint may hold."""
    return {
        "done": outcome.train_episodes,
        "seconds": outcome.seconds,
        "measurements": [(seen.metric, seen.value) for seen in outcome.measurements],
        "derived": [(list(derived.architecture.choices), derived.score) for derived in outcome.derived],
    }


def _read(written: Mapping[str, Any], space: str, parameters: int) -> Outcome:
    done = written["done"]
    return Outcome(
        TrialState.RUNNING,
        None,
        train_episodes=done,
        seconds=written["seconds"],
        costs={"parameters": parameters},
        measurements=tuple(Measurement(done, metric, value) for metric, value in written["measurements"]),
        derived=tuple(
            Derived(Architecture(space, tuple(choices)), value) for choices, value in written["derived"]
        ),
    )
