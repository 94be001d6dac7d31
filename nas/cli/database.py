"""Verbs for the database as a whole: its schema, and what leaves it or comes in as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import completion
from nas.cli.options import DEFAULT_DB, ArtifactsOption, DbOption
from nas.cli.output import say
from nas.counts import counted

if TYPE_CHECKING:
    from nas.storage.transfer import Copied
    from nas.transfer.files import Moved

db = typer.Typer(
    help="Bring the database's schema up to date; move searches to another database.", no_args_is_help=True
)

WithArtifactsOption = Annotated[
    bool,
    typer.Option(
        "--with-artifacts", help="Copy the files of weights, too; else only where they are is kept."
    ),
]


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


@db.command("export")
def export_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A new file: an SQLite database; if its name ends with .parquet, a folder of tables.",
        ),
    ],
    searches: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SEARCH]...",
            help="Searches, with the evaluations of what they tried; by default all, and all evaluations.",
            autocompletion=completion.searches,
        ),
    ] = None,
    with_artifacts: WithArtifactsOption = False,
    artifacts: ArtifactsOption = None,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Write searches to a file, from which another database can import them; running ones as they are now.

    What travels: searches, trials, measurements, what was inherited, evaluations with their curves and
    scores, and where weights are. Checkpoints of what runs stay: it begins again where it is resumed.
    """
    from nas.evaluation.artifacts import folder
    from nas.transfer.files import beside, export

    copied, moved = export(
        db, file, searches or (), artifacts=folder(db, artifacts) if with_artifacts else None
    )
    say(f"Exported {_counts(len(copied.added), copied.evaluations)} to {file}.")
    _say_moved(moved, with_artifacts, beside(file))


@db.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="What `nas db export` wrote, or any SQLite database of nas."),
    ],
    rename: Annotated[
        bool, typer.Option("--rename", help="Give searches whose names others have here free ones.")
    ] = False,
    with_artifacts: WithArtifactsOption = False,
    artifacts: ArtifactsOption = None,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Add the searches and evaluations of a file to this database: all of it, or nothing.

    What is here already is left as it is, so that the same file can be imported again, also after its
    searches went on: their further trials are added.
    """
    from nas.evaluation.artifacts import folder
    from nas.transfer.files import load

    target = folder(db, artifacts)
    copied, moved = load(db, file, artifacts=target if with_artifacts else None, rename=rename)
    _say_copied(copied)
    _say_moved(moved, with_artifacts, target)


def _counts(searches: int, evaluations: int) -> str:
    return f"{searches} search{'' if searches == 1 else 'es'} and {counted(evaluations, 'evaluation')}"


def _say_copied(copied: Copied) -> None:
    say(f"Imported {_counts(len(copied.added), copied.evaluations)}.")
    for before, now in copied.renamed.items():
        say(f"Search '{before}' is '{now}' here.")
    if copied.extended:
        say(f"Went on since they were here: {', '.join(copied.extended)}.")
    if copied.known or copied.evaluations_known:
        say(f"Here already, and left alone: {_counts(len(copied.known), copied.evaluations_known)}.")


def _say_moved(moved: Moved, asked: bool, target: Path) -> None:
    if not asked:
        return
    say(f"{counted(moved.copied, 'file')} of weights in {target}.")
    for why in moved.gone:
        say(f"warning: {why}")
