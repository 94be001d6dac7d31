"""Files of any kind: names that can be printed, writes whole or not at all."""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from nas.errors import Unwritable

UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories that no terminal prints: control characters, surrogates, separators of lines."""


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


FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk without space, or of a user who has no more of it."""


@contextmanager
def writing(path: Path, otherwise: str = ", or give another folder with --artifacts") -> Iterator[None]:
    """Turn what keeps files from being written into one line: which, why, and what to do.

    Args:
        path: of the file.
        otherwise: what else to do, as the end of a sentence; by default for files of trainings.

    Raises:
        Unwritable: the block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(error, path, otherwise) from error


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
