"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_DB = "sqlite:///nas.db"

DbOption = Annotated[
    str, typer.Option("--db", envvar="NAS_DB", metavar="URL", help="Database of results.", show_default=True)
]
SearchArgument = Annotated[
    str, typer.Argument(metavar="SEARCH", help="A search's name, a unique prefix of it, or @last.")
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS", metavar="HOST:PORT", help="A Ray cluster; by default Ray starts here."
    ),
]
