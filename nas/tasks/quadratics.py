"""Random quadratics, for optimizers that are learned (Andrychowicz et al. 2016, section 3.1)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from nas.errors import ConfigError
from nas.space import TaskShape
from nas.tasks.base import Episode, Split, TaskSource, class_hash


@final
class Quadratics(TaskSource):
    """Tasks f(θ) = ‖Wθ − y‖², with the entries of W and y drawn from N(0, 1), or from U[0, 1).

    As regression, an example is a row of W and its target that of y, both times √rows, so that the mean
    squared error of a linear model without a bias is f. With a bias f has one more dimension. Queries are the
    same function, seen through an orthogonal change of the rows: none of them is a support example, and
    the mean squared errors agree. All three splits are one distribution.

    Raises:
        ConfigError: there are fewer queries than rows, so that they cannot be the same function.
    """

    name: ClassVar[str] = "quadratics"

    def __init__(
        self,
        *,
        dimensions: Annotated[int, Field(ge=1, description="of θ")] = 10,
        shots: Annotated[int, Field(ge=1, description="rows of W: support points of a task")] = 10,
        queries: Annotated[int, Field(ge=1, description="query points, at least as many as shots")] = 10,
        entries: Annotated[
            Literal["normal", "uniform"], Field(description="N(0, 1), as in the paper, or U[0, 1), its code")
        ] = "normal",
    ) -> None:
        if queries < shots:
            raise ConfigError(
                f"tasks.queries: {queries} queries cannot be the same function as {shots} rows. "
                f"Set tasks.queries to {shots} or more."
            )
        self._dimensions, self._shots, self._queries = dimensions, shots, queries
        self._entries = entries

    @property
    def shape(self) -> TaskShape:
        """A row of W to a number."""
        return TaskShape((self._dimensions,), 1)

    @property
    def label(self) -> str:
        """Such as `quadratics of 10 dimensions, 10-shot`."""
        return f"quadratics of {self._dimensions} dimensions, {self._shots}-shot"

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        """Draw `tasks` functions: x is `[tasks, rows, dimensions]`, y `[tasks, rows, 1]`."""
        size = (tasks, self._shots, self._dimensions + 1)
        both = rng.normal(size=size) if self._entries == "normal" else rng.random(size)
        turns = np.linalg.qr(rng.normal(size=(tasks, self._queries, self._shots))).Q
        support_x, support_y = self._parted(both * self._shots**0.5)
        query_x, query_y = self._parted(turns @ both * self._queries**0.5)
        none = np.empty((tasks, 0), dtype=np.int64)
        return Episode(support_x, support_y, query_x, query_y, ways=0, shots=self._shots, classes=none)

    def _parted(self, both: np.ndarray) -> tuple[Tensor, Tensor]:
        found = torch.from_numpy(both.astype(np.float32))
        return found[..., : self._dimensions].contiguous(), found[..., self._dimensions :].contiguous()

    def fingerprint(self, split: Split) -> tuple[str, str]:
        """Return the split's name and a hash of the distribution, which stands for its classes."""
        return f"quadratics/{split}", class_hash([f"{self._dimensions} {self._shots} {self._entries}"])
