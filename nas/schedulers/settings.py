"""Settings of schedulers, and the lengths of training that follow from them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nas.errors import ConfigError

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

    @model_validator(mode="after")
    def _threshold_of_curves(self) -> Self:
        if self.name != "curves" and self.threshold != type(self).model_fields["threshold"].default:
            raise ConfigError(
                f"scheduler.threshold: it is for the scheduler 'curves', and '{self.name}' does not read it. "
                "Leave it out, or choose --scheduler curves."
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
