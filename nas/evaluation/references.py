"""How people name what to evaluate: a trial of a search, or an architecture of a space."""

from __future__ import annotations

from dataclasses import dataclass

from nas import plugins
from nas.errors import ConfigError, PluginError
from nas.space import SearchSpace

FORMS = "SEARCH/TRIAL, or SPACE:ARCHITECTURE such as chain:conv4"


@dataclass(frozen=True, slots=True)
class TrialReference:
    """`SEARCH/TRIAL`: the search is a name, a prefix or `@last`."""

    search: str
    number: int


@dataclass(frozen=True, slots=True)
class SpaceReference:
    """`SPACE:ARCHITECTURE`: the architecture is a text of the space, or a name that it has."""

    space: str
    architecture: str


def parse(text: str) -> TrialReference | SpaceReference:
    """Read a target; a bare name such as `conv4` is that of an architecture in an installed space.

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
    known: dict[str, list[str]] = {}
    for plugin in plugins.installed("space").values():
        try:
            space: SearchSpace = plugin.load()()
        except PluginError:
            continue
        for architecture in space.named:
            known.setdefault(architecture, []).append(plugin.name)
    if name not in known:
        raise ConfigError(
            f"'{name}' is no target: give {FORMS}, a name that a space has ({', '.join(sorted(known))}), or "
            "the best of a search with --top K --search SEARCH."
        )
    if len(known[name]) > 1:
        raise ConfigError(f"'{name}' is an architecture of several spaces: {', '.join(known[name])}.")
    return SpaceReference(known[name][0], name)
