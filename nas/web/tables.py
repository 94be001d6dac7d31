"""Tables of a page: what is shown, and the same as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from starlette.responses import Response

from nas.queries.cells import cell, field_of

Link = Callable[[Mapping[str, Any]], str | None]
"""Returns the address that a cell of a row leads to; None: nowhere."""

LEFT = frozenset({"architecture", "search", "error", "note", "state", "task", "learner", "kind", "group"})
"""Columns of words, beside those whose values are no numbers."""

LONGEST = 400
"""Characters of a text in a cell."""


@dataclass(frozen=True, slots=True)
class SheetCell:
    """A value as it is shown.

    Attributes:
        text: as people read it.
        link: where it leads; None: nowhere.
        moment: a time of ISO 8601 in UTC, if it is one.
        kind: a class of the style sheet.
    """

    text: str
    link: str | None = None
    moment: str | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Rows under columns.

    Attributes:
        name: in the address of its CSV and JSON.
        caption: what it shows.
        columns: in order.
        rows: values by column; other keys are not shown.
        links: by column.
        command: of the command line that says the same; None: none does.
        sorts: address of the table sorted by a column.
        sorted_by, descending: how it is sorted; nothing: as it comes.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    links: Mapping[str, Link] = field(default_factory=dict)
    command: str | None = None
    sorts: Mapping[str, str] = field(default_factory=dict)
    sorted_by: str = ""
    descending: bool = False

    def cells(self) -> list[list[SheetCell]]:
        """Return a list of cells a row."""
        return [[self._cell(name, row) for name in self.columns] for row in self.rows]

    def _cell(self, name: str, row: Mapping[str, Any]) -> SheetCell:
        value = row.get(name)
        link = self.links[name](row) if name in self.links else None
        if name == "state":
            return SheetCell(cell(name, value), link, kind=f"state {value}")
        if name.endswith("_at") and value is not None:
            return SheetCell(cell(name, value), link, moment=str(value))
        if name == "sign_of_life":
            return SheetCell("-" if value is None else f"{value:.0f} s ago", link, kind="number")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        kind = "number" if number or (value is None and name not in LEFT) else "text"
        if name == "architecture":
            kind = "code"
        text = cell(name, value)
        return SheetCell(text if len(text) <= LONGEST else f"{text[:LONGEST]}…", link, kind=kind)

    def csv(self) -> Response:
        """Return what is shown as CSV, numbers in full."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([field_of(row.get(name)) for name in self.columns] for row in self.rows)
        named = {"Content-Disposition": f'attachment; filename="{self.name}.csv"'}
        return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=named)

    def json(self) -> Response:
        """Return what is shown as JSON, numbers in full."""
        rows = [{name: row.get(name) for name in self.columns} for row in self.rows]
        return Response(json.dumps(rows, default=str), media_type="application/json")


def moment(value: datetime | None) -> SheetCell:
    """Return a time as a cell."""
    return SheetCell("-") if value is None else SheetCell(cell("_at", value), moment=value.isoformat())


OPTIONAL = (
    *("kind", "activations", "latency", "latency_batch", "macs", "parameters", "ci95", "chosen"),
    *("error", "note", "learner", "sign_of_life", "finished_at", "parent"),
)
"""Columns that are left out where no row has a value."""


def shown(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the columns without those that may go and have no value."""
    return tuple(
        name
        for name in columns
        if name not in OPTIONAL
        or any(row.get(name) not in (None, "") and (name, row[name]) != ("kind", "evaluate") for row in rows)
    )
