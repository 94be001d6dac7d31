"""What the benchmarks accept on their command lines, checked before anything is measured."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path


def at_least(least: int) -> Callable[[str], int]:
    """Return what reads an integer that is not below `least`."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return int(text)

    return number


def data(parser: argparse.ArgumentParser, file: str) -> Path:
    """Return a file of the folder NAS_DATA, or end with what is missing."""
    folder = os.environ.get("NAS_DATA")
    if not folder:
        parser.error(f"set NAS_DATA to the folder that holds {file}")
    if not (path := Path(folder) / file).exists():
        parser.error(f"there is no {path}; NAS_DATA names its folder")
    return path


def require(parser: argparse.ArgumentParser, *packages: str) -> None:
    """End with what to install, unless the packages are there."""
    if missing := [package for package in packages if find_spec(package) is None]:
        parser.error(f"it needs {' and '.join(missing)}: pip install {' '.join(missing)}")
