"""Addresses of pages, and the commands that say the same as they do."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request


class Links:
    """Addresses below a prefix, and commands that ask the same database.

    Args:
        prefix: of all addresses, as `/nas`, or nothing.
        db: the database's URL as commands name it; None: the one that they ask anyway.
    """

    def __init__(self, prefix: str = "", db: str | None = None) -> None:
        self._prefix, self._db = prefix, db

    def url(self, *parts: object, **query: object) -> str:
        """Return the address of a page below the prefix; what is None or empty is not asked for."""
        path = "/".join(quote(str(part), safe="") for part in parts)
        asked = [(key, value) for key, value in query.items() if value not in (None, "", (), [])]
        return f"{self._prefix}/{path}" + (f"?{urlencode(asked, doseq=True)}" if asked else "")

    def command(self, *arguments: str) -> str:
        """Return a command of the command line that asks the same database."""
        own = () if self._db is None else ("--db", self._db)
        return shlex.join(["nas", *arguments, *own])

    def trial(self, row: Mapping[str, Any]) -> str | None:
        """Return the address of the trial that a row of a table names; None: it names none."""
        if row.get("search") is None or row.get("trial") is None:
            return None
        return self.url("searches", row["search"], "trials", row["trial"])

    def search(self, row: Mapping[str, Any]) -> str | None:
        """Return the address of the search that a row of a table names; None: it names none."""
        return None if row.get("search") is None else self.url("searches", row["search"])


def without(request: Request, *names: str) -> dict[str, str]:
    """Return what a page was asked for, some of it left out."""
    return {key: value for key, value in request.query_params.items() if key not in names}
