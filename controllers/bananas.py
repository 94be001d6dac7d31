"""BANANAS: an ensemble of small networks predicts scores, and Thompson sampling chooses."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from controllers.model_based import Candidates, Initial, ModelBased, Parents, Points
from nas.controller import Outcome
from nas.space import Space

BETAS = (0.9, 0.99)
"""Of the Adam that trains predictors."""


class Ensemble:
    """Perceptrons with two hidden layers of ReLU that are trained side by side from different weights.

    Args:
        features: `[p, n]`; each is normalized by its mean and deviation.
        targets: `[p]`.
        rng: draws the weights.
        members: perceptrons.
        hidden: units of a layer.
        steps: of Adam, on all points, at a rate that falls from `rate` to 0 as a cosine.
        rate: Adam's at first.
        decay: L2 weight decay.
    """

    def __init__(
        self,
        features: Tensor,
        targets: Tensor,
        rng: np.random.Generator,
        members: int,
        hidden: int = 32,
        steps: int = 200,
        rate: float = 0.01,
        decay: float = 1e-4,
    ) -> None:
        self._mean = features.mean(0)
        self._deviation = (features - self._mean).square().mean(0).sqrt()
        self._deviation[self._deviation == 0] = 1
        sizes = (features.shape[1], hidden, hidden, 1)
        self.parameters = list[Tensor]()
        for fan_in, fan_out in pairwise(sizes):
            drawn = rng.normal(0, math.sqrt(2 / fan_in), (members, fan_in, fan_out))
            self.parameters += [torch.from_numpy(drawn).float(), torch.zeros(members, 1, fan_out)]
        inputs, moments = self._inputs(features), [torch.zeros_like(p) for p in self.parameters]
        squares, y = [torch.zeros_like(p) for p in self.parameters], targets.float()[:, None]
        for step in range(1, steps + 1):
            slopes = self.gradient(inputs, y)
            size = rate * 0.5 * (1 + math.cos(math.pi * step / steps)) / (1 - BETAS[0] ** step)
            torch._foreach_add_(slopes, self.parameters, alpha=decay)
            torch._foreach_lerp_(moments, slopes, 1 - BETAS[0])
            torch._foreach_mul_(squares, BETAS[1])
            torch._foreach_addcmul_(squares, slopes, slopes, 1 - BETAS[1])
            roots = torch._foreach_sqrt(squares)
            torch._foreach_div_(roots, math.sqrt(1 - BETAS[1] ** step))
            torch._foreach_add_(roots, 1e-8)
            torch._foreach_addcdiv_(self.parameters, moments, roots, -size)

    def predict(self, features: Tensor) -> Tensor:
        """Return what each member predicts, `[members, m]`, float64."""
        return self._outputs(self._inputs(features))[-1].squeeze(2).double()

    def gradient(self, inputs: Tensor, targets: Tensor) -> list[Tensor]:
        """Return the gradient of each member's mean squared error in `parameters`.

        It is written out: autograd takes three times as long where networks are so small.

        Args:
            inputs: normalized features, `[members, p, n]`.
            targets: `[p, 1]`.
        """
        layers = self._outputs(inputs)
        slope = (2 / len(targets)) * (layers[-1] - targets)
        found = list[Tensor]()
        for place in reversed(range(len(layers) - 1)):
            found += [slope.sum(1, keepdim=True), layers[place].mT @ slope]
            if place:
                slope = (slope @ self.parameters[2 * place].mT) * (layers[place] > 0)
        return found[::-1]

    def _inputs(self, features: Tensor) -> Tensor:
        normalized = ((features - self._mean) / self._deviation).float()
        return normalized.expand(len(self.parameters[0]), *normalized.shape)

    def _outputs(self, inputs: Tensor) -> list[Tensor]:
        """Return the inputs, each hidden layer, and the outputs `[members, p, 1]`."""
        layers = [inputs]
        for place in range(0, len(self.parameters), 2):
            out = torch.baddbmm(self.parameters[place + 1], layers[-1], self.parameters[place])
            layers.append(out if place + 2 == len(self.parameters) else out.relu())
        return layers


@final
class Bananas(ModelBased):
    """BANANAS (White et al. 2021, arXiv 1910.11858, Algorithm 1), one proposal after another.

    An ensemble predicts the normal score of each candidate; mean and deviation of its members make a normal
    distribution. One draw from each candidate's own is its promise: independent Thompson sampling (§3.2).
    The ensemble is trained anew after every `refit` outcomes.
    """

    def __init__(
        self,
        space: Space[Any],
        seed: int,
        *,
        ensemble: Annotated[int, Field(ge=2, description="perceptrons that predict scores")] = 5,
        refit: Annotated[int, Field(ge=1, description="outcomes between two trainings of the ensemble")] = 5,
        initial: Initial = 10,
        candidates: Candidates = 200,
        parents: Parents = 10,
        points: Points = 500,
    ) -> None:
        super().__init__(space, seed, initial, candidates, parents, points)
        self._members, self._refit = ensemble, refit
        self._observed, self._training = 0, (0, torch.empty(0), torch.empty(0))

    def observe(self, number: int, outcome: Outcome) -> None:
        """Learn the network's value; after `refit` outcomes, what is known is what the ensemble learns."""
        super().observe(number, outcome)
        self._observed += 1
        if self.known and (not self._training[0] or self._observed % self._refit == 0):
            self._training = self._observed, *self.learned
            self.model = None

    def rank(self, candidates: Tensor, pending: Tensor, rng: np.random.Generator) -> Tensor:
        """Return a draw from what the ensemble predicts of each candidate."""
        if self.model is None:
            count, features, targets = self._training
            self.model = Ensemble(features, targets, np.random.default_rng([self.seed, count]), self._members)
        predicted: Tensor = self.model.predict(candidates)
        noise = torch.from_numpy(rng.standard_normal(len(candidates)))
        return predicted.mean(0) + predicted.std(0) * noise
