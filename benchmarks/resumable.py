"""Runs that are kept in a JSON file as they end, so that a script goes on where it was stopped."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.files import replacing
from nas.intervals import half_width_over_episodes, half_width_over_seeds
from nas.tasks.base import TaskSource
from nas.training.loop import Training
from nas.training.provenance import environment


class Runs:
    """The runs of a script, by key.

    Args:
        parser: to end with, where the file holds runs of other settings.
        file: of the runs; made, if it is not there.
        settings: what all of its runs have in common.
        command: that writes the page.
    """

    def __init__(
        self, parser: argparse.ArgumentParser, file: Path, settings: Mapping[str, Any], command: str
    ) -> None:
        self._file = file
        self.report: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": {}}
        if self.report.setdefault("settings", dict(settings)) != dict(settings):
            parser.error(
                f"{file} holds runs of {self.report['settings']}; give another -o, or these settings"
            )
        self.report |= {"command": command, "environment": environment()}

    def __getitem__(self, key: str) -> Any:
        return self.report["runs"][key]

    def __contains__(self, key: str) -> bool:
        return key in self.report["runs"]

    def once(self, key: str, run: Callable[[], Any]) -> Any:
        """Return what a run found; it is made only where the file does not hold it."""
        if key not in self:
            self.report["runs"][key] = run()
            print(key, flush=True)
            self.save()
        return self[key]

    def save(self) -> None:
        with replacing(self._file) as temporary:
            temporary.write_text(json.dumps(self.report, indent=1) + "\n")


def trained(config: Any, architecture: str, episodes: int, seed: int) -> tuple[Training, TaskSource]:
    """Train a learner to the end of its budget; return the training and its tasks.

    Args:
        config: an `EvaluationConfig`.
        architecture: of its space.
        episodes: the budget.
        seed: of the weights and of the training tasks.
    """
    from nas.training.loop import start

    space, tasks = config.make_space(), config.make_tasks()
    training = start(
        space, space.decode(architecture), tasks, config.make_learner, config.precision, episodes, seed
    )
    for _ in training.until(episodes):
        pass
    return training, tasks


def cell(scores: Sequence[Sequence[float]], factor: float = 1.0, digits: int = 1) -> str:
    """Return the mean of scores `[seeds][episodes]` with half of its 95 % interval, over episodes and seeds.

    Episodes are the same for all seeds, and averaged over them first.
    """
    found = factor * np.array(scores)
    text = f"{found.mean():.{digits}f} ± {half_width_over_episodes(found.mean(0).tolist()):.{digits}f}"
    if len(found) > 1:
        text += f" ± {half_width_over_seeds(found.mean(1).tolist()):.{digits}f}"
    return text
