"""The verb that lists searches: ls."""

from __future__ import annotations

from typing import Annotated

import typer

from nas.cli.options import DEFAULT_DB, DbOption
from nas.cli.output import Format, FormatOption, WideOption, emit, say

DROP = ("created_at", "sign_of_life", "learner", "space", "controller", "failed", "seed", "task")
"""What a narrow terminal can do without, the least important first."""


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(ls)


def ls(
    limit: Annotated[int, typer.Option(min=0, help="Rows to print; 0 for all.")] = 20,
    form: FormatOption = Format.TABLE,
    wide: WideOption = False,
    db: DbOption = DEFAULT_DB,
) -> None:
    """List the searches, newest first."""
    from nas.queries.rows import record
    from nas.queries.searches import searches
    from nas.storage.store import Store

    with Store(db) as store:
        rows = searches(store, limit)
    emit([record(row) for row in rows], form, drop=DROP, wide=wide)
    if not rows:
        say("No searches yet. Start one: `nas run --help`")
