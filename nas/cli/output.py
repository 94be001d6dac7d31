"""Data on stdout, in the format asked for; words on stderr."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer


class Format(StrEnum):
    """How a command prints its rows."""

    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    MARKDOWN = "markdown"


FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print the rows.")]

Row = Mapping[str, Any]


def say(text: str) -> None:
    """Print words to stderr."""
    typer.echo(text, err=True)


def emit(rows: Sequence[Row], form: Format, columns: Sequence[str] | None = None) -> None:
    """Print rows to stdout; a table or Markdown shows only `columns`, the others every key."""
    if form is Format.JSON:
        typer.echo(json.dumps([dict(row) for row in rows], indent=2, default=str))
    elif form is Format.NDJSON:
        for row in rows:
            typer.echo(json.dumps(dict(row), default=str))
    elif form is Format.CSV:
        if rows:
            writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    else:
        shown = list(columns or (rows[0] if rows else ()))
        if form is Format.TABLE:  # a column without a single value only pushes the others out of sight
            shown = [
                name for name in shown if not rows or any(row.get(name) not in (None, "") for row in rows)
            ]
        cells = [[cell(name, row.get(name)) for name in shown] for row in rows]
        (_markdown if form is Format.MARKDOWN else _table)(shown, cells)


def cell(name: str, value: Any) -> str:
    """Return a value as people read it: counts in k and M, scores with four digits, times short."""
    if value is None or value == "":
        return "-"
    if name in ("parameters", "macs"):
        return count(value)
    if isinstance(value, list | tuple):
        return " ".join(cell(name, part) for part in value)
    if isinstance(value, float):
        return f"{value:.1f}" if name in ("seconds",) else f"{value:.4f}"
    if name.endswith("_at"):
        return str(value)[:19].replace("T", " ")
    return str(value)


def count(value: int) -> str:
    """Return a count in k or M."""
    for limit, unit in ((1_000_000, "M"), (1_000, "k")):
        if value >= 0.99995 * limit:
            return f"{value / limit:.1f}{unit}"
    return str(value)


def _markdown(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    lines = [columns, ["---"] * len(columns), *([text.replace("|", "\\|") for text in row] for row in cells)]
    for line in lines:
        typer.echo("| " + " | ".join(line) + " |")


def _table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Print aligned columns: numbers to the right; as wide as they need, never cut."""
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    right = [bool(column) and all(_number(text) for text in column) for column in zip(*cells, strict=True)]
    bold = sys.stdout is not None and sys.stdout.isatty()
    right = right or [False] * len(columns)
    for number, line in enumerate([columns, *cells]):
        parts = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        text = "  ".join(parts).rstrip()
        typer.echo(typer.style(text, bold=True) if bold and number == 0 else text)


def _number(text: str) -> bool:
    return text == "-" or text.replace(".", "").replace("-", "").rstrip("kM%").isdigit()
