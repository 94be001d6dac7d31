"""Statements that are compiled once for the databases of all tests."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from sqlalchemy import Engine, create_engine


class Compiled(dict[Hashable, Any]):
    """What SQLAlchemy compiled, for all engines of one kind: of its own accord each begins anew.

    A test has a database of its own, and spends a quarter of its time on statements that the test before
    had compiled, too.
    """

    def get(self, key: Any, default: Any = None) -> Any:
        """Return what was compiled for a dialect, whichever instance of it."""
        return super().get(_of_kind(key), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_of_kind(key), value)


def _of_kind(key: Any) -> Hashable:
    dialect, *rest = key
    return type(dialect), *rest


COMPILED = Compiled()


def made(*arguments: Any, **options: Any) -> Engine:
    """Create an engine that shares its statements with the others."""
    return create_engine(*arguments, **options, execution_options={"compiled_cache": COMPILED})
