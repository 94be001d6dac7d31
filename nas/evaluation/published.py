"""Networks of papers, by plain names: which there are, and which one a learner's paper used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from nas import plugins
from nas.backbone import BackboneSpace, Published
from nas.errors import PluginError
from nas.space import TaskShape


def spaces() -> Iterator[tuple[str, type[BackboneSpace]]]:
    """Yield the installed spaces by name; those that cannot be loaded are passed over."""
    for plugin in plugins.installed("space").values():
        try:
            yield plugin.name, plugin.load()
        except PluginError:
            continue


def published() -> dict[str, Published]:
    """Return the published networks of all installed spaces by name."""
    return {name: network for _, space in spaces() for name, network in space.published.items()}


def name_of(space: Mapping[str, Any], architecture: str) -> str | None:
    """Return the name of a published network; None: it is none.

    Args:
        space: the section of its space, every setting filled in.
        architecture: its text.
    """
    plugin = plugins.installed("space").get(space["name"])
    try:
        known: Mapping[str, Published] = plugin.load().published if plugin else {}
    except PluginError:
        return None
    for name, network in known.items():
        if network.architecture == architecture and network.settings.items() <= space.items():
            return name
    return None


def own(learner: str, shape: TaskShape) -> str | None:
    """Return the name of the network that a learner's paper used; None where none is known.

    Papers take another one for small images than for large ones: the nearest size counts.
    """
    if len(shape.input) != 3:
        return None
    found = {name: network for name, network in published().items() if learner in network.learners}
    return min(found, key=lambda name: abs(math.log(shape.input[1] / found[name].side)), default=None)
