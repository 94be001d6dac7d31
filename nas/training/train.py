"""The usual evaluator: meta-train an architecture from scratch, then score it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from nas.controller import Measurement, Outcome, Score
from nas.evaluator import Context, Evaluator, Job
from nas.states import TrialState
from nas.training.loop import start
from nas.training.scoring import score

REPORTS = 10
"""How often a training run reports its loss, evenly spaced."""


class Train(Evaluator):
    """Meta-trains the architecture from scratch, then scores it on the fixed list of validation tasks."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def evaluate(self, job: Job) -> Iterator[Outcome]:
        """Train on `budget.train_episodes` tasks; reports the mean training loss ten times on the way."""
        context, shape = self._context, self._context.tasks.shape
        began = time.perf_counter()
        trainee = context.trainee(job.architecture)
        costs = trainee.space.cost(trainee.architecture, shape)._asdict()

        def outcome(state: TrialState, episodes: int, score: Score | None, *seen: Measurement) -> Outcome:
            seconds = time.perf_counter() - began
            return Outcome(state, job.architecture, score, episodes, seconds, costs, tuple(seen))

        budget = context.budget
        training = start(
            trainee.space,
            trainee.architecture,
            trainee.tasks,
            trainee.learner,
            context.precision,
            budget.train_episodes,
            job.seed,
        )
        for mark in _marks(budget.train_episodes, context.rungs):
            before, losses = training.done, list(training.until(mark))
            done = training.done
            if done == before:
                continue
            loss = Measurement(done, "train_loss", float(np.mean(losses)))
            final = done == budget.train_episodes
            if final or any(before < rung <= done for rung in context.rungs):
                measured = score(
                    training.learner,
                    context.tasks,
                    "validation",
                    budget.validation_episodes,
                    training.arithmetic,
                )
                seen = (loss, Measurement(done, "score", measured.value))
                yield outcome(TrialState.COMPLETED if final else TrialState.RUNNING, done, measured, *seen)
            else:
                yield outcome(TrialState.RUNNING, done, None, loss)


def _marks(budget: int, rungs: Sequence[int]) -> list[int]:
    """Return the training episodes after which to report, ascending: tenths of the budget and the rungs."""
    return sorted({budget * i // REPORTS for i in range(1, REPORTS + 1)} - {0} | set(rungs))
