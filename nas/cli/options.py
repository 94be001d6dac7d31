"""Options that several commands share."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from nas.cli import completion, messages
from nas.errors import ConfigError
from nas.progress.metrics import address, refuse_unserved
from nas.progress.tensorboard import refuse_unwritable
from nas.storage import DEFAULT_DB as DEFAULT_DB

DbOption = Annotated[
    str,
    typer.Option(
        "--db",
        envvar="NAS_DB",
        metavar="URL",
        help="Database of results.",
        show_default=True,
        callback=messages.ask,
    ),
]
SearchArgument = Annotated[
    str,
    typer.Argument(
        metavar="SEARCH",
        help="A search's name, a unique prefix of it, or @last.",
        autocompletion=completion.searches,
    ),
]
WholeSearchArgument = Annotated[
    str,
    typer.Argument(
        metavar="SEARCH", help="A search's whole name, or @last.", autocompletion=completion.searches
    ),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS",
        metavar="HOST:PORT",
        help="A Ray cluster; by default Ray starts here.",
        callback=messages.run_at,
    ),
]
SlotOption = Annotated[
    list[str] | None,
    typer.Option(
        "--slot",
        metavar="KEY=[VALUES]",
        help="A setting of the learner or of training tasks that the search chooses along with the network, "
        "such as 'learner.lr=[0.001,0.01]'; repeatable.",
    ),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as tasks.ways=20; repeatable."),
]


def _address(text: str | None) -> str | None:
    """Refuse what is no address, or one where nothing can be served, before anything begins."""
    if text is not None:
        refuse_unserved(address(text))
    return text


MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="[HOST:]PORT",
        help="Serve metrics for Prometheus there while the search runs; by default on 127.0.0.1 alone.",
        callback=_address,
    ),
]


def _events(text: str) -> Path:
    """Refuse a folder that cannot be written before anything begins."""
    if not text:
        raise ConfigError("--tensorboard: '' is no folder. Name one, such as --tensorboard runs.")
    folder = Path(text)
    refuse_unwritable(folder)
    return folder


TensorBoardOption = Annotated[
    Path | None,
    typer.Option(
        "--tensorboard",
        metavar="DIR",
        help="Write event files for TensorBoard there, a run each training; also of those that ended before.",
        parser=_events,
    ),
]
LogFormatOption = Annotated[
    messages.LogFormat,
    typer.Option(
        help="How stderr tells what happens: text, or json: one event a line.",
        show_default=True,
        is_eager=True,
        callback=messages.log_as,
    ),
]
ArtifactsOption = Annotated[
    Path | None,
    typer.Option(
        "--artifacts",
        envvar="NAS_ARTIFACTS",
        metavar="DIR",
        help="Folder of weights and checkpoints; by default NAME-artifacts beside the database NAME.db.",
    ),
]


def artifacts_folder(db: str, given: Path | None, *, cluster: bool) -> Path:
    """Return the folder of weights and checkpoints; warn where nobody but this machine will find it.

    Args:
        db: the database.
        given: the folder that was named, if one was.
        cluster: whether jobs run on Ray, which may be on other machines.
    """
    from nas.cli.output import say
    from nas.evaluation.artifacts import folder
    from nas.storage.engine import file, parse

    target = folder(db, given)
    if given is None and cluster and messages.cluster() is not None and file(parse(db)) is None:
        say(
            f"warning: weights and checkpoints go to {target} on this machine, or in this container, while "
            "the database and the workers are elsewhere. Name a folder that all machines share, and that "
            "stays: --artifacts DIR (or NAS_ARTIFACTS)."
        )
    return target


def files_hint(artifacts: Path | None) -> str:
    """Return what to add to a command so that it uses the same folder of weights and checkpoints."""
    if artifacts is None or str(artifacts) == os.environ.get("NAS_ARTIFACTS"):
        return ""
    return f" --artifacts {shlex.quote(str(artifacts))}"


def typed(db: str) -> str:
    """Return the command that was typed; a password is not printed."""
    from nas.storage.engine import parse, shown

    safe = shown(parse(db))
    return shlex.join(["nas", *(argument.replace(db, safe) for argument in sys.argv[1:])])
