"""What a trial takes of a machine, and what its architecture may cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from nas import counts
from nas.costs import COUNTED, MEASURED
from nas.errors import ConfigError
from nas.executors.capacity import Demand
from nas.precision import Precision
from nas.settings.sections import StrictModel


def _count(value: Any) -> Any:
    """Return a count that is a text, such as `20k`, as a number."""
    return counts.read(value) if isinstance(value, str) else value


Count = Annotated[int, BeforeValidator(_count), Field(ge=1, lt=2**63)]
"""A number of weights, operations or bytes, such as 20000 or `20k`."""


class Constraints(StrictModel):
    """What an architecture may cost at most; what breaks a limit is not trained.

    What is counted is rejected before a worker is spent, what is measured by the worker that would train it.
    """

    max_parameters: Annotated[Count | None, Field(description="weights")] = None
    max_macs: Annotated[Count | None, Field(description="multiply-accumulates")] = None
    max_activations: Annotated[
        Count | None, Field(description="bytes of activations at once, for one example in float32")
    ] = None
    max_latency: Annotated[
        float | None, Field(gt=0, description="seconds of a forward pass of one example, measured")
    ] = None
    max_latency_batch: Annotated[
        float | None, Field(gt=0, description="seconds of a forward pass of 32 examples, measured")
    ] = None

    @property
    def counted(self) -> dict[str, float]:
        """The limits of what is counted before a worker is spent, by cost."""
        return self._of(COUNTED)

    @property
    def measured(self) -> dict[str, float]:
        """The limits of what a worker measures, by cost."""
        return self._of(MEASURED)

    def _of(self, names: Iterable[str]) -> dict[str, float]:
        limits = {name: getattr(self, f"max_{name}") for name in names}
        return {name: limit for name, limit in limits.items() if limit is not None}


class Resources(StrictModel):
    """What one trial takes of a machine."""

    cpus: Annotated[int, Field(ge=1, le=1024, description="cores, and torch threads, of one trial")] = 1
    gpus: Annotated[
        float | None, Field(ge=0, description="share of a GPU; by default the GPUs split evenly over workers")
    ] = None
    memory: Annotated[
        Count | None, Field(description="bytes of one trial, such as 4G, which Ray reserves for it")
    ] = None
    custom: Annotated[
        dict[str, Annotated[float, Field(gt=0)]],
        Field(description="of what machines of a Ray cluster have by names of its own, how much"),
    ] = Field(default_factory=dict)
    precision: Precision = "auto"
    latency: Annotated[
        bool,
        Field(
            description="time each network's forward pass of one example, and of 32; its limits do so, too"
        ),
    ] = False
    seconds: Annotated[
        float | None,
        Field(
            gt=0,
            description="time after which a trial ends: stopped with its last score at a rung, or failed "
            "without one, and not tried again; a supernet ends with its epoch, and derives",
        ),
    ] = None

    @field_validator("custom")
    @classmethod
    def _none_of_ray(cls, custom: dict[str, float]) -> dict[str, float]:
        for name in {"CPU", "GPU", "memory", "object_store_memory"} & custom.keys():
            raise ConfigError(
                f"resources.custom.{name}: Ray has this name for what resources.cpus, gpus and memory are "
                "for. Set these."
            )
        return custom

    @property
    def demand(self) -> Demand:
        """What one trial takes."""
        return Demand(self.cpus, self.gpus, self.memory, self.custom)
