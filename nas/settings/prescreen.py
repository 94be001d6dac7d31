"""What a search chooses its trials by, before any is trained."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from nas.settings.sections import Model, section


class Prescreen(Model):
    """Of a few candidates of the controller, the best by a zero-cost proxy is trained."""

    proxy: Annotated[
        dict[str, Any],
        section("proxy"),
        WithJsonSchema({"type": "name or section"}),
        Field(description="what they are compared by; `nas proxies` lists them"),
    ]
    candidates: Annotated[int, Field(ge=2, description="new networks that a trial is chosen from")] = 8
    trials: Annotated[
        int | None, Field(ge=1, description="how many first trials are chosen so; by default all")
    ] = None
