"""What a search trains whose trials are of several lengths: who decides is asked, and nothing trained."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nas.controller import Controller, Evaluate, Outcome, Score
from nas.settings.search import SearchConfig
from nas.settings.sections import maker
from nas.space import Space
from nas.states import TrialState
from nas.training.provenance import proposal_rng


class Pace(NamedTuple):
    """About how fast trials are.

    Attributes:
        fixed: seconds of a trial besides its training.
        each: seconds of a training episode.
        step: training episodes of a step, where a longer training goes on from a shorter one; 0: each begins
            anew.
    """

    fixed: float
    each: float
    step: int = 0

    def seconds(self, episodes: int) -> float:
        """Return how long a trial takes that trains for so many episodes."""
        return self.fixed + self.each * episodes


class Planned(NamedTuple):
    """One trial to come.

    Attributes:
        length: training episodes behind its score.
        episodes: those that it trains itself.
        begins, ends: in seconds since the search began.
    """

    length: int
    episodes: int
    begins: float
    ends: float


class _Drawn(Controller):
    """Proposes at random, and learns nothing."""

    def __init__(self, space: Space[Any], seed: int) -> None:
        self._space = space

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        return Evaluate(self._space.sample(rng))

    def observe(self, number: int, outcome: Outcome) -> None: ...


def planned(config: SearchConfig, space: Space[Any], pace: Pace) -> list[Planned]:
    """Return the trials of a search whose trials are of several lengths, in the order begun.

    Scores are drawn at random, and so are candidates where a scheduler promotes. Whom `promotion` promotes,
    and when, depends on the order of scores; how many are promoted hardly does.
    """
    controller, trials = _deciding(config, space)
    chance = np.random.default_rng(config.seed)
    scores: dict[str, float] = {}
    lengths: dict[str, int] = {}
    found, going, now = list[Planned](), list[tuple[float, int, Evaluate]](), 0.0
    while True:
        while len(found) < trials and len(going) < config.workers:
            pending = [evaluation for *_, evaluation in sorted(going, key=lambda one: one[1])]
            number = len(found)
            proposal = controller.propose(number, pending, proposal_rng(config.seed, number))
            if not isinstance(proposal, Evaluate):
                break
            key = space.canonical(proposal.architecture)
            length = proposal.episodes or config.budget.train_episodes
            if proposal.parent is not None:
                episodes = length - found[proposal.parent].length
            else:
                before = lengths.get(key, 0) if pace.step and length > lengths.get(key, 0) else 0
                episodes = length - (before - before % pace.step if before else 0)
                lengths[key] = length
            trial = Planned(length, episodes, now, now + pace.seconds(episodes))
            heapq.heappush(going, (trial.ends, number, proposal))
            found.append(trial)
        if not going:
            return found
        now, number, done = heapq.heappop(going)
        value = scores.setdefault(space.canonical(done.architecture), float(chance.random()))
        controller.observe(
            number,
            Outcome(
                TrialState.COMPLETED if done.episodes is None else TrialState.PAUSED,
                done.architecture,
                Score(value, 0.0, 1),
                train_episodes=found[number].length,
                episodes=done.episodes,
                parent=done.parent,
            ),
        )


def _deciding(config: SearchConfig, space: Space[Any]) -> tuple[Controller, int]:
    """Return who decides how long each trial is, and how many there are at most."""
    if config.promotes:
        return config.promoting(_Drawn(space, config.seed), space), config.trials
    controller: Controller = maker("controller", config.controller)(space, config.seed)
    return controller, controller.plan(config.budget.train_episodes) or config.trials
