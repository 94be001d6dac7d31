"""What a search chooses its trials by, before any is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from nas import plugins
from nas.controller import Controller
from nas.errors import ConfigError
from nas.settings.sections import StrictModel, controllers, name_of, section

SCORED = 100
"""Architectures that a supernet scores, from which the scores of others are predicted."""

BRIEF = {"epochs": 10, "steps": 120, "validation_episodes": 3}
"""The budget of such a supernet: what it tells has to be worth the trials that it takes the time of."""


def _supernet(value: Any) -> Any:
    """Return the section of a one-shot controller, with what is needed to predict others, and no more."""
    name = name_of(value)
    if name is None:
        return value
    with plugins.within("prescreen.supernet", "controller", name):
        one_shot = plugins.load("controller", name, Controller).one_shot
    if not one_shot:
        raise ConfigError(
            f"prescreen.supernet: '{name}' trains none. Choose {controllers(one_shot=True)}, or set "
            "prescreen.proxy."
        )
    given = dict(value) if isinstance(value, Mapping) else {"name": value}
    budget = given.get("budget", {})
    brief = {**BRIEF, **budget} if isinstance(budget, Mapping) else budget
    return {"derive": SCORED} | given | {"budget": brief}


class Prescreen(StrictModel):
    """Of a few candidates of the controller, the most promising is trained: give `proxy` or `supernet`."""

    proxy: Annotated[
        dict[str, Any] | None,
        section("proxy", where="prescreen.proxy", optional=True),
        WithJsonSchema({"type": "name or section"}),
        Field(description="a zero-cost proxy that candidates are compared by; `nas proxies` lists them"),
    ] = None
    supernet: Annotated[
        dict[str, Any] | None,
        section("controller", where="prescreen.supernet", optional=True),
        BeforeValidator(_supernet),
        WithJsonSchema({"type": "name or section"}),
        Field(
            description="a one-shot controller: its supernet is trained as trial 0, and candidates are "
            "compared by what its scores of `derive` architectures predict"
        ),
    ] = None
    candidates: Annotated[int, Field(ge=2, description="new networks that a trial is chosen from")] = 8
    trials: Annotated[
        int | None, Field(ge=1, description="how many first trials are chosen so; by default all")
    ] = None

    @model_validator(mode="after")
    def _by_one(self) -> Self:
        if (self.proxy is None) == (self.supernet is None):
            raise ConfigError(
                "prescreen: give one of proxy and supernet, such as prescreen.proxy=synflow or "
                "prescreen.supernet=random_sharing."
            )
        return self
