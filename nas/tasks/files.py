"""Files on disk: names, a folder or a zip of images read alike, writes whole or not at all."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir"})
"""What archives of macOS and the disk stations of Synology put beside people's files."""


def hidden(name: str) -> bool:
    """Return whether a file or folder was put there by a system, not a person, as `._0.png` by macOS."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


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
