"""Arrays that are slow to make, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs

from nas.files import FULL, replacing, unwritable

_LOG = logging.getLogger(__name__)

Arrays = dict[str, npt.NDArray[Any]]

LONGEST = 40
"""Characters of a name that a cache file keeps: file systems allow 255 bytes in all."""


def cached(name: str, recipe: str, sources: Iterable[Path], build: Callable[[], Arrays]) -> Arrays:
    """Return `build()`, or what it returned when the sources last had these sizes and modification times.

    A cache that is damaged, or cannot be read or written, costs nothing but time: it is passed over in
    silence, or, where its disk is full, with a warning.

    Args:
        name: names the cache file, for people; its beginning will do.
        recipe: whatever else the arrays depend on: settings, and a number to raise when the code changes.
        sources: the files that `build` reads.
        build: makes the arrays; none may hold objects.
    """
    path = platformdirs.user_cache_path("nas") / f"{name[:LONGEST]}-{_key(recipe, sources)}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        arrays = build()
    try:
        with replacing(path) as temporary, temporary.open("wb") as output:
            np.savez(output, allow_pickle=False, **arrays)
    except OSError as error:
        if error.errno in FULL:
            _LOG.warning("warning: %s Until then images are decoded at each start.", unwritable(error, path))
    return arrays


def _key(recipe: str, sources: Iterable[Path]) -> str:
    digest = hashlib.sha256(recipe.encode())
    for path in sources:
        status = path.stat()
        digest.update(b"\n%s %d %d" % (os.fsencode(path.absolute()), status.st_size, status.st_mtime_ns))
    return digest.hexdigest()[:16]
