"""On which kinds of machines searches ran: their scores under one seed differ from one kind to another."""

from __future__ import annotations

from collections.abc import Sequence

from nas.storage.schema import Search
from nas.training import provenance


def machines(searches: Sequence[Search]) -> dict[str, list[str]]:
    """Return the names of the searches that ran on each kind of machine; a kind is a few words.

    One that was resumed on another kind names both. Searches in a table train nothing, and are of no kind;
    those of before a machine was recorded are of `an unknown machine`.
    """
    found: dict[str, list[str]] = {}
    for search in searches:
        if search.config["tasks"] is not None:
            found.setdefault(_kind(search), []).append(search.name)
    return found


def _kind(search: Search) -> str:
    return ", then ".join(provenance.machines(search.environment)) or "an unknown machine"
