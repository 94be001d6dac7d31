"""Verbs for the database's schema: upgrade, current."""

from __future__ import annotations

import typer

from nas.cli.options import DEFAULT_DB, DbOption
from nas.cli.output import say

db = typer.Typer(help="Bring the database's schema up to date.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.add_typer(db, name="db")


@db.command()
def upgrade(db: DbOption = DEFAULT_DB) -> None:
    """Create the tables, or bring them to this version's revision; no result is touched."""
    from nas.storage import migrations

    before, after = migrations.upgrade(db)
    say(
        f"Already at revision {after}."
        if before == after
        else f"Upgraded from {before or 'empty'} to {after}."
    )


@db.command()
def current(db: DbOption = DEFAULT_DB) -> None:
    """Print the database's revision, and what this version of nas expects."""
    from nas.storage import migrations

    revision, head = migrations.current(db)
    typer.echo(revision or "empty")
    if revision != head:
        say(f"This version of nas expects {head}: `nas db upgrade`")
