"""How long a network takes: measured where it is about to be trained."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import median
from typing import final

import torch
from torch import Tensor, nn

from nas.chance import forked
from nas.controller import Outcome
from nas.costs import MEASURED, excess
from nas.evaluator import Context, Evaluator, Job, Trainee
from nas.precision import Arithmetic, Precision
from nas.states import TrialState
from nas.training.loop import arithmetic_of

BATCH = 32
"""Examples of the batch."""

WARM_UP = 3
"""Forward passes before those that are timed."""

REPEATS = 15
"""Forward passes that are timed."""


@final
class Timed(Evaluator):
    """An evaluator around another: measures each network's latency, and trains none that is too slow.

    Args:
        evaluator: evaluates what is within the limits.
        context: of the search.
        limits: seconds at most, by a name in `nas.costs.MEASURED`.
    """

    def __init__(self, evaluator: Evaluator, context: Context, limits: Mapping[str, float]) -> None:
        self._evaluator, self._context, self._limits = evaluator, context, dict(limits)

    def warm(self) -> None:
        """Warm the evaluator."""
        self._evaluator.warm()

    def evaluate(self, job: Job) -> Iterator[Outcome]:
        """Yield what the evaluator does, with the latencies; or that the network is infeasible."""
        began = time.perf_counter()
        trainee = self._context.trainee(job.architecture)
        found = latencies(trainee, self._context.precision)
        broken = excess(found, self._limits)
        if broken is not None:
            cost = trainee.space.cost(trainee.architecture, trainee.tasks.shape)
            seconds, costs = time.perf_counter() - began, cost._asdict() | found
            yield Outcome(TrialState.INFEASIBLE, job.architecture, seconds=seconds, costs=costs, error=broken)
            return
        taken = time.perf_counter() - began
        for outcome in self._evaluator.evaluate(job):
            yield replace(outcome, seconds=taken + outcome.seconds, costs={**outcome.costs, **found})


def latencies(trainee: Trainee, precision: Precision) -> dict[str, float]:
    """Return the median seconds of a network's forward pass, of one example and of a batch of `BATCH`.

    Weights are fresh, and batch norm takes fixed statistics. Torch's generator is left as it was.

    Raises:
        Infeasible: the architecture has no network for these tasks.
    """
    arithmetic = arithmetic_of(trainee.tasks, trainee.learner, precision)
    shape = trainee.tasks.shape
    with forked():
        network = arithmetic.prepare(trainee.space.build(trainee.architecture, shape)).eval()
        batch = torch.rand(BATCH, *shape.input).to(arithmetic.device)
    return {
        name: _seconds(network, x, arithmetic) for name, x in zip(MEASURED, (batch[:1], batch), strict=True)
    }


def _seconds(network: nn.Module, x: Tensor, arithmetic: Arithmetic) -> float:
    """Return the median time of a forward pass."""

    def forward() -> float:
        began = time.perf_counter()
        network(x)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        return time.perf_counter() - began

    with torch.inference_mode(), arithmetic.autocast():
        for _ in range(WARM_UP):
            forward()
        return median(forward() for _ in range(REPEATS))
