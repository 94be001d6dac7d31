"""The verb that fetches datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.output import say

data = typer.Typer(help="Fetch the datasets that tasks need.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.add_typer(data, name="data")


@data.callback()
def _group() -> None:
    """Fetch the datasets that tasks need."""


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A dataset, such as omniglot.")],
    to: Annotated[
        Path | None,
        typer.Option(
            envvar="NAS_DATA",
            metavar="FOLDER",
            help="Where datasets live; by default the user's data folder.",
        ),
    ] = None,
) -> None:
    """Download a dataset, check its checksums, and say where it is; what is already there is kept."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    from nas.tasks.data import data_root
    from nas.tasks.data import fetch as download

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        bars: dict[str, TaskID] = {}

        def show(path: str, done: int, total: int | None) -> None:
            if path not in bars:
                bars[path] = bar.add_task(path, total=total)
            bar.update(bars[path], completed=done, total=total)

        came = download(name, to, show)
    folder = (to or data_root()) / name
    say(
        f"Downloaded {len(came)} files to {folder}."
        if came
        else f"Nothing to download: {folder} is complete."
    )
