"""An open database: its transactions, one kind to read and one to write. Reading leaves no trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from nas.storage import migrations
from nas.storage.engine import connect, file, parse, reader, translated
from nas.storage.outage import Patience
from nas.storage.sqlite import TRIES, Written, steady

Timed = Callable[[str, float], None]
"""Takes the kind of a transaction, and the seconds that it took."""


class Database:
    """An open database at this package's revision; between two transactions it holds no lock.

    Args:
        url: as `Store`.
        create, patient: as `Store`.
        returned: called when the database answers again after an outage.

    Attributes:
        patience: what outlasts outages.
        timed: told how many seconds each transaction took that succeeded, and its kind: `read` or `write`.

    Raises:
        ConfigError, NotFound, StorageError: as `Store`.
    """

    def __init__(
        self,
        url: str,
        *,
        create: bool,
        patient: bool = False,
        returned: Callable[[], None] = lambda: None,
    ) -> None:
        self._url = parse(url)
        self.patience = Patience(returned)
        self.timed: Timed | None = None
        self._file = file(self._url)
        there = migrations.exists(self._url)
        if not there and not create:
            raise migrations.missing(self._url)
        writer = connect(self._url)
        self.dialect = writer.dialect
        self._writer = writer.execution_options(writes=True)
        self._reader = reader(self._url, writer)
        try:
            if patient:
                self.patience.outlast(lambda: self._open(create, there))
            else:
                self._open(create, there)
        except BaseException:
            self.close()
            raise

    def _open(self, create: bool, there: bool) -> None:
        ready = there and self._ready()
        if not ready and not create:
            raise migrations.missing(self._url)
        if not ready:
            migrations.migrate(self.write(), self._url)

    def _ready(self) -> bool:
        """Return whether the database has tables, of this revision; another process may make them now."""

        def ready() -> bool:
            with self.read() as session:
                return migrations.check(session.connection(), self._url)

        for _ in range(TRIES - 1):
            with suppress(Written):
                return ready()
        return ready()

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()
        self._writer.dispose()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session that sees one state of the database throughout; its rows outlive it."""
        with (
            self._timing("read"),
            steady(self._file) if self._file else nullcontext(),
            translated(self._url),
            Session(self._reader, expire_on_commit=False) as session,
        ):
            yield session

    @contextmanager
    def edit(self) -> Iterator[Session]:
        """Open a session that writes what changes in its rows, in one transaction."""
        with (
            self._timing("write"),
            translated(self._url),
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction for statements: less than half of the time of a session."""
        with self._timing("write"), translated(self._url), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _timing(self, kind: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if self.timed is not None:
            self.timed(kind, time.perf_counter() - began)
