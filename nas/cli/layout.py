"""Tables that fit a terminal: what moves above them, what is shortened, wrapped or left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, chop_cells

from nas.progress.ellipsis import shorten_apart

GAP = 2
"""Cells between two columns."""

SHORTENED = frozenset({"architecture"})
"""Columns whose texts lose their middle."""

WRAPPED = frozenset({"meaning", "summary", "finding", "error", "type", "default", "space_settings", "chosen"})
"""Columns whose texts go on in the next line."""

ABRIDGED = frozenset({"space_settings", "chosen"})
"""Wrapped columns whose texts lose their middle if they are very long, as a policy of augmentation is."""

LEAST = 24
"""Cells that a shortened column keeps, whatever else has to go."""

LEAST_WRAPPED = 16
"""Cells that a wrapped column keeps."""

LONG = 3
"""Lines after which a text of an abridged column loses its middle."""

Lines = list[list[str]]


@dataclass(slots=True)
class TextTable:
    """Columns of texts, and what became of those that have no room.

    Attributes:
        columns: titles of what is shown.
        cells: a list of texts a row.
        constant: title and text of the columns that say the same in every row.
        hidden: titles of the columns that are not shown, or not in full.
        broken: whether titles may go on in the next line, after an underscore.
    """

    columns: list[str]
    cells: Lines
    constant: list[tuple[str, str]] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    broken: bool = False

    def widths(self) -> list[int]:
        """Return how many cells of a terminal each column takes."""
        return [
            max(map(cell_len, [*self._pieces(name), *texts]))
            for name, *texts in zip(self.columns, *self.cells, strict=True)
        ]

    def head(self) -> Lines:
        """Return the lines of titles."""
        stacks = []
        for name, width in zip(self.columns, self.widths(), strict=True):
            lines = [""]
            for piece in self._pieces(name):
                fits = cell_len(lines[-1] + piece) <= width
                lines = [*lines[:-1], lines[-1] + piece] if fits else [*lines, piece]
            stacks.append(lines)
        height = max(map(len, stacks), default=0)
        return [list(line) for line in zip(*([""] * (height - len(s)) + s for s in stacks), strict=True)]

    def _pieces(self, name: str) -> list[str]:
        return re.findall(r"[^_]*_+|[^_]+", name) if self.broken else [name]

    def take(self, name: str) -> list[str]:
        """Remove a column; return its texts."""
        place = self.columns.index(name)
        del self.columns[place]
        return [row.pop(place) for row in self.cells]


def fit(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int, drop: Sequence[str]) -> TextTable:
    """Return a table of at most `width` cells a line, where that can be.

    A table that fits stays as it is. In others columns that say the same in every row leave, if there are
    several, and titles break at their underscores; then columns are dropped until the rest has room with its
    long texts cut short; then these grow as far as they can.

    Args:
        columns: titles.
        cells: a list of texts a row, one row at least.
        width: of the terminal.
        drop: titles in the order in which they go; after them the others, from the right. The first column
            stays.
    """
    table = TextTable(list(columns), [list(row) for row in cells])
    if total(table.widths()) <= width:
        return table
    for name in columns if len(cells) > 1 else ():
        texts = {row[table.columns.index(name)] for row in table.cells}
        if len(texts) == 1 and len(table.columns) > 1:
            table.take(name)
            table.constant.append((name, texts.pop()))
    table.broken = total(table.widths()) > width
    order = [*drop, *(name for name in reversed(columns) if name not in drop)]
    for name in order:
        if total(_least(table)) <= width:
            break
        if name in table.columns[1:]:
            table.take(name)
            table.hidden.append(name)
    wanted, given = table.widths(), _least(table)
    room = width - total(given)
    flexible = [i for i, name in enumerate(table.columns) if given[i] < wanted[i]]
    for left, i in zip(range(len(flexible), 0, -1), sorted(flexible, key=lambda i: wanted[i]), strict=True):
        more = max(min(room // left, wanted[i] - given[i]), 0)
        given[i] += more
        room -= more
    for i in flexible:
        name = table.columns[i]
        most = given[i] * (LONG if name in ABRIDGED else 1)
        if name in SHORTENED | ABRIDGED and most < wanted[i]:
            table.hidden.append(name)
            for row, text in zip(
                table.cells, shorten_apart([row[i] for row in table.cells], most), strict=True
            ):
                row[i] = text
    table.cells = list(_wrapped(table, given))
    return table


def total(widths: Sequence[int]) -> int:
    """Return how many cells a line takes."""
    return sum(widths) + GAP * (len(widths) - 1)


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Return a text with spaces around it, so that it takes `width` cells."""
    spaces = " " * (width - cell_len(text))
    return spaces + text if right else text + spaces


def wrap(text: str, width: int, *, whole: bool = False) -> list[str]:
    """Return the lines of a text, broken between words; one too long for a line is cut, but if `whole`."""
    lines = [""]
    for word in text.split():
        if lines[-1] and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
            continue
        pieces = [word] if whole else chop_cells(word, width) or [""]
        lines = [*lines, *pieces] if lines[-1] else [*lines[:-1], *pieces]
    return lines


def wrap_phrases(phrases: Sequence[str], width: int) -> list[str]:
    """Return phrases with a dot between them, as lines that are broken between phrases."""
    lines: list[str] = []
    for phrase in phrases:
        if lines and cell_len(f"{lines[-1]} · {phrase}") <= width:
            lines[-1] += f" · {phrase}"
        else:
            lines.append(phrase)
    return lines


def _least(table: TextTable) -> list[int]:
    """Return the fewest cells that each column can do with."""
    least = dict.fromkeys(SHORTENED, LEAST) | dict.fromkeys(WRAPPED, LEAST_WRAPPED)
    return [
        min(width, least.get(name, width)) for name, width in zip(table.columns, table.widths(), strict=True)
    ]


def _wrapped(table: TextTable, widths: Sequence[int]) -> Iterator[list[str]]:
    for row in table.cells:
        parts = [
            wrap(text, width) if name in WRAPPED else [text]
            for name, text, width in zip(table.columns, row, widths, strict=True)
        ]
        for line in range(max(map(len, parts))):
            yield [part[line] if line < len(part) else "" for part in parts]
