"""A recurrent policy over the decisions of a space, and the losses that policy gradients descend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from nas.space import Decision

INITIAL = 0.08
"""Weights begin uniformly in ± this (Zoph & Le 2017, §4.1)."""

NEVER = -1e9
"""Logit of a choice that a decision does not have: its probability is exactly 0, its gradient finite."""


@final
class Policy(nn.Module):
    """An LSTM that makes one decision a step and reads its own choices (Zoph & Le 2017, §3.1).

    Step t reads an embedding of choice t − 1 and has a softmax of its own. To the logit of a choice with
    anchors it adds the mean over them of `v·tanh(W_prev h_anchor + W_curr h_t)`, so that it sees what it
    decided about the parts that the choice takes as input (§3.3; Pham et al. 2018, §2.3).

    It is small, computes in float64 on the CPU, and draws only from the generators that it is given.

    Args:
        decisions: of the space, in order.
        rng: draws the weights.
        hidden: size of the LSTM's state and of the embeddings.
    """

    def __init__(self, decisions: Sequence[Decision], rng: np.random.Generator, hidden: int = 32) -> None:
        super().__init__()
        self._sizes = tuple(len(decision.choices) for decision in decisions)
        steps, widest = len(self._sizes), max(self._sizes)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.from_numpy(rng.uniform(-INITIAL, INITIAL, shape)))

        self.embedding = weight(steps, widest, hidden)
        """By step: of the choice made before it. That of the first step has only row 0, the start."""
        self.input, self.recurrent = weight(4 * hidden, hidden), weight(4 * hidden, hidden)
        self.head, self.bias = weight(steps, widest, hidden), weight(steps, widest)
        self._absent: Tensor
        self.register_buffer("_absent", self._absences(), persistent=False)
        terms = [
            (step, choice, anchor, 1 / len(anchors))
            for step, decision in enumerate(decisions)
            for choice, anchors in enumerate(decision.anchors)
            for anchor in anchors
        ]
        self._terms = tuple(tuple(term for term in terms if term[0] == step) for step in range(steps))
        if terms:
            self.previous, self.current = weight(hidden, hidden), weight(hidden, hidden)
            self.attention = weight(hidden)

    def _absences(self) -> Tensor:
        """Return what to add to all logits, `[steps, widest]`: 0, or `NEVER` where there is no choice."""
        absences = self.bias.new_zeros(self.bias.shape)
        for step, size in enumerate(self._sizes):
            absences[step, size:] = NEVER
        return absences

    def sample(self, rng: np.random.Generator) -> tuple[int, ...]:
        """Draw a choice for every decision, with one uniform number each."""

        def draw(probabilities: np.ndarray[tuple[int], np.dtype[np.float64]]) -> int:
            ends = probabilities.cumsum()
            return min(int(ends.searchsorted(rng.random() * ends[-1], side="right")), len(ends) - 1)

        return self._generate(draw)

    def greedy(self) -> tuple[int, ...]:
        """Return the choices that are the likeliest, one decision after another."""
        return self._generate(lambda probabilities: int(probabilities.argmax()))

    @torch.no_grad()
    def _generate(
        self, choose: Callable[[np.ndarray[tuple[int], np.dtype[np.float64]]], int]
    ) -> tuple[int, ...]:
        choices: list[int] = []
        state = self.input.new_zeros(1, self.recurrent.shape[1])
        memory, states = state, list[Tensor]()
        for step, size in enumerate(self._sizes):
            x = self.embedding[step, choices[-1] if choices else 0].unsqueeze(0)
            state, memory = torch.lstm_cell(x, (state, memory), self.input, self.recurrent)
            states.append(state)
            logits = (self.head[step] @ state[0] + self.bias[step]).unsqueeze(0)
            if self._terms[step]:
                logits = self._attend(logits.unsqueeze(1), torch.stack(states, 1), [step])[:, 0]
            choices.append(choose(logits[0, :size].softmax(0).numpy()))
        return tuple(choices)

    def logits(self, choices: Tensor) -> Tensor:
        """Return the logits of each decision after the choices before it.

        Args:
            choices: `[B, decisions]`, integers.

        Returns:
            `[B, decisions, widest]`; where a decision has fewer choices than the widest, `NEVER`.
        """
        batch, steps = choices.shape
        before = torch.cat([choices.new_zeros(batch, 1), choices[:, :-1]], 1)
        x = self.embedding[torch.arange(steps), before]
        zero = self.input.new_zeros(1, batch, self.recurrent.shape[1])
        weights: list[Tensor] = [self.input, self.recurrent]
        states, _, _ = torch.lstm(x, (zero, zero), weights, False, 1, 0.0, False, False, True)
        logits = torch.einsum("bth,tch->btc", states, self.head) + self.bias
        if any(self._terms):
            logits = self._attend(logits, states, range(steps))
        return logits + self._absent

    def _attend(self, logits: Tensor, states: Tensor, steps: Sequence[int]) -> Tensor:
        """Add the attention to logits `[B, len(steps), widest]` of these steps; states `[B, T, hidden]`."""
        terms = [(row, *term) for row, step in enumerate(steps) for term in self._terms[step]]
        rows, now, choice, anchor, share = zip(*terms, strict=True)
        previous, current = states @ self.previous.T, states @ self.current.T
        scores = (previous[:, list(anchor)] + current[:, list(now)]).tanh() @ self.attention
        places = torch.tensor(rows) * logits.shape[2] + torch.tensor(choice)
        shares = torch.tensor(share, dtype=scores.dtype)
        return logits.flatten(1).index_add(1, places, scores * shares).view_as(logits)

    def log_prob(self, choices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of architectures and the entropies on their way, with a graph.

        Args:
            choices: `[B, decisions]`, integers.

        Returns:
            `[B]`, and `[B]`: the entropies of all decisions, each given the choices before it, added up. Its
            expectation over the policy is the entropy of the policy. In nats.
        """
        logs = self.logits(choices).log_softmax(2)
        chosen = logs.gather(2, choices.unsqueeze(2)).squeeze(2)
        return chosen.sum(1), -(logs.exp() * logs).sum((1, 2))


def reinforce(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """Return the loss whose gradient estimates that of minus the expected reward (Williams 1992).

    Args:
        log_prob: `[B]`, with a graph, of what was drawn from the policy.
        advantage: `[B]`, the reward less a baseline that does not depend on the draw.
    """
    return -(advantage * log_prob).mean()


def ppo(log_prob: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return minus the clipped surrogate (Schulman et al. 2017, eq. 7).

    Args:
        log_prob: `[B]`, with a graph.
        old: `[B]`, under the policy that the batch counts as drawn from.
        advantage: `[B]`.
        clip: ε, how far the ratio of probabilities may profit from leaving 1.
    """
    ratio = (log_prob - old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()
