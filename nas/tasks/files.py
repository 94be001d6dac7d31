"""Files on disk: paths that last, a folder or a zip of images read alike, writes whole or not at all."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def absolute(path: str) -> str:
    """Return the path as it is found from any working directory: a search may be resumed in another."""
    return str(Path(path).expanduser().absolute())


def stored(path: Path) -> Path | None:
    """Return the zip `path` if it is there, else the folder unpacked from it, else None."""
    folder = path.with_suffix("")
    return path if path.is_file() else folder if folder.is_dir() else None


def sources(path: Path) -> list[Path]:
    """Return the files that hold the PNG images of `path`: it is a zip, or else a folder."""
    return sorted(path.rglob("*.png")) if path.is_dir() else [path]


def names(path: Path) -> list[str]:
    """Return the names of the PNG images in a zip or folder, sorted, each from `path.stem/` on.

    Raises:
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    if path.is_dir():
        return [file.relative_to(path.parent).as_posix() for file in sources(path)]
    with zipfile.ZipFile(path) as archive:
        listed = archive.namelist()
    return sorted(name for name in listed if name.endswith(".png") and name.startswith(f"{path.stem}/"))


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
