"""The verb that writes about a search: note."""

from __future__ import annotations

from typing import Annotated

import typer

from nas.cli.options import DEFAULT_DB, DbOption, WholeSearchArgument
from nas.cli.output import say


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(note)


def note(
    search: WholeSearchArgument,
    text: Annotated[
        list[str], typer.Argument(metavar="TEXT...", help="The note, of one line; '' removes it.")
    ],
    db: DbOption = DEFAULT_DB,
) -> None:
    """Keep a note with a search, in place of the one before; `nas ls` and `nas show` print it."""
    from nas.storage.store import Store

    with Store(db) as store:
        row = store.search(search, whole=True)
        line = " ".join(" ".join(text).split())
        store.annotate(row.id, line or None)
    before = f" The note before: {row.note}" if row.note not in (None, line) else ""
    say(f"Noted with '{row.name}'.{before}" if line else f"'{row.name}' has no note now.{before}")
