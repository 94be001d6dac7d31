"""What an error or a printed text has to name: settings, values, commands; the words around them are free."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

E = TypeVar("E", bound=Exception)

Facts = tuple[object, ...]
"""What one case of a test has to name."""


def lacking(text: str, *facts: object) -> list[str]:
    """Return the facts that a text does not name, each as whole words; line breaks count as spaces."""
    flat = " ".join(text.split())
    return [fact for fact in map(str, facts) if not re.search(_whole(fact), flat)]


def _whole(fact: str) -> str:
    before = r"(?<![\w.])" if re.match(r"\w", fact) else ""
    after = r"(?!\w|[.,]\d)" if re.search(r"\w$", fact) else ""
    return f"{before}{re.escape(fact)}{after}"


@contextmanager
def refusal(error: type[E], *facts: object) -> Iterator[pytest.ExceptionInfo[E]]:
    """Expect an error of this very class that names the facts."""
    with pytest.raises(error) as raised:
        yield raised
    assert type(raised.value) is error
    text = str(raised.value)
    assert lacking(text, *facts) == [], text
