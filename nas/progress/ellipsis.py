"""Texts that lose their middle."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size


def shorten(text: str, width: int) -> str:
    """Return a text of at most `width` cells, with an ellipsis in place of its middle."""
    if cell_len(text) <= width:
        return text
    head, tail = width // 2, (width - 1) // 2
    start = set_cell_size(text, head).rstrip()
    end = text[len(text) - tail :] if tail else ""
    while cell_len(end) > tail:
        end = end[1:]
    return f"{start}…{end}"
