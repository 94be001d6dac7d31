"""Data sets that are downloaded: where they come from, where they are kept, how they get there."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import platformdirs

from nas.errors import DataMissing, NasError, UnknownName
from nas.files import replacing
from nas.tasks import files

TIMEOUT = 30.0
"""Seconds without a byte after which a download is given up."""

CHUNK = 1 << 18
PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True, slots=True)
class Remote:
    """One file of a data set.

    Attributes:
        path: where it belongs, below the data set's folder.
        url: where it is published.
        algorithm, checksum: what the published file hashes to, hexadecimal.
        images, classes: for a zip, the number of PNG images in it and of folders that hold them: a copy with
            another checksum, or an unpacked one, is right if these are.
    """

    path: str
    url: str
    algorithm: str
    checksum: str
    images: int = 0
    classes: int = 0

    def hasher(self) -> hashlib._Hash:
        """Return a new hash object of the algorithm; it guards against accidents, not attacks."""
        return hashlib.new(self.algorithm, usedforsecurity=False)


class DownloadProgress(Protocol):
    """Told of a download as it goes."""

    def __call__(self, path: str, done: int, total: int | None, /) -> None:
        """Take note that `done` bytes of `total` (None: unknown) have arrived of the file named `path`."""


_OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
_VINYALS = (
    "https://raw.githubusercontent.com/jakesnell/prototypical-networks/master/data/omniglot/splits/vinyals"
)

DATASETS: dict[str, tuple[Remote, ...]] = {
    "omniglot": (
        Remote(
            "images_background.zip",
            f"{_OMNIGLOT}/images_background.zip",
            "md5",
            "68d2efa1b9178cc56df9314c21c6e718",
            images=19280,
            classes=964,
        ),
        Remote(
            "images_evaluation.zip",
            f"{_OMNIGLOT}/images_evaluation.zip",
            "md5",
            "6b91aef0f799c5bb55b94e3f2daec811",
            images=13180,
            classes=659,
        ),
        *(
            Remote(f"splits/vinyals/{name}.txt", f"{_VINYALS}/{name}.txt", "sha256", digest)
            for name, digest in {
                "train": "984522c194c30fb678ce53304a160a42faf5403ad4f9a67010f32dd3a35738e0",
                "val": "11f99e54faee3e26f53d3231c1cceac5bf7b8730e9be31cb6dab256551dc0c1a",
                "trainval": "5276ae50c755596d0bff7f2284e85625695549a85ee6e36b6491ad1e5d1cc26a",
                "test": "845264cc5c156180828ccf17915668b17ee21424d0170df6e7d81676aa5d1204",
            }.items()
        ),
    ),
}
"""The files of each data set by its name."""


def data_root() -> Path:
    """Return the folder that holds one folder for each data set: `NAS_DATA`, else the user's data folder."""
    configured = os.environ.get("NAS_DATA")
    return Path(configured).expanduser() if configured else platformdirs.user_data_path("nas")


def missing(name: str, finding: str) -> DataMissing:
    """Return the error for a data set of which something is not there or not right."""
    return DataMissing(
        f"The data set '{name}' cannot be read: {finding}. Run `nas data fetch {name}`, or set NAS_DATA to a "
        f"folder that holds a copy in {name}/."
    )


def present(name: str, root: Path | None = None) -> bool:
    """Return whether every file of a data set is there and right.

    Raises:
        UnknownName: no such data set.
    """
    return not _lacking(name, _folder(name, root))


def fetch(
    name: str, root: Path | None = None, progress: DownloadProgress = lambda path, done, total: None
) -> list[Path]:
    """Download what is missing of a data set; return the files that came, none if all was there.

    Each file is checked and appears whole or not at all, so that an interrupted fetch goes on with the file
    that it was at.

    Args:
        name: of the data set.
        root: where its folder goes; default `data_root()`.
        progress: told of every chunk.

    Raises:
        UnknownName: no such data set.
        NasError: no network, a wrong checksum, or a folder that cannot be written.
    """
    folder = _folder(name, root)
    lacking = _lacking(name, folder)
    for remote in lacking:
        try:
            _download(remote, folder, progress)
        except _Unreachable as error:
            by_hand = "\n".join(f"  {other.url}\n    to {folder / other.path}" for other in lacking)
            raise NasError(
                f"Cannot download {remote.url}: {error}.\nWithout a network, copy by hand:\n{by_hand}"
            ) from error
        except OSError as error:
            raise NasError(
                f"Cannot write {folder / remote.path}: {error.strerror or error}. "
                "Make room or allow it, or set NAS_DATA to another folder."
            ) from error
    return [folder / remote.path for remote in lacking]


class _Unreachable(Exception):
    """A download that did not arrive, through no fault of the disk."""


def _folder(name: str, root: Path | None) -> Path:
    if name not in DATASETS:
        raise UnknownName("data set", name, DATASETS)
    return (root or data_root()) / name


def _lacking(name: str, folder: Path) -> list[Remote]:
    return [remote for remote in DATASETS[name] if not _right(remote, folder / remote.path)]


def _right(remote: Remote, path: Path) -> bool:
    if path.is_file():
        with path.open("rb") as file:
            if hashlib.file_digest(file, remote.hasher).hexdigest() == remote.checksum:
                return True
    copy = files.stored(path) if remote.images else None
    return copy is not None and _complete(remote, copy)


def _complete(remote: Remote, copy: Path) -> bool:
    classes: Counter[PurePosixPath] = Counter()
    try:
        for name, content in files.contents(copy):
            if not content.endswith(PNG_END):
                return False
            classes[PurePosixPath(name).parent] += 1
    except (OSError, zipfile.BadZipFile, zlib.error):
        return False
    return (classes.total(), len(classes)) == (remote.images, remote.classes)


def _download(remote: Remote, folder: Path, progress: DownloadProgress) -> None:
    digest = remote.hasher()
    done = 0
    with replacing(folder / remote.path) as temporary:
        with temporary.open("wb") as file, closing(_chunks(remote.url)) as chunks:
            for chunk, total in chunks:
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress(remote.path, done, total)
        if digest.hexdigest() != remote.checksum:
            raise NasError(
                f"{remote.url} is not the published file: its {remote.algorithm} is {digest.hexdigest()} "
                f"({done} bytes), expected {remote.checksum}. Nothing was kept; run `nas data fetch` again."
            )


def _chunks(url: str) -> Generator[tuple[bytes, int | None], None, None]:
    """Yield a URL's bytes chunk by chunk, each with the length announced for the whole."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            announced = response.headers.get("Content-Length")
            total = int(announced) if announced else None
            done = 0
            while chunk := response.read(CHUNK):
                done += len(chunk)
                yield chunk, total
    except urllib.error.HTTPError as error:
        error.close()  # it is the response, too, with its connection
        raise _Unreachable(error) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Unreachable(error) from error
    if total is not None and done < total:
        raise _Unreachable(f"the connection broke after {done} of {total} bytes")
