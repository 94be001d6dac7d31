"""Texts that lose their middle."""

from __future__ import annotations

from collections.abc import Sequence

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


def shorten_apart(texts: Sequence[str], width: int) -> list[str]:
    """Return texts of at most `width` cells, as by `shorten`, but where that makes different ones alike."""
    short = {text: shorten(text, width) for text in texts}
    alike: dict[str, list[str]] = {}
    for text, shown in short.items():
        alike.setdefault(shown, []).append(text)
    for group in alike.values():
        if len(group) > 1:
            short |= dict(zip(group, _from_difference(group, width), strict=True))
    return [short[text] for text in texts]


def _from_difference(texts: Sequence[str], width: int) -> list[str]:
    """Return different texts without the middle that they share: some of them at least differ then."""
    letters = enumerate(zip(*texts, strict=False))
    place = next((place for place, found in letters if len(set(found)) > 1), min(map(len, texts)))
    head = set_cell_size(texts[0], min(width // 3, max(width - 3, 0))).rstrip()
    room = width - cell_len(head) - 1
    shown = []
    for text in texts:
        rest = text[place:]
        if cell_len(rest) > room:
            rest = f"{set_cell_size(rest, max(room - 1, 0)).rstrip()}…"
        shown.append(f"{head}…{rest}")
    return shown
