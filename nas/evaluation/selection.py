"""Early stopping: the weights that were best on validation tasks, and when to give up looking for better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from nas.controller import Measurement, Score
from nas.metrics import VALIDATION_SCORE


class Selection:
    """The best weights so far by validation score, and the learning curve.

    Attributes:
        score: of the best weights; None before the first validation.
        episodes: training episodes behind them.
        weights: the learner's `state_dict` then.
        validated: training episodes at the last validation.

    Args:
        patience: validations in a row without a better score that end training; 0 for no end.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self.score: Score | None = None
        self.episodes = 0
        self.weights: Mapping[str, torch.Tensor] = {}
        self.validated = 0
        self._stale = 0
        self._curve: list[tuple[int, str, float]] = []

    @property
    def over(self) -> bool:
        """Whether training should end."""
        return 0 < self._patience <= self._stale

    @property
    def curve(self) -> tuple[Measurement, ...]:
        """What was measured at every validation."""
        return tuple(Measurement(*point) for point in self._curve)

    def observe(
        self,
        done: int,
        losses: Sequence[float],
        score: Score,
        weights: Mapping[str, torch.Tensor],
        told: Mapping[str, float],
    ) -> tuple[Measurement, ...]:
        """Take note of a validation; return what was measured.

        Args:
            done: training episodes so far.
            losses: of the meta-steps since the validation before.
            score: on validation tasks.
            weights: the learner's `state_dict`, a copy.
            told: what else is to be recorded, by metric.
        """
        before = len(self._curve)
        self.validated = done
        self._stale += 1
        if self.score is None or score.value > self.score.value:
            self.score, self.episodes, self.weights, self._stale = score, done, weights, 0
        self._curve.append((done, "train_loss", math.fsum(losses) / len(losses)))
        self._curve.append((done, VALIDATION_SCORE, score.value))
        self._curve += [(done, name, value) for name, value in told.items()]
        return self.curve[before:]

    def state(self) -> dict[str, Any]:
        """Return all of it as plain containers, numbers and tensors."""
        return {
            "score": None if self.score is None else asdict(self.score),
            "episodes": self.episodes,
            "weights": dict(self.weights),
            "validated": self.validated,
            "stale": self._stale,
            "curve": list(self._curve),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.score = None if state["score"] is None else Score(**state["score"])
        self.episodes, self.weights = state["episodes"], state["weights"]
        self.validated, self._stale = state["validated"], state["stale"]
        self._curve = [(step, metric, value) for step, metric, value in state["curve"]]
