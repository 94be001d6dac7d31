"""What plug-ins were when a search or an evaluation began, and what to say where they are no longer that.

A search stores architectures as choices of its space's decisions, and settings as its plug-ins declared them.
Both mean something else, or nothing, once the code of a plug-in has changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nas import plugins
from nas.errors import ConfigError, PluginError
from nas.space import Space

Fingerprints = dict[str, Any]
"""By kind of plug-in: `name`, `source` (the file of its class), `settings` (their names), and of a space
`decisions` (`[name, [choices]]`); plain JSON. What fills a slot of a plug-in, or may, is `KIND:NAME`."""


def take(config: Mapping[str, Any], space: Space[Any]) -> Fingerprints:
    """Return what the plug-ins of a configuration are now.

    Args:
        config: its sections by kind; others are passed over.
        space: what it searches, with the decisions of all slots.
    """
    found = {
        kind: _of(kind, section["name"])
        for kind, section in config.items()
        if kind in plugins.GROUPS and section is not None
    }
    found["space"]["decisions"] = decisions(space)
    return found | {f"{kind}:{name}": _of(kind, name) for kind, name in _filling(config)}


def _filling(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the kind and the name of what stands in no section: of all that fills a slot, or may."""
    for section_kind, section in config.items():
        if section_kind not in plugins.GROUPS or section is None:
            continue
        choices = (config.get("slots") or {}).get(section_kind, {})
        for setting, (slot, _) in plugins.slots(plugins.load(section_kind, section["name"])).items():
            own = choices.get(setting, ())
            for value in [section.get(setting), *([own] if isinstance(own, Mapping) else own)]:
                if isinstance(value, Mapping):
                    yield slot.kind, value["name"]
    prescreen = config.get("prescreen") or {}
    for kind, key in (("proxy", "proxy"), ("controller", "supernet")):
        if prescreen.get(key):
            yield kind, prescreen[key]["name"]


def check(recorded: Mapping[str, Any] | None, space: Space[Any], what: str) -> None:
    """Refuse a space under which recorded architectures would be others.

    Args:
        recorded: what `take` returned; None: nothing is known.
        space: as it is now.
        what: the search or evaluation, as a message names it.

    Raises:
        PluginError: its decisions are not those of then.
    """
    then = (recorded or {}).get("space")
    if then is None or then["decisions"] == decisions(space):
        return
    reason = difference(then["decisions"], decisions(space))
    raise _changed("space", then, what, reason, _of("space", then["name"]))


@contextmanager
def explained(recorded: Mapping[str, Any] | None, what: str) -> Iterator[None]:
    """Say of a recorded configuration that is refused which plug-in has changed since.

    Raises:
        PluginError: in place of the ConfigError of one that is gone, or has other settings.
    """
    try:
        yield
    except ConfigError as error:
        for key, then in (recorded or {}).items():
            kind = key.partition(":")[0]
            try:
                now = _of(kind, then["name"])
            except ConfigError as gone:
                reason = f"it cannot be loaded ({gone.__cause__ or str(gone).rstrip('.')})"
                raise _changed(kind, then, what, reason) from error
            if now["settings"] != then["settings"]:
                before, after = (", ".join(each["settings"]) or "none" for each in (then, now))
                reason = f"its settings were {before}, and are {after}"
                raise _changed(kind, then, what, reason, now) from error
        raise


def _of(kind: str, name: str) -> dict[str, Any]:
    cls = plugins.load(kind, name)
    try:
        source = inspect.getsourcefile(cls)
    except TypeError:  # made in an interpreter
        source = None
    return {
        "name": name,
        "source": source,
        "settings": sorted(plugins.settings(cls).keys() - plugins.slots(cls).keys()),
    }


def decisions(space: Space[Any]) -> list[Any]:
    """Return the decisions of a space as JSON: `[name, [choices]]` of each."""
    return [[decision.name, list(decision.choices)] for decision in space.decisions]


def difference(then: list[Any], now: list[Any]) -> str:
    """Return the first difference between two lists of decisions."""
    before, after = dict(then), dict(now)
    for name, choices in before.items():
        if name not in after:
            return f"its decision '{name}' is gone"
        if choices != after[name]:
            had, has = (", ".join(map(str, each)) for each in (choices, after[name]))
            return f"its decision '{name}' had the choices {had}, and has {has}"
    added = [name for name in after if name not in before]
    return f"its decision '{added[0]}' is new" if added else "its decisions are in another order"


def _changed(
    kind: str, then: Mapping[str, Any], what: str, reason: str, now: Mapping[str, Any] | None = None
) -> PluginError:
    source = then["source"] or "an interpreter"
    moved = f"; now it is loaded from {now['source']}" if now and now["source"] != then["source"] else ""
    return PluginError(
        f"The {kind} '{then['name']}' has changed since {what} began: {reason}. It was loaded from "
        f"{source} then{moved}. Bring it back as it was, in this folder or in one on PYTHONPATH, or start "
        "a new search."
    )
