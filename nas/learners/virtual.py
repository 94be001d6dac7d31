"""The virtual step: where weights of examples lead the network, and what clean examples say of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nas.bilevel import Problem, descended, owned
from nas.tasks.base import Episode


@final
class VirtualStep:
    """Judges weights of training examples by clean ones, after a step of gradient descent that they make.

    The step is w′ = w − α ∇ mean(v l(w)), at the rates of the network's optimizer. The pass of the training
    examples at the present weights is made once: it alone moves running averages and torch's generator. Any
    other is made apart, by copies of the averages and, where the network draws random numbers, with the
    same ones.

    Attributes:
        losses: of the training examples `[T, B]`, with a graph to the weights.

    Args:
        module: from an episode to the losses of its queries, one an example.
        episode: training examples.
        clean: as many minibatches of clean ones.
        optimizer: of the network.
    """

    def __init__(
        self, module: nn.Module, episode: Episode, clean: Episode, optimizer: torch.optim.Optimizer
    ) -> None:
        self._module, self._episode, self._clean, self._optimizer = module, episode, clean, optimizer
        self._weights = owned(optimizer, dict(module.named_parameters()))
        device = episode.query_x.device
        self._devices = [device] if device.type == "cuda" else []
        self._chance = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in self._devices]
        self.losses: Tensor = module(episode)

    def __call__(self, weights: Tensor) -> Tensor:
        """Return the gradient of the mean clean loss after the step, in weights `[T, B]` of the examples.

        That of example i is −(α/n) ⟨∇l_i(w), ∇L_clean(w′)⟩.
        """
        leaf = weights.detach().requires_grad_()
        problem = Problem(
            parameters=[leaf],
            read=lambda: [leaf],
            inner=lambda view, moved=None: (view[0] * self._apart(self._episode, moved)).mean(),
            outer=lambda view, moved=None: self._apart(self._clean, moved).mean(),
            weights=self._weights,
            step=partial(descended, self._optimizer, self._weights),
            slopes=self._slopes(leaf.detach()),
        )
        [found] = problem.gradient("forward")
        return found

    def _slopes(self, weights: Tensor) -> dict[str, Tensor]:
        """Return the gradients of the weighted loss, from the pass that there was."""
        if not weights.any():
            return {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        loss = (weights * self.losses).mean()
        found = torch.autograd.grad(loss, list(self._weights.values()), retain_graph=True, allow_unused=True)
        named = zip(self._weights, found, strict=True)
        return {name: slope for name, slope in named if slope is not None}

    def _apart(self, episode: Episode, moved: Mapping[str, Tensor] | None) -> Tensor:
        copies = {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        with self._same_chance():
            losses: Tensor = functional_call(self._module, {**copies, **(moved or {})}, (episode,))
            return losses

    @contextmanager
    def _same_chance(self) -> Iterator[None]:
        with torch.random.fork_rng(self._devices):
            torch.set_rng_state(self._chance[0])
            for device, state in zip(self._devices, self._chance[1], strict=True):
                torch.cuda.set_rng_state(state, device)
            yield
