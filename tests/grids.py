"""Parameters of which the fast tests take some, and the slow ones the rest."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def rest_slow(values: Iterable[Any], fast: Container[Any]) -> list[Any]:
    """Return the values as parameters, those that are not among `fast` marked slow; a tuple is several."""
    slow = pytest.mark.slow
    return [
        value
        if value in fast
        else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=slow)
        for value in values
    ]
