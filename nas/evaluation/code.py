"""Which code computed an evaluation: a hash that tells two states of one version apart."""

from __future__ import annotations

import functools
import hashlib
import sys
from pathlib import Path

from nas import plugins
from nas.settings.evaluation import EvaluationConfig


def code(config: EvaluationConfig) -> str:
    """Return a hash of the sources of nas and of the packages that the plugins of a configuration come from.

    It is kept with a result (`environment.code`), and is no part of what identifies it: otherwise a changed
    comment would have everything trained again.
    """
    sections = {"space": config.space, "tasks": config.tasks, "learner": config.learner}
    classes = [plugins.load(kind, section["name"]) for kind, section in sections.items()]
    packages = {"nas", *(cls.__module__.partition(".")[0] for cls in classes)}
    return hashlib.sha256("".join(map(_of_package, sorted(packages))).encode()).hexdigest()[:16]


@functools.cache
def _of_package(name: str) -> str:
    module = sys.modules[name]
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    if not folders and getattr(module, "__file__", None):
        files = [Path(str(module.__file__))]
    digest = hashlib.sha256(name.encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
