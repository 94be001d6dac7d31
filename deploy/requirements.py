"""Print what an image installs before the code: what nas and a cluster need, or one pinned package.

usage: python deploy/requirements.py [PACKAGE]
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

EXTRAS = ("cluster", "optuna", "parquet", "plot", "surrogate", "web")


def requirements() -> list[str]:
    """Return what pyproject.toml asks for: to run, for the extras, and to build the package."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    return [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(requirement for extra in EXTRAS for requirement in extras[extra]),
    ]


def pinned(package: str) -> str:
    """Return the line of constraints.txt for a package."""
    lines = Path("constraints.txt").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if line.startswith(f"{package}==")]
    return line


if __name__ == "__main__":
    print("\n".join(map(pinned, sys.argv[1:]) if sys.argv[1:] else requirements()))
