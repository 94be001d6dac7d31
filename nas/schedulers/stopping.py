"""What schedulers that stop trials promise."""

from __future__ import annotations

from typing import Protocol


class Stopper(Protocol):
    """Decides which trials go on, by scores at rungs; a resumed search tells it everything again."""

    def report(self, trial: int, step: int, score: float) -> bool:
        """Record the score of a trial at a rung; return whether it should go on."""

    def record(self, trial: int, step: int, score: float) -> None:
        """Record a score that was judged before."""

    def complete(self, trial: int, score: float) -> None:
        """Record the score of a whole training."""

    def forget(self, trial: int) -> None:
        """Drop the scores of a trial that failed after all."""
