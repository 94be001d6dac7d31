"""Files from which a training continues, written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import nas
from nas.files import replacing, writing

CHECKPOINTS = "checkpoints"
"""The folder of these files, among other files of a database."""

VERSIONS = {"nas": nas.__version__, "torch": str(torch.__version__)}
"""What a checkpoint must have been made by to be continued."""


class Checkpoint:
    """A file from which a training continues; written whole or not at all."""

    def __init__(self, target: Path, name: str, folder: str = CHECKPOINTS) -> None:
        self.path = target / folder / f"{name}.pt"

    def load(self, made_by: Mapping[str, str] = VERSIONS) -> dict[str, Any] | None:
        """Return what was saved; None where there is nothing, or nothing that these versions can go on from.

        Args:
            made_by: versions that must be the same.
        """
        try:
            saved = torch.load(self.path, weights_only=True)
        except FileNotFoundError:
            return None
        except Exception:  # a damaged file raises whatever its bytes happen to mean
            return None
        good = isinstance(saved, dict) and saved.get("made_by") == dict(made_by)
        return saved["content"] if good else None

    def save(self, content: dict[str, Any], made_by: Mapping[str, str] = VERSIONS) -> None:
        """Write the content in place of what was there.

        Raises:
            Unwritable: the disk is full, or the folder cannot be created or written.
        """
        buffer = io.BytesIO()  # to a file, torch hides why it failed
        torch.save({"made_by": dict(made_by), "content": content}, buffer)
        with writing(self.path), replacing(self.path) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def remove(self) -> None:
        """Delete the file, and what a process left that was killed while writing it.

        Raises:
            Unwritable: the folder cannot be written.
        """
        with writing(self.path):
            for path in (self.path, *self.path.parent.glob(f".{self.path.name}.*.part")):
                path.unlink(missing_ok=True)
