"""From a database URL to an engine, and from a driver's errors to ours."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from nas.errors import ConfigError, StorageError, Unreachable
from nas.storage import sqlite

BUSY_SECONDS = 10
"""How long to wait for another process's write, and for a server to answer."""

SERVER = {
    "connect_timeout": str(BUSY_SECONDS),
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""Options of connections to a server, unless the URL has others: one that is cut off is noticed in 30 s."""

KINDS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql",
    "postgresql+psycopg": "postgresql",
}

_ANSWERED = re.compile(r"authentication failed|does not exist|no pg_hba\.conf entry|permission denied")
"""What a server says that is there, and does not let one in: it will say so again."""

HINTS = (
    ("locked", f"another process has been writing for more than {BUSY_SECONDS} s; try again once it is done"),
    (
        "unable to open",
        "check that it is a file that you may read, in a directory that exists and is writable",
    ),
    ("not a database", "this file is something else; give another one"),
    ("readonly", "check the permissions of the file and of its directory"),
    ("is full", "free some space there"),
    ("No space left", "free some space on the server"),
    ("disk I/O error", "its disk may be full, or you may have no more of it: free some space there"),
    ("connection", "check --db (or NAS_DB) and that the server runs"),
)
"""What to do, by a word of the database's own message."""


def parse(url: str) -> URL:
    """Read a database URL.

    Raises:
        ConfigError: it is none, is no text, or is of a database that nas does not know.
    """
    try:
        url.encode()  # the bytes of a path that is not UTF-8 are no text, which drivers take alone
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername not in KINDS:
        given = re.sub(r"//.*@", "//***@", _hidden(url))
        given = given.encode(errors="backslashreplace").decode()
        raise ConfigError(
            f"db: '{given}' is no database URL; allowed: sqlite:///PATH, postgresql://USER:PASSWORD@HOST/NAME."
        )
    return parsed


def file(url: URL) -> Path | None:
    """Return the file of an SQLite database; None for any other one, in memory or a `file:` URI."""
    if (
        KINDS[url.drivername] != "sqlite"
        or not url.database
        or url.database.startswith((":memory:", "file:"))
    ):
        return None
    return Path(url.database)


def place(url: URL) -> str:
    """Return the URL as messages print it: without the password and the options."""
    return shown(url.set(query={}))


def shown(url: URL) -> str:
    """Return the URL as commands print it: without the password, wherever it is."""
    return _hidden(url.render_as_string(hide_password=True))


def _hidden(text: str) -> str:
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1***", text)


def secret(url: URL) -> bool:
    """Return whether a password is in the URL, wherever."""
    return bool(url.password or any(key.endswith("password") for key in url.query))


def connect(url: URL, *, foreign_keys: bool = True) -> Engine:
    """Return an engine whose transactions begin when SQLAlchemy says so.

    A connection with the execution option `writes` takes SQLite's write lock at its start, so that it never
    fails half way through.

    Raises:
        ConfigError: the database's driver is not installed.
    """
    engine = _engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "do_connect", _writable(url))
        pragmas = ("synchronous = NORMAL", f"foreign_keys = {int(foreign_keys)}")
        event.listen(engine, "connect", _write_ahead)
        event.listen(engine, "connect", _configure(pragmas))
        event.listen(engine, "begin", _begin)
    return engine


def reader(url: URL, writer: Engine) -> Engine:
    """Return an engine whose transactions see one state of the database each, and change nothing.

    Args:
        url: of the database.
        writer: the engine that `connect` returned for it: its connections serve where there is no file.
    """
    if writer.dialect.name == "postgresql":
        return writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    path = file(url)
    if path is None:
        return writer
    # No connection stays: how one is opened depends on who writes the file at that moment.
    engine = _engine(url, poolclass=NullPool)

    def open_file(dialect: object, record: object, where: object, options: dict[str, Any]) -> Any:
        return sqlite.connect(path, **options)

    event.listen(engine, "do_connect", open_file)
    event.listen(engine, "connect", _configure(()))
    event.listen(engine, "begin", _begin)
    return engine


def _engine(url: URL, **options: Any) -> Engine:
    if KINDS[url.drivername] == "sqlite":
        options["connect_args"] = {"timeout": BUSY_SECONDS}
    else:
        options["pool_pre_ping"] = True
        url = url.set(query={**SERVER, **url.query})
    try:
        return create_engine(url, **options)
    except ModuleNotFoundError:
        raise ConfigError(
            f"db: {place(url)} needs the psycopg driver; run `pip install 'nas-service[postgres]'`."
        ) from None


def _writable(url: URL) -> Any:
    """Refuse to open a file that cannot be written: SQLite would make its own two around it all the same."""
    path = file(url)

    def check(*arguments: object) -> None:
        if path is not None and path.exists() and not sqlite.writable(path):
            raise StorageError(f"Database {place(url)}: it is read-only; check its permissions.")

    return check


def _configure(pragmas: Sequence[str]) -> Any:
    def configure(connection: Any, record: object) -> None:
        connection.isolation_level = None  # no BEGIN of the driver's own
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    return configure


def _write_ahead(connection: sqlite3.Connection, record: object) -> None:
    """Switch to WAL, once no other connection switches: SQLite itself does not wait for that."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= deadline:
                raise
        time.sleep(0.01)


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Turn every SQLAlchemy error into a StorageError of one line: what, where and what to do."""
    try:
        yield
    except OverflowError as error:
        raise ConfigError(f"A number is too large for the database {place(url)}.") from error
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        what = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
        hint = next((f"; {hint}" for word, hint in HINTS if word in what), "")
        kind = Unreachable if _unreachable(error) else StorageError
        raise kind(f"Database {place(url)}: {_masked(what, url)}{hint}.") from error


def _unreachable(error: SQLAlchemyError) -> bool:
    """Return whether there is no connection to a server: all that it says itself once open has a code."""
    if not isinstance(error, DBAPIError):
        return False
    silent = isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", "") is None
    return error.connection_invalidated or (silent and not _ANSWERED.search(str(error.orig)))


def _masked(words: str, url: URL) -> str:
    """Return the words of a driver without the passwords of the URL, which they may quote as it has them."""
    given = (values for key, values in url.normalized_query.items() if key.endswith("password"))
    for secret in filter(None, [url.password, *chain.from_iterable(given)]):
        for form in (secret, quote(secret), quote(secret, safe=""), quote_plus(secret)):
            words = words.replace(form, "***")
    return words
