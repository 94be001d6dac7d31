"""Modules of one name in two places, of which Python imports one alone."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Shadow(NamedTuple):
    """Two folders, or files, of one name.

    Attributes:
        found: what Python imports.
        hidden: the module that was asked for.
    """

    found: Path
    hidden: Path


def shadow(module: str, root: Path) -> Shadow | None:
    """Return what hides a module; None: nothing, as far as is known. An equal copy hides nothing.

    Args:
        module: its whole name.
        root: the folder that its top-level package is to be imported from. If it has no such module, nothing
            is known.
    """
    top, *rest = module.split(".")
    path = module.replace(".", "/")
    if not any((root / file).is_file() for file in (f"{path}.py", f"{path}/__init__.py")):
        return None
    wanted = root / top if rest or (root / top).is_dir() else root / f"{top}.py"
    found = _locations(top)
    if not found or wanted.resolve() in found or _sources(found[0]) == _sources(wanted):
        return None
    return Shadow(found[0], wanted.resolve())


def _sources(place: Path) -> dict[Path, bytes]:
    """Return the Python files of a module or a package, by their paths within it."""
    files = place.rglob("*.py") if place.is_dir() else (place,)
    return {file.relative_to(place): file.read_bytes() for file in files if file.is_file()}


def _locations(top: str) -> list[Path]:
    """Return the folders of a top-level package, or the file of a module, as Python finds them."""
    try:
        spec = find_spec(top)
    except ValueError:  # of a module that was not found but made, such as `__main__`
        return []
    if spec is None:
        return []
    places = spec.submodule_search_locations or ([spec.origin] if spec.has_location and spec.origin else [])
    return [Path(place).resolve() for place in places]
