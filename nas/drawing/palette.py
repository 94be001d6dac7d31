"""One colour an operation, told apart by the colour-blind: Paul Tol's muted scheme, then Okabe and Ito's."""

from __future__ import annotations

from collections.abc import Sequence

COLOURS = (
    "#88ccee",
    "#cc6677",
    "#ddcc77",
    "#117733",
    "#332288",
    "#aa4499",
    "#44aa99",
    "#999933",
    "#882255",
    "#e69f00",
    "#56b4e9",
    "#d55e00",
    "#0072b2",
    "#f0e442",
)

PLAIN = "#bbbbbb"
"""Of an operation that changes nothing."""

DARK, LIGHT = "#111111", "#ffffff"


def colour(operation: str, operations: Sequence[str]) -> str:
    """Return the colour of an operation of a space; one that the space does not list is plain."""
    return COLOURS[operations.index(operation) % len(COLOURS)] if operation in operations else PLAIN


def ink(background: str) -> str:
    """Return black or white, whichever is easier to read on a colour (contrast of WCAG 2)."""
    r, g, b = (_linear(int(background[i : i + 2], 16) / 255) for i in (1, 3, 5))
    luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b
    return DARK if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else LIGHT


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
