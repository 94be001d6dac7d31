"""Names of searches: new ones, and the one that a reference means."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import chain, count

from nas.errors import ConfigError, NotFound, nearest

LONGEST = 128
"""Characters of a name. A file's name has 255 bytes at most; that of a checkpoint being written adds 70."""

_ROOM = 12
"""What `free` may add."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def checked(name: str) -> str:
    """Return the name if it can be one: `nas show NAME/TRIAL` and `@last` have to stay readable.

    Raises:
        ConfigError: it cannot.
    """
    if len(name) > LONGEST:
        raise ConfigError(
            f"name: '{name[:16]}…' has {len(name)} characters; allowed: at most {LONGEST}, since files are "
            "named after it."
        )
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"name: '{name}' is no name of a search; allowed: letters, digits, '.', '_' and '-', the first a "
            "letter or digit."
        )
    return name


def default(*parts: str) -> str:
    """Join plugin names into the name of a search; what a name cannot hold becomes a dash, or is cut off."""
    name = re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(parts)).lstrip("-._")
    return name[: LONGEST - _ROOM] or "search"


def free(base: str, taken: Collection[str]) -> str:
    """Return `base`, or else the first of `base-2`, `base-3`… that is not taken."""
    names = chain([base], (f"{base}-{n}" for n in count(2)))
    return next(name for name in names if name not in taken)


def match(reference: str, names: Collection[str]) -> str:
    """Return the name that is the reference, or the only one that begins with it.

    Raises:
        NotFound: none does.
        ConfigError: several do.
    """
    if reference in names:
        return reference
    matches = sorted(name for name in names if reference and name.startswith(reference))
    search, slash, _ = reference.partition("/")
    if slash and not matches:
        raise NotFound(
            f"'{reference}' is a trial, and this takes a whole search: '{search}'. `nas show {reference}` "
            "shows the trial."
        )
    if not matches:
        raise NotFound(
            f"No search '{reference}'.{nearest(reference, ['@last', *names])} List them with `nas ls`."
        )
    if len(matches) > 1:
        raise ConfigError(f"'{reference}' begins the names of several searches: {', '.join(matches)}.")
    return matches[0]
