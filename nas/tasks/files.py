"""Files on disk: names, a folder or a zip of images read alike, writes whole or not at all."""

from __future__ import annotations

import errno
import os
import unicodedata
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from uuid import uuid4

from nas.errors import Unwritable

SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir"})
"""What archives of macOS and the disk stations of Synology put beside people's files."""

UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories that no terminal prints: control characters, surrogates, separators of lines."""


def hidden(name: str) -> bool:
    """Return whether a file or folder was put there by a system, not a person, as `._0.png` by macOS."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def legible(name: str | Path) -> str:
    r"""Return a name or path that every terminal and database takes: what is no text in it is escaped.

    A name of a file may be any bytes: `b"caf\xe9"`, in Latin-1, becomes `caf\xe9`.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in UNPRINTABLE
        else character
        for character in text
    )


def stored(path: Path) -> Path | None:
    """Return the zip `path` if it is there, else the folder unpacked from it, else None."""
    folder = path.with_suffix("")
    return path if path.is_file() else folder if folder.is_dir() else None


def sources(path: Path) -> list[Path]:
    """Return the files that hold the PNG images of `path`: it is a zip, or else a folder."""
    if not path.is_dir():
        return [path]
    return [file for file in sorted(path.rglob("*.png")) if _visible(file.relative_to(path).parts)]


def _visible(parts: tuple[str, ...]) -> bool:
    return not any(hidden(part) for part in parts)


def names(path: Path) -> list[str]:
    """Return the names of the PNG images in a zip or folder, sorted, each from `path.stem/` on.

    Raises:
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    if path.is_dir():
        return [file.relative_to(path.parent).as_posix() for file in sources(path)]
    with zipfile.ZipFile(path) as archive:
        listed = archive.namelist()
    return sorted(
        name
        for name in listed
        if name.endswith(".png") and name.startswith(f"{path.stem}/") and _visible(PurePosixPath(name).parts)
    )


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every PNG image of a zip or folder: its name as in `names`, and its bytes.

    Raises:
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    if path.is_dir():
        for name in names(path):
            yield name, (path.parent / name).read_bytes()
    else:
        with zipfile.ZipFile(path) as archive:
            for name in names(path):
                yield name, archive.read(name)


FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk without space, or of a user who has no more of it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what keeps files of trainings from being written into one line: which, why, and what to do.

    Raises:
        Unwritable: the block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(error, path, ", or give another folder with --artifacts") from error


def unwritable(error: OSError, path: Path | str, otherwise: str = "") -> Unwritable:
    """Return what to raise for an error of the system while a file was written.

    Args:
        error: the system's.
        path: of the file.
        otherwise: what else to do, as the end of a sentence.
    """
    remedy = (
        "Free some space there"
        if error.errno in FULL
        else "Make sure that the folder is there and can be written"
    )
    return Unwritable(f"Cannot write {path}: {error.strerror or error}. {remedy}{otherwise}.")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path that becomes `path` if the block succeeds and is deleted if it does not.

    Raises:
        OSError: the folder cannot be created or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
