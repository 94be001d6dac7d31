"""On which kinds of machines searches ran: their scores under one seed differ from one kind to another."""

from __future__ import annotations

from collections.abc import Sequence

from nas.provenance import MACHINE
from nas.storage.schema import Search


def machines(searches: Sequence[Search]) -> dict[str, list[str]]:
    """Return the names of the searches that began on each kind of machine; a kind is a few words.

    Searches in a table train nothing, and are of no kind; those of before a machine was recorded are of
    `an unknown machine`.
    """
    found: dict[str, list[str]] = {}
    for search in searches:
        if search.config["tasks"] is not None:
            found.setdefault(_kind(search), []).append(search.name)
    return found


def _kind(search: Search) -> str:
    known = {key: search.environment.get(key) for key in MACHINE}
    if known["processor"] is None:
        return "an unknown machine"
    return ", ".join(f"{key} {value}" if key == "torch" else value for key, value in known.items() if value)
