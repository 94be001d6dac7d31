"""Zero-cost proxies of architectures: in the learner that would train them, on the tasks it would learn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, final

import numpy as np
import torch
from pydantic import Field

from nas.chance import forked
from nas.controller import Outcome, Score
from nas.errors import Infeasible
from nas.evaluator import Context, Evaluator, Job, Trainee
from nas.plugins import Slot
from nas.precision import Arithmetic
from nas.product import candidate_of
from nas.proxies.base import Proxy, Subject, measured
from nas.proxies.naswot import Naswot
from nas.space import Architecture
from nas.states import TrialState
from nas.tasks.base import EPISODE_LIST_SEED, Episode, TaskSource
from nas.training.provenance import training_seed

EXAMPLES = 64
"""A proxy sees as many training tasks as hold so many examples or more."""

MakeProxy = Annotated[
    Callable[[], Proxy], Slot("proxy", Proxy), Field(description="what scores; `nas proxies` lists them")
]


@final
class ByProxy(Evaluator):
    """Scores an architecture by a zero-cost proxy, and trains nothing."""

    def __init__(self, context: Context, *, proxy: MakeProxy = Naswot) -> None:
        self._context, self._proxy = context, proxy()

    def evaluate(self, job: Job) -> Iterator[Outcome]:
        """Yield the proxy of the network with the weights that a training would begin with."""
        began = time.perf_counter()
        trainee = self._context.trainee(job.architecture)
        untrained = subject(trainee, job.seed)
        with _one_thread():
            value = measured(self._proxy, untrained)
        name, classes = self._context.tasks.fingerprint("train")
        normalization, tasks = untrained.learner.normalization, len(untrained.episode)
        yield Outcome(
            TrialState.COMPLETED,
            job.architecture,
            Score(value, math.nan, tasks, name, classes, normalization),
            seconds=time.perf_counter() - began,
            costs=untrained.cost._asdict(),
        )


@final
class Promised:
    """What a proxy says of the candidates of a search, with the weights that their trainings begin with.

    Args:
        context: of the search.
        proxy: what says it.
        seed: of the search.
    """

    def __init__(self, context: Context, proxy: Proxy, seed: int) -> None:
        self._context, self._proxy, self._seed = context, proxy, seed

    def __call__(self, architecture: Architecture) -> float:
        """Return the proxy of a candidate, −∞ where it has none."""
        seed = training_seed(self._seed, candidate_of(self._context.space, architecture).key, 0)
        try:
            found = proxies(self._context.trainee(architecture), seed, {"": self._proxy})[""]
        except Infeasible:
            found = None
        return -math.inf if found is None else found


def proxies(trainee: Trainee, seed: int, wanted: Mapping[str, Proxy]) -> dict[str, float | None]:
    """Return proxies of an architecture, None where the network has no such number.

    Args:
        trainee: what would be trained.
        seed: of the weights: those that a training by this seed begins with.
        wanted: by the name that each shall have.

    Raises:
        Infeasible: the architecture has no network for these tasks.
    """
    untrained = subject(trainee, seed)
    found = dict[str, float | None]()
    with _one_thread():
        for name, proxy in wanted.items():
            try:
                found[name] = measured(proxy, untrained)
            except Infeasible:
                found[name] = None
    return found


def subject(trainee: Trainee, seed: int) -> Subject:
    """Build an untrained network in its learner, and draw the tasks that proxies see: always the same.

    It is on the CPU and in float32, so that a driver and its workers find the same numbers.

    Args:
        trainee: what would be trained.
        seed: of the weights: those that a training by this seed begins with.

    Raises:
        Infeasible: the architecture has no network for these tasks.
    """
    space, architecture, shape = trainee.space, trainee.architecture, trainee.tasks.shape
    cost = space.cost(architecture, shape)
    arithmetic = Arithmetic(torch.device("cpu"), "float32", channels_last=len(shape.input) == 3)
    with forked():
        torch.manual_seed(seed)
        backbone = space.build(architecture, shape)
        learner = arithmetic.prepare(trainee.learner(backbone, shape)).train()
    return Subject(learner, backbone, _tasks(trainee.tasks), cost)


def _tasks(source: TaskSource) -> Episode:
    """Return training tasks that hold `EXAMPLES` examples or more, the same at each call."""
    first = source.sample("train", 1, np.random.default_rng(EPISODE_LIST_SEED))
    number = -(-EXAMPLES // (first.support_x.shape[1] + first.query_x.shape[1]))
    return source.sample("train", number, np.random.default_rng(EPISODE_LIST_SEED))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread: networks as small as these gain nothing from more, and sums have one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
