"""Data on stdout, in the format asked for; words on stderr."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.cells import cell_len

from nas.cli import messages
from nas.cli.layout import GAP, Lines, TextTable, fit, pad, wrap, wrap_phrases
from nas.progress.events import Event, Log, dated
from nas.queries.cells import cell as cell
from nas.queries.cells import field_of
from nas.queries.cells import setting as setting

WARNING = "warning: "
"""How words begin that tell of something odd."""


class Format(StrEnum):
    """How a command prints its rows."""

    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    MARKDOWN = "markdown"


FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print the rows.")]
WideOption = Annotated[
    bool, typer.Option("--wide", help="Print every column in full, however narrow the terminal.")
]

Record = Mapping[str, Any]


def say(text: str) -> None:
    """Print words to stderr; commands in backticks ask the same database."""
    if (log := events()) is None:
        typer.echo(messages.laid_out(text, messages.terminal()), err=True)
        return
    level = "warning" if text.startswith(WARNING) else "info"
    log.tell(Event.MESSAGE, level=level, text=messages.laid_out(text.removeprefix(WARNING), None))


def fail(text: str, code: int) -> None:
    """Print to stderr why the command ends with an exit code."""
    if (log := events()) is None:
        say(f"error: {text}")
    else:
        log.tell(Event.ERROR, code=code, error=messages.laid_out(text, None))


class _Logged(logging.Handler):
    """Says what libraries and nas log; off a terminal, after the time."""

    def emit(self, record: logging.LogRecord) -> None:
        (say if messages.as_events() or messages.terminal() is not None else dated(say))(self.format(record))


def tell_what_is_logged() -> None:
    """Have warnings that are logged, such as of a database that is away, told as all else on stderr."""
    handler = _Logged(logging.WARNING)
    logging.getLogger().addHandler(handler)


def events() -> Log | None:
    """Return where events go; None: stderr is for people."""
    return Log(lambda line: typer.echo(line, err=True)) if messages.as_events() else None


def emit(
    rows: Sequence[Record],
    form: Format,
    columns: Sequence[str] | None = None,
    *,
    drop: Sequence[str] = (),
    wide: bool | None = None,
) -> None:
    """Print rows to stdout; a table or Markdown shows only `columns`, the others every key.

    On a terminal a table takes no more columns than there are.

    Args:
        rows: with equal keys.
        form: the format.
        columns: keys to show.
        drop: of these, what a narrow terminal can do without, the least important first.
        wide: whether to print all columns in full even on a terminal; None: nobody can ask for it.
    """
    if form is Format.JSON:
        typer.echo(json.dumps([dict(row) for row in rows], indent=2, default=str))
    elif form is Format.NDJSON:
        for row in rows:
            typer.echo(json.dumps(dict(row), default=str))
    elif form is Format.CSV:
        if rows:
            writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: field_of(value) for name, value in row.items()} for row in rows)
    else:
        shown = list(columns or (rows[0] if rows else ()))
        if form is Format.MARKDOWN:
            _markdown(shown, [[cell(name, row.get(name)) for name in shown] for row in rows])
            return
        # A column without a single value only pushes the others out of sight.
        shown = [name for name in shown if not rows or any(row.get(name) not in (None, "") for row in rows)]
        cells = [[cell(name, row.get(name)) for name in shown] for row in rows]
        _table(shown, cells, drop, wide)


def room() -> int | None:
    """Return how many cells a line of the terminal has that stdout is; None: it is none."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def paragraphs(text: str) -> str:
    """Return a text with its paragraphs broken anew for the terminal; indented lines stay as they are."""
    width = room()
    if width is None:
        return text
    broken = [
        part if any(line.startswith(" ") for line in part.split("\n")) else "\n".join(wrap(part, width))
        for part in text.split("\n\n")
    ]
    return "\n\n".join(broken)


def headings(phrases: Sequence[str]) -> list[str]:
    """Return phrases as the lines of a heading."""
    return [
        typer.style(line, bold=room() is not None) for line in wrap_phrases(phrases, room() or sys.maxsize)
    ]


def facts(pairs: Mapping[str, str]) -> None:
    """Print names and values, a line each; on a terminal a value of several words goes on below itself."""
    indent = max(map(cell_len, pairs)) + GAP
    left = (room() or 0) - indent
    for name, value in pairs.items():
        breaks = left > 0 and cell_len(value) > left and all(cell_len(word) <= left for word in value.split())
        lines = wrap(value, left) if breaks else [value]
        typer.echo(pad(name, indent) + f"\n{' ' * indent}".join(lines))


def _markdown(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    lines = [columns, ["---"] * len(columns), *([text.replace("|", "\\|") for text in row] for row in cells)]
    for line in lines:
        typer.echo("| " + " | ".join(line) + " |")


def _table(columns: Sequence[str], cells: Lines, drop: Sequence[str], wide: bool | None) -> None:
    """Print aligned columns, numbers to the right; off a terminal as wide as they need, never cut."""
    width = None if wide else room()
    if not cells and room() is not None:
        return  # titles alone tell nobody anything
    right = {
        name: all(_number(text) for text in column)
        for name, *column in zip(columns, *cells, strict=True)
        if column
    }
    table = TextTable(list(columns), cells)
    if width is not None and cells:
        table = fit(columns, cells, width, drop)
        if len(cells) == 1 and len(table.columns) < len(columns):
            facts(dict(zip(columns, cells[0], strict=True)))
            return
    if table.constant:
        said = wrap_phrases([f"{name} {text}" for name, text in table.constant], width or 0)
        typer.echo("\n".join(typer.style(line, dim=True) for line in said))
    widths = table.widths()
    head = table.head()
    for number, line in enumerate([*head, *table.cells]):
        parts = [
            pad(text, width, right=right.get(name, False))
            for name, text, width in zip(table.columns, line, widths, strict=True)
        ]
        text = "  ".join(parts).rstrip()
        typer.echo(typer.style(text, bold=True) if number < len(head) and room() is not None else text)
    if table.hidden and wide is not None:
        say(f"Not shown, or not in full: {', '.join(table.hidden)}. --wide shows all.")


def _number(text: str) -> bool:
    return text == "-" or text.replace(".", "").replace("-", "").rstrip("kM%").isdigit()
