"""Settings of schedulers, and the lengths of training that follow from them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nas.errors import ConfigError
from nas.plugins import FilePath

Name = Literal["asha", "curves", "halving", "hyperband", "median", "promotion"]

PROMOTING = ("halving", "hyperband", "promotion")
"""Schedulers that ask for short trainings first, and for longer ones of the best; the others stop trials."""


class Scheduler(BaseModel):
    """How a search shares out training: `asha`, `curves` and `median` stop trials, the others promote."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[
        Name, Field(description="which: asha, curves and median stop trials, the others promote")
    ] = "asha"
    minimum: Annotated[
        int | None, Field(ge=1, description="training episodes before the first rung; default: budget / eta²")
    ] = None
    eta: Annotated[int, Field(ge=2, description="reduction factor: about one in eta goes on at a rung")] = 4
    threshold: Annotated[
        float,
        Field(gt=0, lt=1, description="of curves: the chance of a new best score below which a trial stops"),
    ] = 0.05
    table: Annotated[
        FilePath | None,
        Field(
            description="of curves: file of trainings like those of the search, to predict by from its first "
            "trial on; .csv, .csv.gz, …, or .parquet"
        ),
    ] = None
    metric: Annotated[
        dict[Annotated[int, Field(ge=1)], str] | None,
        Field(description="column of the scores of that table after each rung and after the whole training"),
    ] = None

    @model_validator(mode="after")
    def _of_curves(self) -> Self:
        for setting in ("threshold", "table", "metric"):
            default = type(self).model_fields[setting].default
            if self.name != "curves" and getattr(self, setting) != default:
                raise ConfigError(
                    f"scheduler.{setting}: it is for the scheduler 'curves', and '{self.name}' does not read "
                    "it. Leave it out, or choose --scheduler curves."
                )
        if (self.table is None) != (self.metric is None):
            raise ConfigError(
                "scheduler.table, scheduler.metric: one needs the other. Give both, such as "
                '{75 = "score_75", 300 = "score_300"} for the metric, or none.'
            )
        return self

    @property
    def promotes(self) -> bool:
        """Whether trials are asked to be short, and the best of them to be longer."""
        return self.name in PROMOTING

    def rungs(self, budget: int) -> tuple[int, ...]:
        """Return the training episodes at which trials are judged: minimum·etaᵏ below `budget`, ascending."""
        rungs = []
        step = self.minimum or max(1, budget // self.eta**2)
        while step < budget:
            rungs.append(step)
            step *= self.eta
        return tuple(rungs)

    def lengths(self, budget: int) -> tuple[int, ...]:
        """Return the lengths to promote through: budget / etaᵏ from the minimum on, ascending."""
        minimum = self.minimum or max(1, budget // self.eta**2)
        lengths = [budget]
        while lengths[-1] // self.eta >= minimum:
            lengths.append(lengths[-1] // self.eta)
        return tuple(reversed(lengths))
