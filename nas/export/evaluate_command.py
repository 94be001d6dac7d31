"""The `nas evaluate` command that trains what there is no model of."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas import plugins
from nas.settings.evaluation import FullBudget
from nas.settings.run_command import chosen, text
from nas.settings.sections import BASES
from nas.storage.schema import Evaluation


@dataclass(frozen=True, slots=True)
class EvaluateCommand:
    """`nas evaluate` of one target, quoted for a POSIX shell.

    Attributes:
        target: as the user named it.
        inherited: sections that a trial takes from its search; none for an architecture of a space.
        options: of `nas evaluate`, quoted: the folder of its files.
    """

    target: str
    inherited: Mapping[str, Any]
    options: str

    def first(self, tasks: str | None, learner: str | None, seed: int | None) -> str:
        """Return the command for tasks and a learner given by name; what is not known is in capitals.

        Raises:
            ConfigError: there is no such plugin.
        """
        words, settings = [], []
        for kind, name in (("tasks", tasks), ("learner", learner)):
            own = (self.inherited.get(kind) or {}).get("name")
            if name not in (None, own):
                words += [f"--{kind}", str(name)]
                fields = plugins.settings(plugins.load(kind, str(name), BASES[kind]))
                required = [key for key, field in fields.items() if field.is_required()]
                settings += [word for key in required for word in ("--set", f"{kind}.{key}={key.upper()}")]
            elif own is None:
                words += [f"--{kind}", kind.upper()]
        return self._joined(words + settings + ([] if seed is None else ["--seeds", str(seed + 1)]))

    def again(self, row: Evaluation, seeds: int) -> str:
        """Return the command for the settings of an evaluation, with `seeds` seeds.

        Raises:
            ConfigError: a plugin is not installed, or has changed.
        """
        words, settings = [], dict[str, Any]()
        for kind in ("space", "tasks", "learner"):
            section, own = row.config[kind], self.inherited.get(kind) or {}
            if section["name"] == own.get("name"):
                changed = {key: value for key, value in section.items() if own.get(key) != value}
                slots = plugins.slots(plugins.load(kind, section["name"], BASES[kind]))
                changed |= {key: slots[key][1].name for key in slots if key in own and key not in section}
            else:
                changed = chosen(kind, section)
                words += [] if kind == "space" else [f"--{kind}", section["name"]]
            settings |= {f"{kind}.{key}": value for key, value in changed.items()}
        if row.config["precision"] != self.inherited.get("precision"):
            settings["precision"] = row.config["precision"]
        usual = FullBudget().model_dump()
        for key, value in row.config["budget"].items():
            if value != usual.get(key):
                words += [f"--{key.replace('_', '-')}", str(value)]
        for path, value in settings.items():
            words += ["--set", f"{path}={text(value)}"]
        return self._joined([*words, "--seeds", str(seeds)])

    def _joined(self, words: list[str]) -> str:
        return shlex.join(["nas", "evaluate", self.target, *words]) + self.options
