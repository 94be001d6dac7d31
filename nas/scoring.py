"""Scoring a learner on a list of episodes, with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from nas.controller import Score
from nas.errors import Diverged
from nas.learners.base import Learner, query_scores, remedy
from nas.precision import Arithmetic
from nas.tasks.base import Split, TaskSource


def mean_ci95(values: Iterable[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % interval: 1.96 · standard deviation (n − 1) / √n."""
    scores = torch.tensor(list(values), dtype=torch.float64)
    return float(scores.mean()), 1.96 * float(scores.std(correction=1)) / math.sqrt(len(scores))


def score(learner: Learner, tasks: TaskSource, split: Split, episodes: int, arithmetic: Arithmetic) -> Score:
    """Score a learner on the fixed list of a split's episodes, one task at a time.

    Raises:
        Diverged: a prediction is NaN or infinite.
    """
    return summary(learner, tasks, split, episode_scores(learner, tasks, split, episodes, arithmetic))


def summary(learner: Learner, tasks: TaskSource, split: Split, scores: Sequence[float]) -> Score:
    """Return the scores of a split's episodes as their mean and interval, with what they were measured on."""
    value, ci95 = mean_ci95(scores)
    name, classes = tasks.fingerprint(split)
    return Score(value, ci95, len(scores), name, classes, learner.normalization)


def episode_scores(
    learner: Learner, tasks: TaskSource, split: Split, episodes: int, arithmetic: Arithmetic
) -> list[float]:
    """Return a learner's score on each of the fixed list of a split's episodes, one task at a time.

    Raises:
        Diverged: a prediction is NaN or infinite.
    """
    values = []
    learner.eval()
    with torch.no_grad(), arithmetic.autocast():
        for number, episode in enumerate(tasks.episodes(split, episodes)):
            task = arithmetic.place(episode)
            predictions = learner(task).float()
            if not predictions.isfinite().all():
                raise Diverged(
                    f"The predictions of {split} episode {number} are not finite. {remedy(learner)}"
                )
            values.append(float(query_scores(predictions, task)))
    learner.train()
    return values
