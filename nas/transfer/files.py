"""Export and import: a file of SQLite is a database like any other; a folder of Parquet becomes one first."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from nas.errors import ConfigError, NotFound
from nas.evaluation.artifacts import folder, locate
from nas.files import replacing, writing
from nas.storage import searches
from nas.storage.database import Database
from nas.storage.schema import Artifact
from nas.storage.transfer import Copied, copy
from nas.transfer import parquet

SUFFIXES = ("", ".db", ".sqlite", ".sqlite3", parquet.SUFFIX)
"""How the names of exports end."""

ELSEWHERE = ", or give the file another place"
"""What else to do where an export cannot be written."""


@dataclass(slots=True)
class Moved:
    """What came of the files of artifacts.

    Attributes:
        copied: how many were copied, or were there.
        gone: why others were not.
    """

    copied: int = 0
    gone: list[str] = field(default_factory=list)


def export(
    url: str, file: Path, references: Sequence[str] = (), *, artifacts: Path | None = None
) -> tuple[Copied, Moved]:
    """Write searches of a database, with their evaluations, to a new file.

    Args:
        url: of the database.
        file: an SQLite database; or, if its name ends with `.parquet`, a folder of a file for each table.
        references: to searches; none: all, and all evaluations.
        artifacts: folder of the database's files, which are copied beside `file`; None: none is.

    Raises:
        ConfigError: the file is there, or its folder is not, or it ends as no export does; or a reference
            means several searches.
        NotFound: no such database or search.
        StorageError: the database cannot be read, or the file not be written.
    """
    _check(file)
    with closing(Database(url, create=False)) as database, database.read() as source:
        chosen = [searches.find(source, reference).id for reference in references]
        moved = Moved()
        target = None if artifacts is None else beside(file)
        with _written(file) as temporary, closing(Database(_url(temporary), create=True)) as new:
            with new.edit() as session:
                copied = copy(
                    source,
                    session,
                    chosen if references else None,
                    relocate=lambda artifact: _moved(artifact, artifacts, target, moved),
                    rename=False,
                )
            if file.suffix == parquet.SUFFIX:
                with writing(file, ELSEWHERE), _replacing(file) as made, new.read() as session:
                    parquet.write(session, made)
    return copied, moved


def load(
    url: str, file: Path, *, artifacts: Path | None = None, rename: bool = False
) -> tuple[Copied, Moved]:
    """Add what an export holds, or any database of nas in a file, to a database; create it if need be.

    Args:
        url: of the database.
        file: an SQLite database, or a folder of Parquet files.
        artifacts: folder of the database's files, to which those beside `file` are copied; None: none is.
        rename: whether searches whose names others have get free ones.

    Raises:
        NotFound: no such file.
        ConfigError: as `nas.storage.transfer.copy`.
        StorageError: the file is another program's or of another revision, or the database fails.
    """
    if not file.exists():
        raise NotFound(
            f"No file {file}. The database that has the searches writes one: `nas db export FILE --db URL`."
        )
    moved, here = Moved(), beside(file)
    with (
        _database(file) as given,
        closing(Database(given, create=False)) as database,
        database.read() as source,
        closing(Database(url, create=True)) as target,
        target.edit() as session,
    ):
        copied = copy(
            source,
            session,
            None,
            relocate=lambda artifact: _moved(artifact, artifacts and here, artifacts, moved),
            rename=rename,
        )
    return copied, moved


def _check(file: Path) -> None:
    """Refuse a name that no export can have.

    Raises:
        ConfigError: it ends as no export does, or is taken, or is of a folder that is not there.
    """
    if file.suffix not in SUFFIXES:
        raise ConfigError(
            f"{file}: no export ends with '{file.suffix}'. Write a database, such as {file.stem}.db, or a "
            f"folder of tables, {file.stem}{parquet.SUFFIX}."
        )
    if file.exists():
        raise ConfigError(f"{file} is there already. Give the name of a new file, or delete it.")
    if not file.parent.is_dir():
        raise ConfigError(f"{file}: there is no folder {file.parent}. Make it, or give another name.")


def beside(file: Path) -> Path:
    """Return the folder of the files of an export, which is the usual one of such a database."""
    return folder(_url(file))


def _url(file: Path) -> str:
    return f"sqlite:///{file}"


@contextmanager
def _database(file: Path) -> Iterator[str]:
    """Give the URL of what is to be read; of a folder, of a database made of it for a while."""
    if not file.is_dir():
        yield _url(file)
        return
    with tempfile.TemporaryDirectory(prefix="nas-") as scratch:
        url = _url(Path(scratch) / "import.db")
        with closing(Database(url, create=True)) as database, database.edit() as session:
            parquet.read(file, session)
        yield url


@contextmanager
def _written(file: Path) -> Iterator[Path]:
    """Give the path of a database that becomes `file`, if that is no folder, once the block is through.

    Raises:
        Unwritable: the folder cannot be created or written.
    """
    if file.suffix == parquet.SUFFIX:
        with tempfile.TemporaryDirectory(prefix="nas-") as scratch:
            yield Path(scratch) / "export.db"
        return
    with writing(file, ELSEWHERE), replacing(file) as temporary:
        try:
            yield temporary
            with closing(sqlite3.connect(temporary)) as connection:
                connection.execute("PRAGMA journal_mode = DELETE")  # one file, wherever it goes
        finally:
            for suffix in ("-wal", "-shm"):
                temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)


@contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """Give a new folder that becomes `file` if the block succeeds, and is deleted if it does not."""
    file.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{file.name}.", suffix=".part", dir=file.parent))
    try:
        yield made
        made.chmod(0o755)
        made.replace(file)
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(made)


def _moved(artifact: Artifact, source: Path | None, target: Path | None, moved: Moved) -> str:
    """Return where an artifact's file is from now on; copy it there, if files are to be copied."""
    if source is None or target is None:
        return artifact.uri
    try:
        found = locate(artifact, source)
    except NotFound as error:
        moved.gone.append(str(error))
        return artifact.uri
    place = target / artifact.kind / found.name
    if not place.is_file() or place.stat().st_size != artifact.bytes:
        with writing(place), replacing(place) as temporary:
            shutil.copyfile(found, temporary)
    moved.copied += 1
    return str(place)
