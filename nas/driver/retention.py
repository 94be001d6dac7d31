"""Which states of short trainings stay while a search runs: those that are needed, and the best."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple, final

from nas.controller import Outcome
from nas.evaluator import AnyJob, Job
from nas.space import Architecture
from nas.states import TrialState
from nas.training.checkpoint import Checkpoint

SHARE = 4
"""States are looked through once there is one more for each so many that stayed the last time."""


class _State(NamedTuple):
    """What a file holds: a training of so many episodes, and its score."""

    key: str
    episodes: int
    score: float


@final
class Retention:
    """Deletes the states of short trainings that are neither needed nor among the best.

    Those of longer trainings are better than those of shorter ones, then those with a higher score.

    Args:
        keep: how many of the best stay, whether or not they are needed.
        canonical: returns the key of a network.
    """

    def __init__(self, keep: int, canonical: Callable[[Architecture], str]) -> None:
        self._keep, self._canonical = keep, canonical
        self._states: dict[Path, _State] = {}
        self._room = 0

    def add(self, job: AnyJob, outcome: Outcome) -> None:
        """Take note of a trial that was asked to be short, and was."""
        if not isinstance(job, Job) or job.folder is None:
            return
        if outcome.state is TrialState.PAUSED and outcome.score and outcome.architecture:
            key, score = self._canonical(outcome.architecture), outcome.score.value
            self._states[_file(job)] = _State(key, outcome.train_episodes, score)

    @property
    def due(self) -> bool:
        """Whether it is worth while to look."""
        return len(self._states) > max(self._keep, self._room)

    def sweep(self, needed: Collection[str] | None, running: Collection[AnyJob]) -> None:
        """Delete what is not needed.

        Args:
            needed: keys of networks that may be trained longer; None: any may be.
            running: what runs, or waits to run again.

        Raises:
            Unwritable: the folder cannot be written.
        """
        if needed is not None:
            order = sorted(self._states, key=lambda path: self._states[path][1:], reverse=True)
            kept = {*order[: self._keep], *map(_file, running)}
            for path in [*self._states]:
                if path not in kept and self._states[path].key not in needed:
                    Checkpoint(path.parent.parent, path.stem).remove()
                    del self._states[path]
        self._room = len(self._states) + len(self._states) // SHARE


def _file(job: AnyJob) -> Path:
    return Checkpoint(Path(job.folder or "."), job.name).path
