"""The scheduler that a search's settings name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.controller import Controller
from nas.errors import ConfigError
from nas.schedulers.asha import Asha
from nas.schedulers.curves import Curves
from nas.schedulers.halving import Halving
from nas.schedulers.median import Median
from nas.schedulers.promotion import Promotion
from nas.schedulers.settings import Scheduler
from nas.schedulers.stopping import Stopper
from nas.space import Space
from nas.tables.learning_curves import learning_curves


def promoting(
    scheduler: Scheduler, controller: Controller, space: Space[Any], lengths: tuple[int, ...]
) -> Controller:
    """Return a scheduler that promotes through these lengths of training, around a controller."""
    if scheduler.name == "promotion":
        return Promotion(controller, space, lengths, scheduler.eta)
    return Halving(controller, space, lengths, scheduler.eta, hyperband=scheduler.name == "hyperband")


def stopping(scheduler: Scheduler, rungs: tuple[int, ...], whole: int) -> Stopper | None:
    """Return a scheduler that stops trials at these rungs of a whole training; None: it promotes.

    Raises:
        NotFound: its table is not there.
        ConfigError: the table cannot be read, or lacks a rung.
    """
    if scheduler.promotes:
        return None
    if scheduler.name == "median":
        return Median(whole, rungs)
    if scheduler.name == "curves":
        return Curves(scheduler.threshold, whole, rungs, _earlier(scheduler, (*rungs, whole)))
    return Asha(scheduler.eta, whole, rungs)


def _earlier(scheduler: Scheduler, lengths: tuple[int, ...]) -> list[dict[int, float]]:
    """Return the scores of earlier trainings by these lengths."""
    if scheduler.table is None or scheduler.metric is None:
        return []
    if lacking := [str(length) for length in lengths if length not in scheduler.metric]:
        raise ConfigError(
            f"scheduler.metric: it has no column for training lengths {', '.join(lacking)}; trials are "
            f"judged after {', '.join(map(str, lengths))} training episodes. Name these, or choose other "
            "rungs by scheduler.minimum and scheduler.eta."
        )
    return learning_curves(Path(scheduler.table), {length: scheduler.metric[length] for length in lengths})
