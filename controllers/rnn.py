"""A recurrent controller trained by reinforcement."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Literal, final

import numpy as np
import torch
from pydantic import Field

from controllers.policy import Policy, ppo, reinforce
from controllers.threads import one_thread
from nas.controller import Controller, Evaluate, Outcome
from nas.fidelity import standing
from nas.space import Architecture, Space
from nas.states import TrialState

COMPARED = 100
"""Scored outcomes, the latest, that a new score is ranked among."""


@final
class Rnn(Controller):
    """An LSTM policy trained by policy gradients (Zoph & Le 2017, arXiv 1611.01578; Zoph et al. 2018, PPO).

    Each outcome becomes a reward in [0, 1]: the share of the last 100 scores, its own among them, that its
    score beats, ties counting half. So accuracies, percentages and −MSE of any size teach alike, and a
    network that diverged does not drown the rest. What failed or is infeasible has the reward 0, since no
    score is worse; what was reused has the reward of the score that it carries, and an outcome without one
    teaches nothing. A score of a longer training beats one of a shorter (`nas.fidelity`), so that what was
    stopped early has a low reward. The advantage is the reward less a moving average of rewards.

    Every `batch` outcomes the policy takes a step of REINFORCE, or `epochs` steps of PPO's clipped surrogate,
    by Adam, with the entropy of its decisions as a bonus. The defaults suit a hundred trials; the published
    rates (0.0006 and 0.00035) belong to thousands.

    With several workers an outcome may belong to a proposal of older weights. It counts as drawn from the
    policy that it updates. What is learned is a function of the seed and the observed outcomes alone, so that
    a resume gives the same weights to the bit.
    """

    def __init__(
        self,
        space: Space[object],
        seed: int,
        *,
        algorithm: Annotated[
            Literal["reinforce", "ppo"], Field(description="the policy gradient")
        ] = "reinforce",
        batch: Annotated[
            int | None,
            Field(ge=1, description="outcomes of an update; by default 1, as they arrive, and 10 with ppo"),
        ] = None,
        rate: Annotated[float, Field(gt=0, description="learning rate of Adam")] = 0.01,
        entropy: Annotated[float, Field(ge=0, description="weight of the entropy bonus, per nat")] = 0.03,
        decay: Annotated[
            float, Field(ge=0, lt=1, description="weight that the moving baseline keeps at each reward")
        ] = 0.9,
        hidden: Annotated[int, Field(ge=1, description="size of the LSTM's state")] = 32,
        clip: Annotated[float, Field(gt=0, lt=1, description="ε of PPO: how far a ratio may profit")] = 0.2,
        epochs: Annotated[int, Field(ge=1, description="steps of PPO on each batch")] = 4,
    ) -> None:
        self._space = space
        self._policy = Policy(space.decisions, np.random.default_rng(seed), hidden)
        self._adam = torch.optim.Adam(self._policy.parameters(), rate, fused=True)
        self._algorithm, self._entropy, self._decay = algorithm, entropy, decay
        self._batch = batch or {"reinforce": 1, "ppo": 10}[algorithm]
        self._clip, self._epochs = clip, epochs
        self._scores: deque[tuple[int, float]] = deque(maxlen=COMPARED)
        self._baseline = 0.5
        self._waiting: list[tuple[tuple[int, ...], float]] = []

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        """Propose a draw from the policy."""
        with one_thread():
            return Evaluate(Architecture(self._space.name, self._policy.sample(rng)))

    def observe(self, number: int, outcome: Outcome) -> None:
        """Turn an outcome into a reward, and step the policy once a batch is full."""
        reward = self._reward(outcome)
        if reward is None or outcome.architecture is None:
            return
        self._waiting.append((outcome.architecture.choices, reward - self._baseline))
        self._baseline += (1 - self._decay) * (reward - self._baseline)
        if len(self._waiting) == self._batch:
            with one_thread():
                self._update()
            self._waiting.clear()

    def _reward(self, outcome: Outcome) -> float | None:
        if outcome.state in (TrialState.FAILED, TrialState.INFEASIBLE):
            return 0.0
        if outcome.score is None or math.isnan(outcome.score.value):
            return None
        value = standing(outcome)
        self._scores.append(value)
        ranked = sorted(self._scores)
        return (bisect_left(ranked, value) + bisect_right(ranked, value)) / 2 / len(ranked)

    def _update(self) -> None:
        drawn, advantages = zip(*self._waiting, strict=True)
        choices, advantage = torch.tensor(drawn), torch.tensor(advantages, dtype=torch.float64)
        old = None
        for _ in range(self._epochs if self._algorithm == "ppo" else 1):
            log_prob, entropy = self._policy.log_prob(choices)
            if self._algorithm == "ppo":
                old = log_prob.detach() if old is None else old
                loss = ppo(log_prob, old, advantage, self._clip)
            else:
                loss = reinforce(log_prob, advantage)
            self._adam.zero_grad()
            (loss - self._entropy * entropy.mean()).backward()  # type: ignore[no-untyped-call]
            self._adam.step()
