"""The verb that deletes what a search left behind: clean."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Annotated

import typer

from nas.cli.options import DEFAULT_DB, ArtifactsOption, DbOption, WholeSearchArgument
from nas.cli.output import say
from nas.counts import counted
from nas.errors import ConfigError
from nas.settings.keep import ALL, kept


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(clean)


def clean(
    search: WholeSearchArgument,
    keep: Annotated[
        str,
        typer.Option(
            metavar="all|top:K",
            help="Whose weights stay: those of all its evaluations, or of its K best networks.",
        ),
    ] = ALL,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    artifacts: ArtifactsOption = None,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Delete files of a search and of its evaluations that nothing needs any more; no result is touched.

    These are the checkpoints of a completed search, the states from which longer trainings of its completed
    evaluations would go on (they would begin anew), and what the workers of both printed. With --keep top:K
    the weights of its evaluations go, too, but those of its K best networks, and of those that are among the
    K best of another search.
    `nas evaluate --lost-weights` trains them again.
    """
    from nas.evaluation.artifacts import folder
    from nas.evaluation.leftovers import delete, leftovers
    from nas.storage.lease import driven, refuse
    from nas.storage.store import Store

    best = kept(keep)
    with Store(db) as store:
        row = store.search(search, whole=True)
        if driven(row):
            raise refuse(row)
        found = leftovers(store, row, folder(db, artifacts), best)
    kinds = Counter(left.what for left in found)
    size = sum(left.bytes for left in found) / 2**20
    told = ", ".join(f"{count} of {what}" for what, count in sorted(kinds.items()))
    if not found:
        say(f"Search '{row.name}' left nothing in {folder(db, artifacts)} that could go.")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(f"{counted(len(found), 'file')}, {size:.1f} MiB ({told}): confirm with --yes.")
        answer = typer.prompt(
            f"Delete {counted(len(found), 'file')}, {size:.1f} MiB ({told})? [y/N]",
            default="n",
            show_default=False,
            err=True,
        )
        if answer.strip().lower() not in ("y", "yes"):
            raise ConfigError(f"Nothing was deleted: the answer was '{answer}', not 'y' or 'yes'.")
    for left in found:
        delete(left)
    say(f"Deleted {counted(len(found), 'file')}, {size:.1f} MiB: {told}.")
