"""How people name what to evaluate: a trial of a search, or an architecture of a space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas import plugins
from nas.errors import ConfigError
from nas.evaluation.published import spaces

FORMS = "SEARCH/TRIAL, or SPACE:ARCHITECTURE such as chain:conv4"


@dataclass(frozen=True, slots=True)
class TrialReference:
    """`SEARCH/TRIAL`: the search is a name, a prefix or `@last`."""

    search: str
    number: int


@dataclass(frozen=True, slots=True)
class SpaceReference:
    """`SPACE:ARCHITECTURE`: the architecture is a text of the space, or a name that it has.

    Attributes:
        space, architecture: as given.
        name: of a published network; None: it is none.
        settings: of the space, which such a name fixes; None: they are up to the user.
    """

    space: str
    architecture: str
    name: str | None = None
    settings: Mapping[str, Any] | None = None


def parse(text: str) -> TrialReference | SpaceReference:
    """Read a target; a bare name such as `conv4` is that of a network in an installed space.

    Raises:
        ConfigError: it is no target.
    """
    search, slash, number = text.partition("/")
    if slash and ":" not in search:
        if not number.isdecimal():
            raise ConfigError(f"'{text}': a trial is a number, such as {search}/0.")
        return TrialReference(search, int(number))
    if ":" not in text:
        return _named(text)
    space, _, architecture = text.partition(":")
    if space not in plugins.installed("space") and ":" in architecture:  # module:Class:ARCHITECTURE
        attribute, _, architecture = architecture.partition(":")
        space = f"{space}:{attribute}"
    return SpaceReference(space, architecture)


def _named(name: str) -> SpaceReference:
    known: dict[str, list[SpaceReference]] = {}
    for space, cls in spaces():
        for own, network in cls.published.items():
            found = SpaceReference(space, network.architecture, own, network.settings)
            known.setdefault(own, []).append(found)
        for architecture in cls().named:
            if architecture not in cls.published:
                known.setdefault(architecture, []).append(SpaceReference(space, architecture))
    if name not in known:
        raise ConfigError(
            f"'{name}' is no target: give {FORMS}, a name that a space has ({', '.join(sorted(known))}), or "
            "the best of a search with --top K --search SEARCH."
        )
    if len(known[name]) > 1:
        several = ", ".join(reference.space for reference in known[name])
        raise ConfigError(f"'{name}' is an architecture of several spaces: {several}.")
    return known[name][0]
