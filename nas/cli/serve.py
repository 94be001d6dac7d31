"""The verb that shows the database in a browser: serve."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from nas.cli.options import DEFAULT_DB, DbOption
from nas.cli.output import say


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(serve)


def _token(text: str | None) -> str | None:
    if text is not None and not (len(text) >= 16 and text.isascii() and text.replace("-", "").isalnum()):
        raise typer.BadParameter("16 or more letters, digits and dashes; leave it out to have one made.")
    return text


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen at; another than this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="NAS_TOKEN",
            callback=_token,
            help="What visitors need; by default one is made where other machines can reach the address.",
        ),
    ] = None,
    root_path: Annotated[
        str,
        typer.Option(
            metavar="PATH", help="Where a proxy serves the pages: /nas, or https://example.org/nas."
        ),
    ] = "",
    allow_control: Annotated[
        bool, typer.Option("--allow-control", help="Let visitors stop searches. By default they only look.")
    ] = False,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Show searches, trials and leaderboards in a browser, live.

    The database is only read, may be written meanwhile, and has to be there. Nothing is fetched from
    elsewhere: pages work without a network.
    """
    from nas.storage.engine import parse, shown
    from nas.storage.store import Store
    from nas.web import server

    server.place(root_path)
    server.check_installed()
    usual = db in (DEFAULT_DB, os.environ.get("NAS_DB"))
    with Store(db) as store:
        server.serve(
            store,
            say,
            host=host,
            port=port,
            token=token,
            root_path=root_path,
            control=allow_control,
            db=None if usual else shown(parse(db)),
        )
