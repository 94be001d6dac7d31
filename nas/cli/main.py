"""The `nas` command: its groups of verbs, and how it ends."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import nas
from nas.cli import (
    benchmark,
    catalog,
    clean,
    compare,
    data,
    database,
    doctor,
    evaluate,
    export,
    init,
    interruption,
    job,
    leaderboard,
    logs,
    ls,
    messages,
    note,
    plot,
    rerun,
    run,
    score,
    serve,
    show,
    streams,
    watch,
)
from nas.cli.output import fail, tell_what_is_logged
from nas.errors import NasError


class _Verbs(TyperGroup):
    """The verbs; what is wrong with an option's value is said as of a setting's."""

    def invoke(self, ctx: Any) -> Any:
        messages.begin(self)
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            from pydantic import ValidationError

            from nas.findings import expected

            if isinstance(error.__cause__, ValidationError):
                error.message = expected(error.__cause__)
            raise


app = typer.Typer(
    name="nas",
    cls=_Verbs,
    help="Neural architecture search for few-shot learning.",
    epilog="Start with: nas run --space nasbench201 --controller evolution --tasks glyphs "
    "--learner prototypical",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for module in (
    *(init, run, watch, job, rerun, note, benchmark, compare, plot, evaluate, score, export),
    *(ls, show, logs, leaderboard, serve, catalog, data, database, doctor, clean),
):
    module.register(app)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"nas {nas.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Neural architecture search for few-shot learning."""


def main() -> None:
    """Run the command line; an error of ours ends it with its exit code and one message, no traceback."""
    streams.prepare()
    tell_what_is_logged()
    interruption.listen()
    code = _run()
    if code == 130:  # whatever raised KeyboardInterrupt
        interruption.leave_if_interrupted()
    sys.exit(code)


def _run() -> int | str | None:
    """Run the command line; return its exit code."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except SystemExit as end:
        return end.code
    except NasError as error:
        if os.environ.get("NAS_DEBUG"):
            raise
        fail(str(error), error.exit_code)
        return error.exit_code
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        fail(f"{error.strerror or error}{where}", 1)
        return 1
    return 0
