"""Losses of training batches as functions of the mixture, and of weights that stand in for the learner's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, final

import numpy as np
from torch import Tensor, nn
from torch.func import functional_call

from nas.learners.augmentation import chance
from nas.learners.base import Learner
from nas.strategy import Batches
from nas.supernet import Mixture
from nas.tasks.base import Episode, TaskSource
from nas.training.oneshot.assembly import Assembly

INNER, OUTER = 0, 1


class Drawn(NamedTuple):
    """A batch of tasks, and the seed of its augmentation: the same at every loss of the batch.

    None: it is not augmented.
    """

    episode: Episode
    seed: tuple[int, ...] | None


@final
class Bilevel:
    """Draws the batches of a supernet training: some for the weights, others for the architecture.

    On few-shot tasks both are batches of tasks of the training classes, drawn afresh and independently. A
    learner with an inner loop adapts to a task's support within its loss, which is that of the queries: so
    the weights φ and the architecture α both minimize the loss after adaptation, across tasks, and each on
    tasks of its own. On ordinary data the source gives two halves of the training examples.

    Where an augmentation is relaxed, it augments what the weights learn from, and what judges it stays as it
    is, of classes that the weights do not learn: an augmentation helps with what was not seen.

    Attributes:
        drawn: training tasks drawn so far.
    """

    def __init__(self, assembly: Assembly, tasks: TaskSource, batch: int | None, seed: int) -> None:
        self._assembly = assembly
        self._batch = batch or assembly.learner.meta_batch
        self._sources = tasks.halves() if assembly.augments else tasks.bilevel()
        self._seed = seed
        self._rngs = [np.random.default_rng([seed, part]) for part in range(2)]
        self.drawn = 0

    def next(self) -> Batches:
        """Return new batches. What is not called for is not drawn."""
        learner = self._assembly.learner
        return Batches(_Loss(self, INNER), _Loss(self, OUTER), dict(learner.named_parameters()))

    def draw(self, part: int) -> Drawn:
        """Draw a batch for the weights (`INNER`) or the architecture (`OUTER`)."""
        episode = self._sources[part].sample("train", self._batch, self._rngs[part])
        seed = None if part == OUTER and self._assembly.augments else (self._seed, part, self.drawn)
        self.drawn += self._batch
        return Drawn(self._assembly.arithmetic.place(episode), seed)

    def loss(self, batch: Drawn, mixture: Mixture, weights: Mapping[str, Tensor] | None) -> Tensor:
        """Return the learner's loss of a batch under a mixture."""
        objective = _Objective(self._assembly.learner)
        self._assembly.mix(mixture)
        named = {f"learner.{name}": weight for name, weight in (weights or {}).items()}
        with self._assembly.arithmetic.autocast():
            loss: Tensor = functional_call(objective, named, (batch,)) if named else objective(batch)
            return loss

    def state(self) -> dict[str, Any]:
        """Return all that the next batches depend on."""
        return {"drawn": self.drawn, "rngs": [rng.bit_generator.state for rng in self._rngs]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.drawn = state["drawn"]
        for rng, saved in zip(self._rngs, state["rngs"], strict=True):
            rng.bit_generator.state = saved


@final
class _Loss:
    """The loss of one batch, drawn when it is first asked for."""

    def __init__(self, bilevel: Bilevel, part: int) -> None:
        self._bilevel, self._part = bilevel, part
        self._batch: Drawn | None = None

    def __call__(self, mixture: Mixture, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        if self._batch is None:
            self._batch = self._bilevel.draw(self._part)
        return self._bilevel.loss(self._batch, mixture, weights)


class _Objective(nn.Module):
    """A learner's loss as a module, so that its parameters can be replaced."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, batch: Drawn) -> Tensor:
        """Return the loss on the queries of the augmented tasks, mean over tasks."""
        if batch.seed is None:
            return self.learner.meta_loss(batch.episode)
        return self.learner.meta_loss(self.learner.augmented(batch.episode, chance(*batch.seed)))
