"""Scoring a learner on a list of episodes, with its confidence interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import torch

from nas.controller import Score
from nas.errors import Diverged
from nas.intervals import half_width_over_episodes
from nas.learners.base import Learner, query_scores, remedy
from nas.precision import Arithmetic
from nas.tasks.base import Split, TaskSource


def mean_ci95(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of scores of episodes, and the half width of its normal 95 % interval."""
    return fmean(values), half_width_over_episodes(values)


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
        Diverged: a prediction is NaN or infinite; says in which episodes.
    """
    values, lost = lenient_scores(learner, tasks, split, episodes, arithmetic)
    if lost:
        raise Diverged(f"{not_finite(split, lost, episodes)} {remedy(learner)}")
    return values


def lenient_scores(
    learner: Learner,
    tasks: TaskSource,
    split: Split,
    episodes: int,
    arithmetic: Arithmetic,
    scored: Callable[[], None] = lambda: None,
) -> tuple[list[float], list[int]]:
    """Return the scores as `episode_scores`, and which episodes have a prediction that is not finite.

    Of classes, such a query counts as answered wrongly; in regression the episode's score is NaN.
    `scored` is called after each episode.
    """
    values, lost = [], []
    learner.eval()
    with torch.no_grad(), arithmetic.autocast():
        for number, episode in enumerate(tasks.episodes(split, episodes)):
            task = arithmetic.place(episode)
            predictions = learner(task).float()
            if not predictions.isfinite().all():
                lost.append(number)
            values.append(float(query_scores(predictions, task)))
            scored()
    learner.train()
    return values, lost


def not_finite(split: Split, lost: Sequence[int], episodes: int) -> str:
    """Return a sentence that says which episodes of a list have a prediction that is not finite."""
    some = ", ".join(map(str, lost[:10])) + ("…" if len(lost) > 10 else "")
    return f"Predictions of {len(lost)} of {episodes} {split} episodes are not finite (numbers {some})."
