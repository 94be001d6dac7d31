"""Where evaluations keep their files: checkpoints while they train, weights when they are done."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import torch

from nas.errors import NotFound
from nas.files import replacing, writing
from nas.states import EvaluationState
from nas.storage.engine import file, parse
from nas.storage.evaluations import File
from nas.storage.schema import Artifact, Evaluation
from nas.storage.store import Store

WEIGHTS = "weights"
"""The kind of artifact that holds a learner's `state_dict`, and the folder of those."""


def folder(database: str, given: Path | None = None) -> Path:
    """Return the folder of a database's files: the given one, or `NAME-artifacts` beside `NAME.db`.

    Without a file to lie beside (PostgreSQL), it is `nas-artifacts` in the working directory.

    Raises:
        ConfigError: the text is no database URL.
    """
    path = file(parse(database))
    if given is not None:
        return given.absolute()
    return (path.with_name(f"{path.stem}-artifacts") if path else Path("nas-artifacts")).absolute()


@contextmanager
def marked(target: Path) -> Iterator[Path]:
    """Leave a file in the folder `target` while the block runs: who sees it sees the same folder.

    Raises:
        Unwritable: the folder cannot be created or written.
    """
    mark = target / f".seen-{uuid4().hex}"
    with writing(mark):
        target.mkdir(parents=True, exist_ok=True)
        mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def store_weights(target: Path, name: str, weights: Mapping[str, torch.Tensor]) -> File:
    """Write weights to the folder `target`; the name of the file ends with a part of its hash.

    Raises:
        Unwritable: the disk is full, or the folder cannot be created or written.
    """
    buffer = io.BytesIO()
    torch.save(dict(weights), buffer)
    content = buffer.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()
    path = target / WEIGHTS / f"{name}-{sha256[:8]}.pt"
    with writing(path):
        for part in path.parent.glob(f".{name}-*.part"):  # of a process that was killed while writing it
            part.unlink(missing_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    return File(WEIGHTS, str(path), sha256, len(content))


def locate(artifact: Artifact, target: Path) -> Path:
    """Return where an artifact's file is: where it was written, or, if it was moved, in the folder `target`.

    Raises:
        NotFound: it is in neither place, or its content has changed.
    """
    written = Path(artifact.uri)
    places = (written, target / artifact.kind / written.name)
    for path in places:
        if path.is_file():
            with path.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if found == artifact.sha256:
                return path
            raise NotFound(
                f"The {artifact.kind} in {path} are not what was written there: sha256 {found}, expected "
                f"{artifact.sha256}. Bring the file back, or give the right folder with --artifacts."
            )
    raise NotFound(
        f"The {artifact.kind} are gone: no file at {' or '.join(dict.fromkeys(map(str, places)))}. Give the "
        "folder with --artifacts (or NAS_ARTIFACTS)."
    )


def gone(store: Store, row: Evaluation, target: Path) -> bool:
    """Return whether an evaluation is completed and its weights are not to be found; see `locate`."""
    if row.state != EvaluationState.COMPLETED:
        return False
    try:
        for found in store.evaluations.artifacts(row.id):
            locate(found, target)
    except NotFound:
        return True
    return False
