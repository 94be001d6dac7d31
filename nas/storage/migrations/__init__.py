"""The schema's revisions, run in-process: nobody needs an `alembic.ini`.

A revision is a file of `versions/`. Opening a database creates the tables in an empty one, and refuses one at
another revision than this package's.
"""

from __future__ import annotations

import shlex
import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from sqlalchemy import URL, Connection, inspect, text

from nas.errors import NotFound, StorageError
from nas.storage import schema
from nas.storage.engine import connect, file, parse, place, reader, translated

if TYPE_CHECKING:
    from alembic.config import Config

VERSION_TABLE = "alembic_version"
_LOCK = 0x6E6173
"""Key of the PostgreSQL advisory lock under which tables are made or changed: "nas" in ASCII."""

_ALEMBIC = threading.Lock()
"""Alembic keeps the connection that it migrates in a global: one thread at a time."""

SOME = 3
"""How many files a message names that may be the database that was meant."""


def current(url: str) -> tuple[str | None, str]:
    """Return the database's revision (None where there are no tables yet) and this package's.

    Raises:
        ConfigError: the text is no database URL.
        NotFound: no such SQLite file.
        StorageError: the database cannot be read, or is another program's.
    """
    parsed = parse(url)
    if not exists(parsed):
        raise missing(parsed)
    with translated(parsed):
        engine = reader(parsed, connect(parsed))
        try:
            with engine.connect() as connection:
                return revision(connection, parsed), schema.HEAD
        finally:
            engine.dispose()


def upgrade(url: str) -> tuple[str | None, str]:
    """Bring a database to this package's revision; return the revision before and the one after.

    All or nothing: a revision that fails, or a process that dies, leaves the database as it was.

    Raises:
        ConfigError: the text is no database URL.
        StorageError: the database cannot be written, is another program's, or is at an unknown revision.
    """
    parsed = parse(url)
    with translated(parsed):
        # Rebuilding an SQLite table would delete the rows that refer to it if foreign keys were enforced.
        engine = connect(parsed, foreign_keys=False)
        try:
            return migrate(engine.execution_options(writes=True).begin(), parsed)
        finally:
            engine.dispose()


def migrate(transaction: AbstractContextManager[Connection], url: URL) -> tuple[str | None, str]:
    """Do what `upgrade` does, within a transaction that `writes` and has not begun."""
    from alembic import command  # before the transaction, whose lock others wait for

    with transaction as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        before = revision(connection, url)
        if before == schema.HEAD:  # someone else was quicker
            return before, before
        if before is not None and not _known(before):
            raise _newer(before, url)
        config = configuration()
        config.attributes["connection"] = connection
        with _ALEMBIC:
            command.upgrade(config, schema.HEAD)
        return before, schema.HEAD


def check(connection: Connection, url: URL) -> bool:
    """Return whether the database has its tables; False where it is empty.

    Raises:
        StorageError: it is at another revision than this package, or another program's.
    """
    found = revision(connection, url)
    if found is None or found == schema.HEAD:
        return found is not None
    if _known(found):
        raise StorageError(
            f"Database {place(url)} is at revision {found}, this nas needs {schema.HEAD}; back it up, then "
            f"run `nas db upgrade --db {place(url)}`."
        )
    raise _newer(found, url)


def exists(url: URL) -> bool:
    """Return whether an SQLite database has its file; any other one is asked later.

    Raises:
        StorageError: nobody may look.
    """
    path = file(url)
    try:
        return path is None or path.exists()
    except OSError as error:
        raise StorageError(f"Database {place(url)}: {error.strerror}.") from None


def missing(url: URL) -> NotFound:
    """Return the error for a database that is not there, or has no tables."""
    return NotFound(
        f"No database at {place(url)}; start one with `nas run`, or give another with --db (or NAS_DB)."
        f"{_others(url)}"
    )


def _others(url: URL) -> str:
    """Return the files in a missing database's folder that may be meant, after a space; or nothing."""
    path = file(url)
    if path is None:
        return ""
    names = sorted(other.name for other in path.parent.glob("*.db") if other.name != path.name)
    if not names:
        return ""
    listed = " or ".join(f"--db {shlex.quote(f'sqlite:///{path.with_name(name)}')}" for name in names[:SOME])
    more = f", or another of {len(names)} files" if len(names) > SOME else ""
    return f" There is {listed}{more}."


def revision(connection: Connection, url: URL) -> str | None:
    """Return the database's revision, None where it has no tables.

    Raises:
        StorageError: it holds tables, but not ours.
    """
    tables = set(inspect(connection).get_table_names())
    if VERSION_TABLE in tables:
        found: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
        return found
    if tables:
        some = ", ".join(sorted(tables)[:3])
        raise StorageError(
            f"Database {place(url)} belongs to another program: it has tables ({some}…) but no nas "
            "schema; give another one with --db (or NAS_DB)."
        )
    return None


def configuration() -> Config:
    """Return Alembic's configuration; `attributes["connection"]` is the connection to migrate."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "nas.storage:migrations")
    return config


def _known(found: str) -> bool:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(configuration())
    return found in {script.revision for script in scripts.walk_revisions()}


def _newer(found: str, url: URL) -> StorageError:
    return StorageError(
        f"Database {place(url)} is at revision {found}, which this nas (at {schema.HEAD}) does not know: a "
        "newer version made it. Run `pip install --upgrade nas-service`."
    )
