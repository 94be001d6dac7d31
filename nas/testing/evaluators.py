"""An evaluator that trains nothing: it scores at once, and fails where it is told to."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Annotated, Literal, final

from pydantic import Field

from nas.controller import Measurement, Outcome, Score
from nas.errors import Diverged, Infeasible
from nas.evaluator import Context, Evaluator, Job
from nas.states import TrialState

Fault = Literal["diverge", "infeasible", "kill", "memory", "raise"]


@final
class Scripted(Evaluator):
    """Scores an architecture by a hash of its canonical key, in [0, 1): equal networks, equal scores.

    Under a further seed the score is up to 0.05 more or less.

    Name it `nas.testing.evaluators:Scripted` to test a search, an executor or a set-up without training.
    """

    def __init__(
        self,
        context: Context,
        *,
        faults: Annotated[
            dict[int, Fault] | None, Field(description="what goes wrong, by trial number")
        ] = None,
        once: Annotated[bool, Field(description="whether only the first attempt fails")] = False,
        seconds: Annotated[float, Field(ge=0, description="time that one trial takes")] = 0.0,
        prints: Annotated[str, Field(description="what each trial prints")] = "",
    ) -> None:
        self._context = context
        self._faults = faults or {}
        self._once = once
        self._seconds, self._prints = seconds, prints

    def evaluate(self, job: Job) -> Iterator[Outcome]:
        """Yield a score at every rung, growing with the budget, then the score itself."""
        if self._prints:
            print(self._prints)  # noqa: T201
        if self._seconds:  # a sleep of 0 takes 60 µs, and gives the core away
            time.sleep(self._seconds)
        if job.number in self._faults and not (self._once and job.attempt):
            fail(self._faults[job.number])
        key = self._context.space.canonical(job.architecture)
        value = _share(key)
        if job.repeat:
            value += (_share(f"{key} {job.repeat}") - 0.5) / 10
        budget = self._context.budget.train_episodes
        whole = job.episodes or budget
        for episodes in (*(rung for rung in self._context.rungs if rung < whole), whole):
            score = Score(value * episodes / budget, 0.01, 100, "scripted/validation", "none", "transductive")
            yield Outcome(
                TrialState.COMPLETED if episodes == whole else TrialState.RUNNING,
                job.architecture,
                score,
                episodes,
                self._seconds,
                measurements=(Measurement(episodes, "score", score.value),),
            )


def fail(fault: Fault | None) -> None:
    """Go wrong as the script says; None: do not."""
    match fault:
        case "diverge":
            raise Diverged("The training loss is nan after 1 training episodes.")
        case "infeasible":
            raise Infeasible("No network has so many layers.")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "memory":
            raise MemoryError("cannot allocate 10 TiB")
        case "raise":
            raise RuntimeError("as the script says")


def _share(text: str) -> float:
    """Return a hash in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
