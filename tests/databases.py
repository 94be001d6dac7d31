"""The PostgreSQL that tests may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nas.testing.stores import temporary_schema


def server() -> str:
    """Return the URL that `NAS_TEST_POSTGRES` names; where it names none, the test is skipped."""
    url = os.environ.get("NAS_TEST_POSTGRES")
    if not url:
        pytest.skip("needs PostgreSQL: set NAS_TEST_POSTGRES to a database's URL")
    return url


@contextmanager
def on_postgres() -> Iterator[str]:
    """Yield the URL of an empty schema there, which is dropped afterwards."""
    with temporary_schema(server()) as url:
        yield url
