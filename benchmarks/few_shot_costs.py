"""What training and scoring networks of `few_shot` costs: measured for a sample, fitted for the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from nas.backbone import BackboneSpace
from nas.learners.base import Learner
from nas.space import Architecture, TaskShape
from nas.tasks.base import TaskSource
from nas.training.loop import start
from nas.training.scoring import episode_scores
from search_spaces.few_shot import FewShot
from search_spaces.few_shot_cells import DOWN, OPERATIONS, paths

MEASURED = ("step", "task", "latency", "latency_batch")
"""Seconds of the processor: of a training episode, of a validation task, of passes of 1 and 32 examples."""

ROUNDS = 6
"""Of which the least counts: whatever else a machine does makes a round longer, never shorter."""


def measured(
    space: BackboneSpace,
    architecture: Architecture,
    tasks: TaskSource,
    learner: Callable[[torch.nn.Module, TaskShape], Learner],
) -> list[float]:
    """Return `MEASURED` of a network, in float32 on one thread."""
    training = start(space, architecture, tasks, learner, "float32", 1000, 0)
    steps = training.until(1000)
    backbone = training.arithmetic.prepare(space.build(architecture, tasks.shape)).eval()
    examples = [torch.rand(size, *tasks.shape.input) for size in (1, 32)]

    def task() -> Any:
        return episode_scores(training.learner, tasks, "validation", 2, training.arithmetic)

    def passes(x: torch.Tensor) -> Callable[[], Any]:
        def run() -> None:
            with torch.no_grad(), training.arithmetic.autocast():
                for _ in range(5):
                    backbone(x)

        return run

    actions = [(lambda: [next(steps) for _ in range(3)], 3), (task, 2), *((passes(x), 5) for x in examples)]
    return [least(action) / count for action, count in actions]


def least(action: Callable[[], Any]) -> float:
    """Return the least processor seconds of some rounds after one to warm up."""
    took = []
    for _ in range(1 + ROUNDS):
        began = time.process_time()
        action()
        took.append(time.process_time() - began)
    return min(took[1:])


def described(space: FewShot, architecture: Architecture) -> list[float]:
    """Return what costs are a linear function of: per stage, its pooling, its paths and their operations."""
    found = [1.0]
    for begin, operations in space.stages_of(architecture):
        cell = paths(operations)
        every = [name for path in cell for name in path]
        found += [
            float(begin == DOWN[1]),
            float(len(cell)),
            *(float(every.count(name)) for name in OPERATIONS[2:]),
        ]
    return found


def fitted(x: Sequence[Sequence[float]], known: Sequence[int], y: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Return least-squares predictions for all rows of x, and R² of those with y held out, each in turn.

    Args:
        x: what costs are a function of, `[networks, features]`.
        known: the networks with measured costs, by their place.
        y: their costs, `[known, costs]`.
    """
    every = np.asarray(x)
    own = every[list(known)]
    weights = np.linalg.pinv(own) @ y
    hat = own @ np.linalg.pinv(own)
    residuals = (y - own @ weights) / (1 - np.diag(hat))[:, None]
    r2 = 1 - (residuals**2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)
    return every @ weights, r2
