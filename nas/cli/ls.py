"""The verb that lists searches, once or again and again: ls."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import looks
from nas.cli.looks import WatchOption
from nas.cli.options import DEFAULT_DB, DbOption
from nas.cli.output import Format, FormatOption, WideOption, emit, say

if TYPE_CHECKING:
    from nas.storage.store import Store

DROP = (
    "seconds",
    "created_at",
    "sign_of_life",
    "learner",
    "space",
    "controller",
    "failed",
    "ci95",
    "seed",
    "task",
)
"""What a narrow terminal can do without, the least important first."""


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(ls)


def ls(
    limit: Annotated[int, typer.Option(min=0, help="Rows to print; 0 for all.")] = 20,
    watch: WatchOption = False,
    form: FormatOption = Format.TABLE,
    wide: WideOption = False,
    db: DbOption = DEFAULT_DB,
) -> None:
    """List the searches, newest first."""
    from nas.storage.store import Store

    if watch:
        looks.check(form)
    with Store(db) as store:
        if watch:
            with suppress(KeyboardInterrupt):
                _watch(store, limit, form, wide)
            return
        rows = _records(store, limit)
    emit(rows, form, drop=DROP, wide=wide)
    if not rows:
        say("No searches yet. Start one: `nas run --help`")


def _records(store: Store, limit: int) -> list[dict[str, Any]]:
    from nas.queries.rows import record
    from nas.queries.searches import searches

    return [record(row) for row in searches(store, limit)]


def _watch(store: Store, limit: int, form: Format, wide: bool) -> None:
    """Show the list for ever."""

    def draw() -> bool:
        rows = _records(store, limit)
        emit(rows, form, drop=DROP, wide=wide)
        if not rows:
            typer.echo("No searches yet.")
        return True

    if looks.on_terminal(form):
        looks.in_place(draw)
    looks.changes(
        lambda: (_records(store, limit), True),
        lambda rows: emit(rows, form, drop=DROP, wide=wide),
        "search",
    )
