"""ENAS: a recurrent policy whose children share their weights (Pham et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, final

import torch
from pydantic import Field
from torch import Tensor, nn

from controllers.derivation import best_sampled
from controllers.one_shot import OneShot, descend
from controllers.policy import Policy, reinforce
from controllers.relaxation import skips
from nas.backbone import BackboneSpace
from nas.controller import Derived
from nas.metrics import SKIPS
from nas.space import Architecture
from nas.strategy import Batches, Epoch, MixtureLoss, Strategy
from nas.supernet import Relaxation

WeightSteps = Annotated[int, Field(ge=1, description="steps of the weights before the policy's turn")]
PolicySteps = Annotated[int, Field(ge=1, description="steps of the policy before the weights' turn")]
Children = Annotated[int, Field(ge=2, description="architectures behind a step of the policy")]
Rate = Annotated[float, Field(gt=0, description="learning rate of the policy, by Adam")]
Entropy = Annotated[float, Field(ge=0, description="weight of the entropy bonus, per nat")]
Hidden = Annotated[int, Field(ge=1, description="size of the policy's state")]
Samples = Annotated[
    int, Field(ge=1, description="architectures drawn at the end, of which the best are derived")
]


@final
class SharedChildren(Strategy):
    """ENAS (Pham et al. 2018, arXiv 1802.03268, §2.2): a policy draws children of a supernet, in two phases.

    For `weight_steps` steps the weights learn by the inner batches, each along one child drawn from the
    policy; then for `policy_steps` steps the policy learns by REINFORCE from `children` children on an outer
    batch, and so on in turn. The reward is minus the loss with the shared weights, plus the policy's entropy.

    The baseline of a child is the mean reward of the other children on the same batch.

    It derives the children that score best with the shared weights, among `samples`. Where these are too
    much alike, children that differ in one decision are drawn, too.
    """

    taken: Tensor

    def __init__(
        self,
        space: BackboneSpace,
        relaxation: Relaxation,
        seed: int,
        *,
        weight_steps: WeightSteps = 20,
        policy_steps: PolicySteps = 5,
        children: Children = 10,
        rate: Rate = 0.01,
        entropy: Entropy = 0.001,
        hidden: Hidden = 32,
        samples: Samples = 100,
    ) -> None:
        super().__init__(space, relaxation, seed)
        self.learned = LearnedPolicy(Policy(space.decisions, self.rng, hidden), rate, entropy)
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))
        self._phases, self._children, self._samples = (weight_steps, policy_steps), children, samples

    def step(self, batches: Batches, optimizer: torch.optim.Optimizer, progress: float) -> float:
        """Step the weights along a child, or the policy by the losses of several, whosever turn it is.

        The loss returned is the child's, on the inner batch, or the mean of the children's on the outer one.
        """
        weights_turn = int(self.taken) % sum(self._phases) < self._phases[0]
        self.taken += 1
        if weights_turn:
            return descend(batches.inner(self.relaxation.mixture_of(self._draw())), optimizer)
        return self._teach(batches.outer)

    def _teach(self, loss: MixtureLoss) -> float:
        children = [self._draw() for _ in range(self._children)]
        with torch.no_grad():
            losses = [float(loss(self.relaxation.mixture_of(child))) for child in children]
        pairs = [(c.choices, -x) for c, x in zip(children, losses, strict=True) if math.isfinite(x)]
        if len(pairs) < 2:
            return math.nan
        choices, rewards = (torch.tensor(values) for values in zip(*pairs, strict=True))
        self.learned.step(choices, rewards.double())
        return -float(rewards.mean())

    def _draw(self) -> Architecture:
        return Architecture(self.space.name, self.learned.policy.sample(self.rng))

    def _greedy(self) -> Architecture:
        return Architecture(self.space.name, self.learned.policy.greedy())

    def mixture(self) -> list[Tensor]:
        """Return the path of the policy's likeliest choices."""
        return self.relaxation.mixture_of(self._greedy())

    def end_epoch(self, batches: Batches) -> Epoch:
        """Return the policy's entropy, a decision's on average, and the skip connections of its mode."""
        choices = torch.tensor([self._draw().choices for _ in range(self._children)])
        with torch.no_grad():
            _, entropies = self.learned.policy.log_prob(choices)
        entropy, greedy = float(entropies.mean()) / len(self.space.decisions), self._greedy()
        return Epoch(greedy, {"policy_entropy": entropy, SKIPS: float(skips(self.space, greedy))})

    def derive(self, number: int, score: Callable[[Architecture], float]) -> Sequence[Derived]:
        """Return the best of `samples` children."""
        return best_sampled(self.space, self._draw, self._samples, number, score, self._mutant)

    def _mutant(self) -> Architecture:
        return self.space.mutate(self._draw(), self.rng)


@final
class Enas(OneShot):
    """Trains a supernet by ENAS, then evaluates what it derives."""

    strategy = "enas"
    settings_of = SharedChildren


@final
class LearnedPolicy(nn.Module):
    """A policy and the Adam that learns it. Both stay on the CPU, in float64, wherever this module goes."""

    policy: Policy

    def __init__(self, policy: Policy, rate: float, entropy: float) -> None:
        super().__init__()
        self.__dict__["policy"] = policy  # an attribute, but not registered
        self._adam, self._entropy = torch.optim.Adam(policy.parameters(), rate), entropy

    def step(self, choices: Tensor, rewards: Tensor) -> None:
        """Take a step of Adam.

        Args:
            choices: `[B, decisions]`, drawn from the policy, two or more.
            rewards: `[B]`.
        """
        self._adam.zero_grad()
        policy_loss(self.policy, choices, rewards, self._entropy).backward()  # type: ignore[no-untyped-call]
        self._adam.step()

    def get_extra_state(self) -> Any:
        """Return weights and moments, for `state_dict`."""
        return {"policy": self.policy.state_dict(), "adam": self._adam.state_dict()}

    def set_extra_state(self, state: Any) -> None:
        """Restore weights and moments."""
        self.policy.load_state_dict(state["policy"])
        self._adam.load_state_dict(state["adam"])


def policy_loss(policy: Policy, choices: Tensor, rewards: Tensor, entropy: float) -> Tensor:
    """Return the loss whose gradient estimates that of −(expected reward + `entropy` · the policy's entropy).

    The estimate is without bias: draws have the entropy of their decisions in their reward, and as a term of
    the loss, since both the draws and these entropies move with the policy. Each draw's baseline is the mean
    reward of the others (Kool et al. 2019).

    Args:
        policy: what is learned.
        choices: `[B, decisions]`, drawn from it, two or more.
        rewards: `[B]`.
        entropy: weight of the entropy, per nat.
    """
    log_prob, entropies = policy.log_prob(choices)
    returns = rewards + entropy * entropies.detach()
    advantage = (returns - returns.mean()) * len(returns) / (len(returns) - 1)
    return reinforce(log_prob, advantage) - entropy * entropies.mean()
