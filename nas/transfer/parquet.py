"""A database as a folder of Parquet files, one a table, and back (extra `parquet`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Boolean, Column, DateTime, Integer, Table, insert, select
from sqlalchemy.orm import Session
from sqlalchemy.types import Double, TypeDecorator

import nas
from nas.errors import ConfigError, NotFound, StorageError
from nas.storage.schema import HEAD, Base

SUFFIX = ".parquet"
"""How the name of such a folder ends, and that of each file in it."""

BATCH = 5_000
"""Rows read and written at a time."""

_REVISION, _VERSION = b"nas_revision", b"nas_version"


def write(session: Session, folder: Path) -> None:
    """Write every table of a database to files in a folder, which is there.

    Raises:
        ConfigError: pyarrow is not installed.
        OSError: a file cannot be written.
    """
    arrow, files = _pyarrow()
    told = {_REVISION: HEAD.encode(), _VERSION: nas.__version__.encode()}
    for table in Base.metadata.sorted_tables:
        schema = arrow.schema([(column.name, _kind(arrow, column)) for column in table.c], metadata=told)
        rows = session.execute(select(table).execution_options(yield_per=BATCH))
        with files.ParquetWriter(folder / f"{table.name}{SUFFIX}", schema, compression="zstd") as file:
            for some in rows.partitions(BATCH):
                packed = [_packed(table, row._asdict()) for row in some]
                file.write_table(arrow.Table.from_pylist(packed, schema=schema))


def read(folder: Path, session: Session) -> None:
    """Write what `write` left in a folder to an empty database.

    Raises:
        ConfigError: pyarrow is not installed.
        NotFound: a file of the folder is missing.
        StorageError: a file is damaged, another program's, or of another revision.
    """
    arrow, files = _pyarrow()
    for table in Base.metadata.sorted_tables:
        path = folder / f"{table.name}{SUFFIX}"
        if not path.is_file():
            raise NotFound(f"{folder} is no export of nas: it has no {path.name}.")
        try:
            with files.ParquetFile(path) as file:
                _check(path, file.schema_arrow, table)
                for batch in file.iter_batches(BATCH):
                    session.execute(insert(table), [_unpacked(table, row) for row in batch.to_pylist()])
        except (arrow.ArrowException, ValueError) as error:
            raise StorageError(f"{path} cannot be read: {error}. Export it again.") from error


def _check(path: Path, schema: Any, table: Table) -> None:
    told = schema.metadata or {}
    if _REVISION not in told:
        raise StorageError(f"{path} belongs to another program: nas did not write it.")
    revision, version = told[_REVISION].decode(), told.get(_VERSION, b"?").decode()
    if revision != HEAD or schema.names != [column.name for column in table.c]:
        raise StorageError(
            f"{path} is at revision {revision} (nas {version}), this nas reads {HEAD}. Export it as a "
            "database there, NAME.db, which `nas db upgrade` brings up to date."
        )


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ConfigError(
            "Parquet needs pyarrow: run `pip install 'nas-service[parquet]'`, or name a file NAME.db."
        ) from None
    return pyarrow, pyarrow.parquet


def _base(column: Column[Any]) -> Any:
    kind = column.type
    return kind.impl_instance if isinstance(kind, TypeDecorator) else kind


def _kind(arrow: Any, column: Column[Any]) -> Any:
    match _base(column):
        case Boolean():
            return arrow.bool_()
        case Integer():
            return arrow.int64()
        case Double():
            return arrow.float64()
        case DateTime():
            return arrow.timestamp("us", tz="UTC")
        case _:
            return arrow.string()


def _documents(table: Table) -> Iterator[str]:
    """Yield the names of the columns that hold JSON."""
    return (column.name for column in table.c if isinstance(_base(column), JSON))


def _packed(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    texts = {name: json.dumps(row[name]) for name in _documents(table) if row[name] is not None}
    return {**row, **texts}


def _unpacked(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    values = {name: json.loads(row[name]) for name in _documents(table) if row[name] is not None}
    assert all(value.tzinfo is not None for value in row.values() if isinstance(value, datetime))
    return {**row, **values}
