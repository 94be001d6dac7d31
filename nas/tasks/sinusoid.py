"""Regression of sine waves, Finn, Abbeel and Levine 2017, §5.1."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from nas.space import TaskShape
from nas.tasks.base import Episode, Split, TaskSource, class_hash

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, math.pi)
INPUT = (-5.0, 5.0)


@final
class Sinusoid(TaskSource):
    """Tasks y = A sin(x − φ) with A ~ U[0.1, 5], φ ~ U[0, π] and x ~ U[−5, 5].

    All three splits are this one distribution. The paper trains on 10 shots for its 5-shot errors too.
    Predicting 0 has a mean squared error of 4.25; the best prediction that looks at no support set,
    −2 E[A] cos(x) / π, has 3.01.
    """

    name: ClassVar[str] = "sinusoid"
    training_settings: ClassVar[tuple[str, ...]] = ("train_shots", "train_queries")

    def __init__(
        self,
        *,
        shots: Annotated[int, Field(ge=1, description="support points of a task")] = 10,
        queries: Annotated[int, Field(ge=1, description="query points of a task")] = 10,
        train_shots: Annotated[
            int | None, Field(ge=1, description="shots of a training task, if other than shots")
        ] = None,
        train_queries: Annotated[
            int | None, Field(ge=1, description="queries of a training task, if other than queries")
        ] = None,
    ) -> None:
        self._shots = shots
        self._queries = queries
        self._train_shots = train_shots or shots
        self._train_queries = train_queries or queries

    @property
    def shape(self) -> TaskShape:
        """A number to a number."""
        return TaskShape((1,), 1)

    @property
    def label(self) -> str:
        """Such as `sinusoid 10-shot`."""
        return f"sinusoid {self._shots}-shot"

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        """Draw `tasks` waves and points on them: `x` and `y` are `[tasks, points, 1]`."""
        training = split == "train"
        shots = self._train_shots if training else self._shots
        queries = self._train_queries if training else self._queries
        amplitude = rng.uniform(*AMPLITUDE, (tasks, 1, 1))
        phase = rng.uniform(*PHASE, (tasks, 1, 1))
        x = rng.uniform(*INPUT, (tasks, shots + queries, 1))
        y = amplitude * np.sin(x - phase)
        support_x, query_x = _tensors(x, shots)
        support_y, query_y = _tensors(y, shots)
        none = np.empty((tasks, 0), dtype=np.int64)
        return Episode(support_x, support_y, query_x, query_y, ways=0, shots=shots, classes=none)

    def fingerprint(self, split: Split) -> tuple[str, str]:
        """Return the split's name and a hash of the distribution, which stands for its classes."""
        return f"sinusoid/{split}", class_hash([f"{AMPLITUDE} {PHASE} {INPUT}"])


def _tensors(values: npt.NDArray[np.float64], shots: int) -> tuple[Tensor, Tensor]:
    both = torch.from_numpy(values.astype(np.float32))
    return both[:, :shots], both[:, shots:]
