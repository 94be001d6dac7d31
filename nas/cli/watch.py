"""The verb that follows a search from another terminal: watch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from nas.cli.options import DEFAULT_DB, DbOption, SearchArgument
from nas.cli.output import say

if TYPE_CHECKING:
    from nas.storage.schema import Search

EVERY = 1.0
"""Seconds between two looks at the database."""


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(watch)


def watch(search: SearchArgument, db: DbOption = DEFAULT_DB) -> None:
    """Follow a search until it ends, from any terminal that reaches its database; Ctrl-C ends the watching.

    The database is only read. It knows trials that began or ended, not how far a running one is.
    """
    from nas.progress.searches import following
    from nas.storage.lease import driven
    from nas.storage.store import Store

    with Store(db) as store:
        row = store.search(search)
        try:
            with following(row, store, say) as look:
                while True:
                    row = store.search(row.name)
                    running = driven(row)  # asked first: what ended before is then seen below
                    look(row)
                    if not running:
                        break
                    time.sleep(EVERY)
        except KeyboardInterrupt:
            say(f"\nSearch '{row.name}' goes on. Stop it: `nas stop {row.name}`")
            return
    say(_ending(row))


def _ending(row: Search) -> str:
    from nas.storage.searches import continuation

    if row.state == "running":
        return f"The driver of '{row.name}' died. Continue: `{continuation(row)}`"
    more = f"nas show {row.name}" if row.state == "completed" else continuation(row)
    return f"Search '{row.name}' is {row.state}. More: `{more}`"
