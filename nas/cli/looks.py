"""Looking at the database again and again: in place on a terminal, else what has changed."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Annotated, Any

import typer

from nas.cli.output import Format
from nas.errors import ConfigError

EVERY = 2.0
"""Seconds between two looks at the database, as often as a driver shows a sign of life."""

SHARE = 0.05
"""Of the time, what looks take at most: where one takes long, they become rare."""

Row = Mapping[str, Any]

WatchOption = Annotated[
    bool,
    typer.Option(
        "--watch",
        help="Look again every two seconds until Ctrl-C: in place on a terminal, else what has changed.",
    ),
]


def check(form: Format) -> None:
    """Refuse a format that has an end.

    Raises:
        ConfigError: it has one.
    """
    if form not in (Format.TABLE, Format.NDJSON):
        raise ConfigError(
            f"--format {form}: it has no end to wait for under --watch. Choose table or ndjson."
        )


def on_terminal(form: Format) -> bool:
    """Return whether what is looked at is shown in place."""
    return form is Format.TABLE and sys.stdout is not None and sys.stdout.isatty()


def in_place(draw: Callable[[], bool]) -> None:
    """Show what is printed in one place, again and again.

    Args:
        draw: prints it; returns whether it may still change.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            with redirect_stdout(_Screen()) as screen, redirect_stderr(screen):
                goes_on = draw()
            live.update(Text.from_ansi(screen.getvalue()), refresh=True)
            if not goes_on:
                return
            _pause(time.monotonic() - began)


def changes(
    look: Callable[[], tuple[Sequence[Row], bool]], tell: Callable[[Sequence[Row]], object], key: str
) -> None:
    """Tell rows, then those that are new or have changed; a sign of life is no change.

    Args:
        look: returns the rows, and whether they may still change.
        tell: prints rows.
        key: column by which a row is known.
    """
    before: dict[Any, Row] = {}
    while True:
        began = time.monotonic()
        rows, goes_on = look()
        now = {row[key]: {**row, "sign_of_life": None} for row in rows}
        changed = [row for row in rows if before.get(row[key]) != now[row[key]]]
        before |= now
        if changed:
            tell(changed)
            sys.stdout.flush()
        if not goes_on:
            return
        _pause(time.monotonic() - began)


class _Screen(io.StringIO):
    """What would be printed on a terminal."""

    def isatty(self) -> bool:
        return True


def _pause(took: float) -> None:
    """Wait until the next look, after one that took so many seconds."""
    time.sleep(max(EVERY, took / SHARE))
