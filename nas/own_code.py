"""The user's own modules: what plug-ins of the working directory are made of, and other machines lack."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from nas import plugins

_INSTALLED = {"site-packages", "dist-packages"}
"""Folders of what is installed, on every machine of a cluster."""


def files() -> list[Path]:
    """Return the modules and packages that a plug-in given as `module:Class` needs, in order.

    They are those that this process has imported from the folders that such plug-ins came from. Left out is
    what an installed distribution brings: a node has it, too, or cannot find its plug-ins by name either.
    """
    installed = {"nas"} | {
        plugin.target.partition(":")[0].partition(".")[0]
        for kind in plugins.GROUPS
        for plugin in plugins.installed(kind).values()
    }
    named = {module.partition(".")[0] for module in plugins.by_path()} - installed
    roots = {place.parent for name in named if (place := _place(sys.modules.get(name))) is not None}
    return sorted(
        place
        for name, place in _top_level()
        if name not in installed and place.parent in roots and _INSTALLED.isdisjoint(place.parts)
    )


def copy(folder: Path) -> bool:
    """Copy `files` into a folder, from which they can be imported; return whether there are any."""
    found = files()
    for place in found:
        if place.is_dir():
            shutil.copytree(place, folder / place.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, folder)
    return bool(found)


def _top_level() -> Iterator[tuple[str, Path]]:
    for name, module in list(sys.modules.items()):
        place = None if "." in name or name == "__main__" else _place(module)
        if place is not None:
            yield name, place


def _place(module: ModuleType | None) -> Path | None:
    """Return the folder of a package, or the file of a module; None: it has none, or several."""
    folders = list(getattr(module, "__path__", ()))
    if folders:
        return Path(folders[0]) if len(folders) == 1 else None
    file = getattr(module, "__file__", None)
    return Path(file) if file and file.endswith(".py") else None
