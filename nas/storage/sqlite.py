"""Reading an SQLite file without a trace: no file is made or changed, and no permission to write is needed.

In WAL mode SQLite makes two files around a database (`-wal`, `-shm`) even for a reader, to whom they belong
then. So a reader opens them only where a writer made them, and a file that nobody writes as immutable.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.errors import StorageError

TRIES = 3
"""How often to open a file while a writer makes or removes its own files around it."""


class Written(StorageError):
    """A file that was taken for one that nobody writes was written while it was read."""


def connect(path: Path, **options: Any) -> sqlite3.Connection:
    """Return a connection that only reads, with the options of `sqlite3.connect`.

    Raises:
        StorageError: the last changes are not in the file yet, and cannot be read without writing.
        sqlite3.Error: the file cannot be read, or is no database.
    """
    for left in reversed(range(TRIES)):
        connection: sqlite3.Connection = sqlite3.connect(_uri(path), uri=True, **options)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master")  # now it opens the files around it
            break
        except BaseException as error:
            connection.close()
            if not left or not isinstance(error, sqlite3.OperationalError):
                raise
    return connection


def writable(path: Path) -> bool:
    """Return whether this process may write a file that is there."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


@contextmanager
def steady(path: Path) -> Iterator[None]:
    """Make sure that a file that is opened as immutable is not written until the end.

    Raises:
        Written: it was.
    """
    before = _stamp(path) if _idle(path) else None
    try:
        yield
    finally:
        if before is not None and _stamp(path) != before:
            raise Written(f"Database {path} was written while it was read. Try again.")


def _uri(path: Path) -> str:
    if path.is_dir():
        raise sqlite3.OperationalError("unable to open database file")  # not a "disk I/O error"
    index, log = _beside(path, "-shm"), _beside(path, "-wal")
    if index.exists():
        # SQLite opens the index once a process: opened only to read, it would keep this process from writing.
        options = "" if writable(index) else "&readonly_shm=1"
    elif log.exists() and log.stat().st_size:
        raise StorageError(
            f"Database {path}: its last changes are in {log.name}, whose index is missing. Run "
            f"`nas db upgrade --db sqlite:///{path}` where both files can be written."
        )
    else:
        options = "&immutable=1" if _idle(path) else ""
    return f"{path.absolute().as_uri()}?mode=ro{options}"


def _idle(path: Path) -> bool:
    """Return whether nobody writes the file, as far as the files around it tell."""
    return not _beside(path, "-shm").exists() and not _beside(path, "-journal").exists()


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
