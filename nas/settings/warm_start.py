"""Earlier searches that a search begins with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field

from nas.settings.sections import StrictModel


class WarmStart(StrictModel):
    """Begin with what earlier searches found in the same space, on whatever task."""

    searches: Annotated[
        list[str],
        Field(min_length=1, description="names of searches in the same database, whole"),
    ]
    trials: Annotated[int, Field(ge=1, description="how many of their best networks are tried first")] = 8


def begin(values: dict[str, Any], names: Iterable[str]) -> None:
    """Begin a search with earlier ones: set their names in its settings, in place of others there."""
    section = searches(values.get("warm_start"))
    values["warm_start"] = {**(section if isinstance(section, dict) else {}), "searches": list(names)}


def searches(value: Any) -> Any:
    """Return names of searches as a section: a text such as `one,other`, or a list of names."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    return {"searches": value} if isinstance(value, list) else value
