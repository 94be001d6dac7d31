"""The usual evaluator: meta-train an architecture from scratch, then score it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from nas.controller import Measurement, Outcome, Score
from nas.evaluator import Context, Evaluator, Job, Trainee, ends
from nas.learners.base import Learner
from nas.product import backbone_of, candidate_of
from nas.space import Architecture
from nas.states import TrialState
from nas.tasks.base import TaskSource
from nas.training.checkpoint import Checkpoint
from nas.training.kinship import Inheritance
from nas.training.loop import Training, Turn, resume, start
from nas.training.scoring import score

REPORTS = 10
"""How often a training run reports its loss, evenly spaced."""


class Train(Evaluator):
    """Meta-trains the architecture from scratch, then scores it on the fixed list of validation tasks."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def warm(self) -> None:
        """Take one step with the space's default network: libraries load their kernels at the first use."""
        context = self._context
        with suppress(Exception):  # what is wrong is for a trial to say
            trainee = context.trainee(context.space.default)
            training = start(
                trainee.space,
                trainee.architecture,
                trainee.tasks,
                trainee.learner,
                context.precision,
                1,
                seed=0,
            )
            next(training.until(1))

    def evaluate(self, job: Job) -> Iterator[Outcome]:
        """Train as long as the job says; reports the mean training loss ten times on the way.

        A longer training goes on from a shorter one of the same seed, to the bits of one long run. So does a
        part of a training from the part before, under other settings or the same.
        """
        context, shape, budget = self._context, self._context.tasks.shape, self._context.budget
        began = time.perf_counter()
        trainee = context.trainee(job.architecture)
        costs = trainee.space.cost(trainee.architecture, shape)._asdict()
        end = whole = job.episodes or budget.train_episodes
        if job.part:
            whole = budget.train_episodes
        first, turns = self._course(job, whole)
        begin = partial(
            start,
            first.space,
            first.architecture,
            first.tasks,
            first.learner,
            context.precision,
            whole,
            job.seed,
            turns,
        )
        own = None if job.folder is None else Checkpoint(Path(job.folder), job.name)
        training = _part(begin, job) if job.part else resume(begin, own)
        continued = training.done

        def outcome(state: TrialState, episodes: int, score: Score | None, *seen: Measurement) -> Outcome:
            seconds = time.perf_counter() - began
            found = Outcome(state, job.architecture, score, episodes, seconds, costs, tuple(seen))
            return replace(found, continued=continued)

        rungs = [rung for rung in context.rungs if rung < end]
        for mark in _marks(end, rungs):
            before, losses = training.done, []
            for loss in training.until(mark):
                losses.append(loss)
                due = training.done >= end if job.part else training.done == training.shared
                if own and job.episodes and due:
                    own.save(training.state())
            done = training.done
            final = done >= end
            if done == before and not final:
                continue
            seen = [Measurement(done, "train_loss", float(np.mean(losses)))] if losses else []
            told = training.learner.measurements()
            seen += [Measurement(done, name, value) for name, value in told.items()]
            if final or any(before < rung <= done for rung in rungs):
                measured = score(
                    training.learner,
                    context.tasks,
                    "validation",
                    budget.validation_episodes,
                    training.arithmetic,
                )
                seen.append(Measurement(done, "score", measured.value))
                yield outcome(TrialState.COMPLETED if final else TrialState.RUNNING, done, measured, *seen)
                if final:
                    return
            else:
                yield outcome(TrialState.RUNNING, done, None, *seen)

    def _course(self, job: Job, whole: int) -> tuple[Trainee, list[Turn]]:
        """Return what a training begins with, and where it goes on under other settings.

        A part of a training begins with its first ancestor.
        """
        trainee, spans = self._context.trainee, self._context.spans
        turns = list[Turn]()
        if not job.part and spans:
            marks = ends(spans, whole)
            for at, (before, after) in zip(marks, pairwise(spans), strict=False):
                if before.settings != after.settings:
                    turns.append(Turn(at, partial(_begun, partial(trainee, job.architecture, after))))
            return trainee(job.architecture, spans[0]), turns
        parts = [*(ancestor.architecture for ancestor in job.lineage), job.architecture]
        for ancestor, heir in zip(job.lineage, parts[1:], strict=True):
            if ancestor.architecture != heir:
                inheritance = self._inheritance(heir, ancestor.architecture)
                turns.append(Turn(ancestor.episodes, partial(_begun, partial(trainee, heir)), inheritance))
        return trainee(parts[0]), turns

    def _inheritance(self, heir: Architecture, parent: Architecture) -> Inheritance | None:
        """Return what one network takes over of another; None: they are the same."""
        space = backbone_of(self._context.space)
        own, other = (candidate_of(self._context.space, one).architecture for one in (heir, parent))
        if space.canonical(own) == space.canonical(other):
            return None
        return Inheritance(space, own, other, self._context.tasks.shape)


def _begun(make: Callable[[], Trainee]) -> tuple[Learner, TaskSource]:
    """Return a new learner, and what it learns from."""
    trainee = make()
    shape = trainee.tasks.shape
    return trainee.learner(trainee.space.build(trainee.architecture, shape), shape), trainee.tasks


def _part(begin: Callable[[], Training], job: Job) -> Training:
    """Begin a part of a training in the state that the part before left.

    Where that is gone, the parts are trained again from the last one whose state is there.
    """
    training = begin()
    for ancestor in reversed(job.lineage if job.folder is not None else ()):
        saved = Checkpoint(Path(job.folder or "."), ancestor.name).load()
        if saved is not None:
            try:
                training.restore(saved)
            except (KeyError, TypeError, ValueError, RuntimeError):  # of a plugin that has changed since
                return begin()
            break
    return training


def _marks(budget: int, rungs: Sequence[int]) -> list[int]:
    """Return the training episodes after which to report, ascending: tenths of the budget and the rungs."""
    return sorted({budget * i // REPORTS for i in range(1, REPORTS + 1)} - {0} | set(rungs))
