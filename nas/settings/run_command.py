"""The command that would run a search again, with another controller."""

from __future__ import annotations

import json
import math
import shlex
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from nas import plugins
from nas.errors import PluginError, UnknownName
from nas.settings.paths import assign, flat
from nas.settings.search import SearchConfig
from nas.settings.sections import BASES

if TYPE_CHECKING:
    from nas.storage.schema import Search

MANY = 10_000
"""Trials that no search with a limit of time comes to."""


def like(search: Search, controller: str, cost: float | None = None) -> str:
    """Return the `nas run` command of a search like this one, with another controller's defaults.

    It is quoted for a POSIX shell, and gives the same configuration but for the search's name, for what it
    chooses its trials by beforehand, and for its length, where that is to be something else than the number
    of trials.

    Args:
        search: a search as it is now: its number of trials may have grown since it began.
        controller: in place of its own.
        cost: worker seconds that the new search may take, in place of a number of trials.
    """
    config = search.config | {"trials": search.trials}
    if cost is not None:
        config |= {"trials": MANY, "max_seconds": math.ceil(cost)}
    words = ["nas", "run"]
    settings: dict[str, Any] = {}
    for kind in BASES:
        section = config.get(kind)
        if kind == "controller":
            words.append(f"--controller={controller}")
        elif section is not None:
            words.append(f"--{kind}={section['name']}")
            settings |= {f"{kind}.{key}": value for key, value in chosen(kind, section).items()}
    for key, field in SearchConfig.model_fields.items():
        if key in (*BASES, "name", "prescreen") or key not in config:
            continue
        default = field.get_default(call_default_factory=True)
        usual = flat({key: default.model_dump(mode="json") if isinstance(default, BaseModel) else default})
        own = flat({key: config.get(key)})
        # What `nas run` takes for these by default depends on the machine and on the evaluator.
        settings |= {k: v for k, v in own.items() if k in ("executor", "workers") or usual.get(k) != v}
    words += [f"--set={path}={text(value)}" for path, value in sorted(settings.items())]
    return shlex.join(words)


def chosen(kind: str, section: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a plugin that are not its defaults; all of them where it cannot be loaded."""
    given = {key: value for key, value in section.items() if key != "name"}
    try:
        cls = plugins.load(kind, section["name"])
    except (PluginError, UnknownName):
        return given
    required = {key: given[key] for key, field in plugins.settings(cls).items() if field.is_required()}
    usual = plugins.resolve(cls, required, kind)
    return {key: value for key, value in given.items() if key in required or usual.get(key) != value}


def text(value: Any) -> str:
    """Return a value as `--set` reads it: a string bare where that is not taken for something else."""
    if isinstance(value, str):
        read: dict[str, Any] = {}
        assign(read, f"value={value}")
        if read == {"value": value}:
            return value
    return json.dumps(value)
