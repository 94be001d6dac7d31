"""The protocol of scores: what they depend on besides network, seed and kind of machine, by path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.settings.paths import flat
from nas.storage.schema import Evaluation, Search

TRAINED = ("resources.precision", "resources.cpus")
"""What a trained score depends on besides, and one that is looked up does not."""

PROTOCOL = ("tasks", "learner", "evaluator", "budget", *TRAINED)
"""Where settings begin that scores depend on; `cpus` are a trial's threads."""


def settings(example: Search | Evaluation) -> dict[str, Any]:
    """Return what the scores of a search or an evaluation depend on: settings by their path, and the data.

    The precision is what `auto` was where it began. Settings that a search chose along with the network are
    as in its own sections.
    """
    base = example.config.get("base", {})
    config = {**example.config, **{kind: _own(example.config[kind], own) for kind, own in base.items()}}
    found = {path: value for path, value in flat(config).items() if path.startswith(PROTOCOL)}
    known = example.environment
    found |= {"precision": known.get("precision", example.config.get("precision"))}
    return found | {f"data of {split}": value for split, value in known.get("classes", {}).items()}


def _own(section: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section without what was chosen; a plugin that was chosen filled a slot at its default."""
    filled = {key for key in base if isinstance(section.get(key), Mapping)}
    return {key: value for key, value in {**section, **base}.items() if key not in filled}
