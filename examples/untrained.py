"""An evaluator of one's own: how well a network does before it is trained."""

import time
from collections.abc import Iterator

import torch

from nas.controller import Outcome, Score
from nas.evaluator import Context, Evaluator, Job
from nas.learners.base import query_scores
from nas.states import TrialState


class Untrained(Evaluator):
    """Scores a learner with fresh weights on the validation tasks: a first look that costs no training."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def evaluate(self, job: Job) -> Iterator[Outcome]:
        """Yield the score, and what the backbone costs."""
        began = time.perf_counter()
        chosen, count = self.context.trainee(job.architecture), self.context.budget.validation_episodes
        space, tasks = chosen.space, chosen.tasks
        torch.manual_seed(job.seed)
        learner = chosen.learner(space.build(chosen.architecture, tasks.shape), tasks.shape).eval()
        with torch.no_grad():
            episodes = tasks.episodes("validation", count)
            scores = torch.cat([query_scores(learner(episode), episode) for episode in episodes])
        ci95 = 1.96 * float(scores.std()) / count**0.5
        split, classes = tasks.fingerprint("validation")
        score = Score(float(scores.mean()), ci95, count, split, classes, learner.normalization)
        cost = space.cost(chosen.architecture, tasks.shape)
        seconds = time.perf_counter() - began
        yield Outcome(TrialState.COMPLETED, job.architecture, score, 0, seconds, cost._asdict())
