"""A schema of one's own to try the store in, and rows with what does not matter filled in."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import create_engine, make_url, text

from nas.controller import Outcome, Score
from nas.space import Architecture
from nas.states import TrialState
from nas.storage import lease
from nas.storage.schema import Search
from nas.storage.searches import NewSearch
from nas.storage.store import Store
from nas.storage.trials import NewTrial


@contextmanager
def temporary_schema(url: str) -> Iterator[str]:
    """Create a schema in a PostgreSQL database; yield a URL whose tables go there, drop it at the end."""
    name = f"nas_{uuid.uuid4().hex}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE SCHEMA {name}"))
            try:
                options = {"options": f"-csearch_path={name}"}
                yield make_url(url).update_query_dict(options).render_as_string(hide_password=False)
            finally:
                connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
    finally:
        engine.dispose()


def search(store: Store, **changes: Any) -> Search:
    """Create a search; name what matters, the rest is filled in."""
    asked: dict[str, Any] = {
        "name": None,
        "source": None,
        "config": {"space": {"name": "chain"}, "tasks": {"name": "glyphs"}},
        "space": "chain",
        "controller": "random",
        "tasks": "glyphs",
        "task_label": "glyphs 5-way 1-shot",
        "learner": "maml",
        "executor": "inline",
        "seed": 0,
        "trials": 10,
        "settings": "0" * 64,
        "environment": {},
    }
    return store.create_search(NewSearch(**(asked | changes)))


def begin(store: Store, row: Search, number: int, **changes: Any) -> int:
    """Begin a trial; name what matters, the rest is filled in."""
    asked: dict[str, Any] = {
        "architecture": f"{number}.0",
        "key": f"key{number}",
        "space": row.space,
        "seed": number,
        "attempt": 0,
    }
    outcome = changes.pop("outcome", None)
    return store.begin(row.id, NewTrial(number, **(asked | changes)), outcome)


def outcome(score: float | None = None, state: TrialState = TrialState.COMPLETED, **changes: Any) -> Outcome:
    """Return an outcome with a score, if there is one."""
    whole = None if score is None else Score(score, 0.01, 200, "glyphs/validation", "c" * 64, "transductive")
    return Outcome(state, Architecture("chain", (0,)), whole, **changes)


def columns(row: Any) -> dict[str, Any]:
    """Return what a row holds, by column."""
    return {column.key: getattr(row, column.key) for column in type(row).__table__.columns}


@contextmanager
def another_driver(pid: int = 1) -> Iterator[lease.Holder]:
    """Yield the name that a live driver would have; at the end of the context it is dead."""
    host, _, mine = lease.holder()
    name = uuid.uuid4().hex
    with lease.hold(name):
        yield lease.Holder(host, pid, f"{mine.rpartition('/')[0]}/{name}")
