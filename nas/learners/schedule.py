"""How the learning rate of φ falls over a training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

Schedule = Annotated[
    Literal["constant", "linear", "cosine"],
    Field(description="whether lr falls to zero over the training, and how"),
]


def _constant(progress: float) -> float:
    return 1.0


def _linear(progress: float) -> float:
    return 1.0 - progress


def _cosine(progress: float) -> float:
    return (1.0 + math.cos(math.pi * progress)) / 2


_FACTORS: dict[str, Callable[[float], float]] = {"constant": _constant, "linear": _linear, "cosine": _cosine}


def constant(factor: Callable[[float], float]) -> bool:
    """Return whether a rate stays as it is, so that no step depends on how long a training is to last."""
    return all(factor(share / 100) == factor(0.0) for share in range(100))


def decay(schedule: Schedule) -> Callable[[float], float]:
    """Return the function from the share of the training done, in [0, 1), to a factor on the rate."""
    return _FACTORS[schedule]
