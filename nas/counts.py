"""Counts as people write them: 20.6k weights, 1.5M multiply-accumulates, 1 trial, 2 trials, 1:02:03."""

from __future__ import annotations

import re
from decimal import Decimal

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def write(value: int) -> str:
    """Return a count in k or M."""
    for limit, unit in ((1_000_000, "M"), (1_000, "k")):
        if value >= 0.99995 * limit:
            return f"{value / limit:.1f}{unit}"
    return str(value)


def write_bytes(value: int) -> str:
    """Return a size in G, M or k bytes, as `read` takes it."""
    for unit in ("g", "m", "k"):
        if value >= UNITS[unit]:
            return f"{value / UNITS[unit]:.4g}{'k' if unit == 'k' else unit.upper()}"
    return str(value)


def counted(count: float, noun: str) -> str:
    """Return a number with its noun, in the plural but for 1; halves of a GPU count, too."""
    return f"{int(count) if count == int(count) else count:,} {noun}" + ("" if count == 1 else "s")


def clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds, 1:02:03."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def read(text: str) -> int:
    """Return the count that a text such as `20k`, `1.5M` or `20_000` is.

    Raises:
        ValueError: it is no count that a database holds.
    """
    match = re.fullmatch(r"(\d[\d_,]*(?:\.\d+)?)\s*([kmg]?)", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"'{text}' is no count: write a number, such as 20000, 20k or 1.5M.")
    number = Decimal(re.sub("[_,]", "", match[1])) * UNITS[match[2].lower()]
    if number >= 2**63:
        raise ValueError(f"'{text}' is too large a count.")
    return int(number)
