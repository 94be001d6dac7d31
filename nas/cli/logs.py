"""The verb that tells what workers printed: logs."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from nas.cli import completion
from nas.cli.options import DEFAULT_DB, ArtifactsOption, DbOption
from nas.cli.output import say
from nas.errors import NotFound


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(logs)


def logs(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SEARCH[/TRIAL]",
            help="A search, or one of its trials.",
            autocompletion=completion.searches,
        ),
    ],
    artifacts: ArtifactsOption = None,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Print what the workers of a search printed, and those of its evaluations: on whatever machine.

    It is what your own code writes to stdout and stderr, warnings, and the last words of a worker that
    crashed. It is in the folder of artifacts, which all machines share, until `nas clean`. With --executor
    inline, and where scores are looked up, it goes to the terminal of the driver.
    """
    from nas.evaluation.artifacts import folder
    from nas.evaluation.printed import printed
    from nas.queries.trials import split
    from nas.storage.store import Store

    name, number = split(target)
    where = folder(db, artifacts)
    with Store(db) as store:
        search = store.search(name)
        found = printed(store, search, number, where)
    if not found:
        what = search.name if number is None else f"{search.name}/{number}"
        raise NotFound(
            f"Nothing that a worker printed for {what} is in {where}. If the search has another folder, name "
            "it with --artifacts (or NAS_ARTIFACTS)."
        )
    for entry in found:
        sys.stdout.flush()
        say(f"{entry.what}, attempt {entry.attempt}, {entry.path}:")
        with entry.path.open(encoding="utf-8", errors="replace") as file:
            shutil.copyfileobj(file, sys.stdout)
