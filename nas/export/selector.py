"""Which of a network's evaluations is meant, and how to tell them apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from nas.settings.paths import flat
from nas.states import EvaluationState
from nas.storage.schema import Evaluation


@dataclass(frozen=True, slots=True)
class Selector:
    """Which of a network's evaluations is meant.

    Attributes:
        tasks, learner: names of plugins.
        settings: begins the hash of the settings.
        seed: of the training; by default the one with the best score on validation tasks.
    """

    tasks: str | None = None
    learner: str | None = None
    settings: str | None = None
    seed: int | None = None

    def matches(self, row: Evaluation) -> bool:
        """Return whether an evaluation has the tasks, the learner and the settings; its seed may differ."""
        return (
            self.tasks in (None, row.tasks)
            and self.learner in (None, row.learner)
            and row.settings.startswith(self.settings or "")
        )


def grouped(rows: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """Return evaluations by the line that tells their settings: how to choose them, and where they differ."""
    groups: dict[str, list[Evaluation]] = {}
    for row in rows:
        groups.setdefault(row.settings, []).append(row)
    values = {settings: flat(group[0].config) for settings, group in groups.items()}
    different = [
        key
        for key in dict.fromkeys(key for own in values.values() for key in own)
        if len({json.dumps(own.get(key)) for own in values.values()}) > 1
    ]
    lines = {}
    for settings, group in groups.items():
        own = " ".join(f"{key}={values[settings][key]}" for key in different if key in values[settings])
        what = f"  --settings {settings[:8]}  {group[0].task_label}, {group[0].learner}  {own}"
        lines[what.rstrip()] = group
    return lines


def listed(rows: Sequence[Evaluation]) -> str:
    """Return a line for each group under the same settings; it says if none of the group is completed."""
    return "\n".join(
        line if any(row.state == EvaluationState.COMPLETED for row in group) else f"{line} (none completed)"
        for line, group in grouped(rows).items()
    )
