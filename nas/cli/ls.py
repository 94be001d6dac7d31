"""The verb that lists searches, once or again and again: ls."""

from __future__ import annotations

import io
import sys
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from nas.cli.options import DEFAULT_DB, DbOption
from nas.cli.output import Format, FormatOption, WideOption, emit, say
from nas.errors import ConfigError

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

EVERY = 2.0
"""Seconds between two looks at the database, as often as a driver shows a sign of life."""

SHARE = 0.05
"""Of the time, what looks take at most: where one takes long, they become rare."""


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(ls)


def ls(
    limit: Annotated[int, typer.Option(min=0, help="Rows to print; 0 for all.")] = 20,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Look again every two seconds until Ctrl-C: in place on a terminal, else what has changed.",
        ),
    ] = False,
    form: FormatOption = Format.TABLE,
    wide: WideOption = False,
    db: DbOption = DEFAULT_DB,
) -> None:
    """List the searches, newest first."""
    from nas.storage.store import Store

    if watch and form not in (Format.TABLE, Format.NDJSON):
        raise ConfigError(
            f"--format {form}: it has no end to wait for under --watch. Choose table or ndjson."
        )
    with Store(db) as store:
        if watch:
            with suppress(KeyboardInterrupt):
                if form is Format.TABLE and _terminal():
                    _refresh(store, limit, wide)
                _append(store, limit, form, wide)
            return
        rows = _records(store, limit)
    emit(rows, form, drop=DROP, wide=wide)
    if not rows:
        say("No searches yet. Start one: `nas run --help`")


def _records(store: Store, limit: int) -> list[dict[str, Any]]:
    from nas.queries.rows import record
    from nas.queries.searches import searches

    return [record(row) for row in searches(store, limit)]


def _terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


class _Screen(io.StringIO):
    """What would be printed on a terminal."""

    def isatty(self) -> bool:
        return True


def _refresh(store: Store, limit: int, wide: bool) -> NoReturn:
    """Show the list in place, for ever."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            rows = _records(store, limit)
            with redirect_stdout(_Screen()) as screen, redirect_stderr(screen):
                emit(rows, Format.TABLE, drop=DROP, wide=wide)
            live.update(Text.from_ansi(screen.getvalue() or "No searches yet."), refresh=True)
            _pause(time.monotonic() - began)


def _append(store: Store, limit: int, form: Format, wide: bool) -> NoReturn:
    """Print the searches, then those that are new or have changed, for ever; a sign of life is no change."""
    before: dict[str, dict[str, Any]] = {}
    while True:
        began = time.monotonic()
        rows = _records(store, limit)
        now = {row["search"]: row | {"sign_of_life": None} for row in rows}
        changed = [row for row in rows if before.get(row["search"]) != now[row["search"]]]
        before |= now
        if changed:
            emit(changed, form, drop=DROP, wide=wide)
            sys.stdout.flush()
        _pause(time.monotonic() - began)


def _pause(took: float) -> None:
    """Wait until the next look, after one that took so many seconds."""
    time.sleep(max(EVERY, took / SHARE))
