"""About how long a search takes, by a part of it that is run here; nothing is written."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch

from nas import counts
from nas.controller import Evaluate, Outcome, TrainSupernet
from nas.driver.creation import check, supernet
from nas.driver.schedules import Pace, planned
from nas.driver.trials import Trials
from nas.errors import Infeasible
from nas.evaluator import Job, SupernetJob
from nas.executors.worker import reports
from nas.plugins import load
from nas.product import candidate_of
from nas.settings.search import SearchConfig
from nas.space import Architecture, Space
from nas.states import TrialState
from nas.tasks.base import ScoreSource, TaskSource
from nas.training.loop import start
from nas.training.oneshot.epochs import train_supernet
from nas.training.provenance import MEMORY, proposal_rng, training_seed
from nas.training.scoring import episode_scores
from nas.training.train import Train

SAMPLES = 5
"""Networks to look at; the smallest, the median and the largest of them are measured."""

SECONDS = 2.0
"""How long to train a network for, and half as long to score it, to tell what the rest takes."""


class Estimate(NamedTuple):
    """A search that would run, and about how long.

    Attributes:
        config: of the search.
        trials: how many are to go, a supernet not counted.
        seconds: about how long they take, of simulated time where scores are looked up; None: none of the
            networks that were looked at is feasible.
    """

    config: SearchConfig
    trials: int
    seconds: float | None


def estimates(pending: Sequence[tuple[SearchConfig, int]], tell: Callable[[str], None]) -> list[Estimate]:
    """Measure trials of searches, once for all that differ in name and seed alone; write nothing.

    Args:
        pending: searches with how many trials are to go.
        tell: told what is odd about the data, once for all, and what takes long.

    Raises:
        NasError: a search would be refused, for the same reason.
    """
    sources: dict[str, ScoreSource] = {}
    measured: dict[str, tuple[Pace | None, float, int | None]] = {}
    once = cache(tell)
    found = []
    for config, trials in pending:
        alike = config.model_dump_json(exclude={"name", "seed"})
        if alike not in measured:
            source = json.dumps([config.space, config.tasks, config.evaluator])
            if source not in sources:
                sources[source] = config.make_source()
            measured[alike] = _measured(config, sources[source], once)
        pace, before, derive = measured[alike]
        left = trials if derive is None else derive
        whole = None if pace is None else total(config, pace, left, before)
        found.append(Estimate(config, left, whole))
    return found


def _measured(
    config: SearchConfig, tasks: ScoreSource, tell: Callable[[str], None]
) -> tuple[Pace | None, float, int | None]:
    """Return how fast trials are, what seconds a supernet takes before, and how many it derives.

    None: it takes as many trials as are to go.
    """
    made_by = check(config, tasks, tell)
    space = config.make_space()
    first = architectures(config, space, tasks)
    torch.set_num_threads(config.resources.cpus)
    if not isinstance(tasks, TaskSource):
        return pace_of(config, looked_up(config, tasks, first)), 0.0, None
    shared = supernet(config, space, tasks)
    pace = trial_pace(config, space, tasks, first, lambda words: None)
    if shared is None:
        return pace, 0.0, None
    before = supernet_seconds(config, space, tasks, shared, made_by[MEMORY])
    return pace, before, shared.derive if shared.whole else None


def architectures(config: SearchConfig, space: Space[Any], tasks: ScoreSource) -> list[Architecture]:
    """Return the architectures of the first trials, as far as they depend on no result; else some drawn."""
    controller, found = config.make_controller(space, tasks), list[Evaluate]()
    for number in range(min(SAMPLES, config.planned(space) or config.trials)):
        proposal = controller.propose(number, found, proposal_rng(config.seed, number))
        if not isinstance(proposal, Evaluate):
            break
        found.append(proposal)
    rng = np.random.default_rng(config.seed)
    first = [evaluation.architecture for evaluation in found]
    return first or [space.sample(rng) for _ in range(SAMPLES)]


def trial_pace(
    config: SearchConfig,
    space: Space[Any],
    tasks: TaskSource,
    some: Sequence[Architecture],
    tell: Callable[[str], None],
) -> Pace | None:
    """Tell what networks cost and about how long whole trials of some take; return the mean pace.

    None: no network is feasible.
    """
    costs = []
    for architecture in some:
        try:
            own = candidate_of(space, architecture)
            costs.append((own.space.cost(own.architecture, tasks.shape), architecture))
        except Infeasible as error:
            tell(f"{space.encode(architecture)}: infeasible: {error}")
    costs.sort(key=lambda found: found[0].macs)
    measured = {0, len(costs) // 2, len(costs) - 1} if _measurable(config) else {len(costs) // 2}
    paces = []
    for place, (cost, architecture) in enumerate(costs):
        words = f"{counts.write(cost.parameters)} parameters, {counts.write(cost.macs)} MACs, "
        words += f"{counts.write(cost.activations)} bytes of activations"
        if place in measured:
            pace, whole = _pace(config, space, tasks, architecture)
            paces.append(pace)
            seconds = pace.seconds(config.budget.train_episodes)
            which = "whole training" if config.staged else "trial"
            words += f", a {which} takes {'' if whole else 'about '}{seconds:.1f} s"
        tell(f"{words}: {space.encode(architecture)}")
    if not paces:
        return None
    return Pace(fmean(pace.fixed for pace in paces), fmean(pace.each for pace in paces), paces[0].step)


def _measurable(config: SearchConfig) -> bool:
    """Return whether a part of a trial tells what all of it takes: of other evaluators nothing is known."""
    return issubclass(load("evaluator", config.evaluator["name"]), Train)


def _pace(
    config: SearchConfig, space: Space[Any], tasks: TaskSource, architecture: Architecture
) -> tuple[Pace, bool]:
    """Return about how fast a trial is, and whether all of it was run to tell."""
    seed = training_seed(config.seed, candidate_of(space, architecture).key, 0)
    began = time.perf_counter()
    if not _measurable(config):
        for _ in reports(Trials(config, tasks), Job(0, 0, architecture, seed)):
            pass
        return Pace(0.0, (time.perf_counter() - began) / config.budget.train_episodes), True
    budget, precision = config.budget, config.resources.precision
    trainee = config.make_context(space, tasks).trainee(architecture)
    training = start(
        trainee.space,
        trainee.architecture,
        trainee.tasks,
        trainee.learner,
        precision,
        budget.train_episodes,
        seed,
    )
    next(training.until(1))  # the first step makes buffers and plans
    warm, first = time.perf_counter(), training.done
    for _ in training.until(budget.train_episodes):
        if time.perf_counter() - warm > SECONDS:
            break
    each = (time.perf_counter() - warm) / max(training.done - first, 1)
    episodes = 2
    while True:
        scoring = time.perf_counter()
        episode_scores(training.learner, tasks, "validation", episodes, training.arithmetic)
        spent = time.perf_counter() - scoring
        if spent > SECONDS / 2 or episodes >= budget.validation_episodes:
            break
        episodes = min(4 * episodes, budget.validation_episodes)
    whole = training.done >= budget.train_episodes and episodes == budget.validation_episodes
    begun = warm - began - each * first
    step = training.learner.meta_batch if training.shared else 0
    return Pace(begun + spent / episodes * budget.validation_episodes, each, step), whole


def supernet_seconds(
    config: SearchConfig, space: Space[Any], tasks: TaskSource, proposal: TrainSupernet, memory: int | None
) -> float:
    """Return about how many seconds it takes to train a supernet and to derive from it."""
    context, budget = config.make_context(space, tasks), proposal.budget
    seed = training_seed(config.seed, "supernet 0", 0)

    def measured(steps: int, episodes: int) -> tuple[float, float]:
        small = budget.model_copy(update={"epochs": 1, "steps": steps, "validation_episodes": episodes})
        job = SupernetJob(0, 0, replace(proposal, budget=small), seed, memory=memory)
        outcomes = train_supernet(context, job)
        times = [time.perf_counter()]
        for _ in outcomes:
            times.append(time.perf_counter())
        return times[1] - times[0], times[-1] - times[-2]

    few, derive = measured(2, 2)
    more, _ = measured(8, 2)
    scored, _ = measured(2, 12)
    step, episode = max(more - few, 0.0) / 6, max(scored - few, 0.0) / 10
    epoch = few + step * (budget.steps - 2) + episode * (budget.validation_episodes - 2)
    return budget.epochs * epoch + derive * budget.validation_episodes / 2


def looked_up(config: SearchConfig, tasks: ScoreSource, some: Sequence[Architecture]) -> list[Outcome]:
    """Return what is found of architectures where scores are looked up."""
    worker = Trials(config, tasks)
    return [list(reports(worker, Job(0, 0, architecture, 0)))[-1] for architecture in some]


def feasible(outcomes: Sequence[Outcome]) -> bool:
    """Return whether any is."""
    return any(outcome.state is not TrialState.INFEASIBLE for outcome in outcomes)


def pace_of(config: SearchConfig, outcomes: Sequence[Outcome]) -> Pace | None:
    """Return how fast trials are whose scores were looked up; None: none of them is feasible."""
    if not feasible(outcomes):
        return None
    return Pace(0.0, fmean(outcome.seconds for outcome in outcomes) / config.budget.train_episodes)


def total(config: SearchConfig, pace: Pace, trials: int, before: float) -> float:
    """Return about how many seconds the last `trials` of a search take, after so many seconds before."""
    seconds = pace.seconds(config.budget.train_episodes)
    if config.staged:
        space = config.make_space()
        done = (config.planned(space) or config.trials) - trials
        left = planned(config, space, pace)[done:]
        whole = before + (max(trial.ends for trial in left) - left[0].begins if left else 0.0)
    else:
        whole = before + -(-trials // config.workers) * seconds
    if config.max_seconds is not None:
        whole = min(whole, config.max_seconds / config.workers + seconds)
    return whole
