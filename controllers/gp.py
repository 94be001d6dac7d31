"""Bayesian optimization: a Gaussian process over features, and expected improvement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from controllers.model_based import Candidates, Initial, ModelBased, Parents, Points
from nas.controller import Outcome
from nas.space import Space

LENGTHS = (0.18, 0.25, 0.36, 0.5, 0.71, 1.0, 1.4, 2.0)
"""Length scales that are tried, in units of the root mean square distance of two networks."""

NOISES = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
"""Variances of the noise that are tried, in units of the kernel's."""


@dataclass(frozen=True, slots=True)
class Process:
    """A Gaussian process with mean 0 and covariance s²·exp(−d² / 2l²), after `p` observations.

    Attributes:
        features: `[p, n]`.
        length: l.
        noise: variance of the observations' noise, in units of s².
        scale: s².
        likelihood: logarithm of the marginal likelihood, in nats.
        weights: (K + noise)⁻¹ y, `[p]`; K is the covariance in units of s².
        root: W with W Wᵀ = (K + noise)⁻¹, `[p, p]`.
    """

    features: Tensor
    length: float
    noise: float
    scale: float
    likelihood: float
    weights: Tensor
    root: Tensor

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the covariances of features `[i, n]` and `[j, n]` in units of s², `[i, j]`."""
        return torch.exp(-distances(a, b) / (2 * self.length**2))

    def posterior(self, at: Tensor, believed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations without noise, `[m]` each.

        Args:
            at: features `[m, n]`.
            believed: features `[k, n]` of what is as if it had been observed at its mean: it narrows the
                deviations and moves no mean (the kriging believer, Ginsbourger et al. 2010, §4.2).
        """
        across = self.kernel(at, self.features)
        mean, spread = across @ self.weights, across @ self.root
        variance = 1 - spread.square().sum(1)
        if believed is not None and len(believed):
            other = self.kernel(believed, self.features) @ self.root
            among = self.kernel(believed, believed) - other @ other.T
            among = among + max(self.noise, 1e-6) * torch.eye(len(believed)).double()
            between = self.kernel(at, believed) - spread @ other.T
            variance = variance - (torch.linalg.solve(among, between.T).T * between).sum(1)
        return mean, (self.scale * variance.clamp_min(1e-12)).sqrt()


def fitted(features: Tensor, targets: Tensor) -> Process:
    """Return the process with the most likely length and noise of the lists above.

    For each length one eigendecomposition gives the likelihood under every noise, and s² at its maximum in
    closed form.

    Args:
        features: `[p, n]`.
        targets: `[p]`, of mean about 0.
    """
    apart, count = distances(features, features), len(features)
    rms = math.sqrt(max(float(apart.sum()) / max(count * (count - 1), 1), 1e-12))
    lengths, noises = rms * torch.tensor(LENGTHS).double(), torch.tensor(NOISES).double()
    values, vectors = torch.linalg.eigh(torch.exp(-apart / (2 * lengths.square())[:, None, None]))
    along = (vectors.mT @ targets).square()
    spectrum = values.clamp_min(0)[:, None] + noises[:, None]
    scales = (along[:, None] / spectrum).mean(2).clamp_min(1e-12)
    likelihoods = -0.5 * (count * (torch.log(2 * math.pi * scales) + 1) + spectrum.log().sum(2))
    length, noise = divmod(int(likelihoods.argmax()), len(noises))
    root = vectors[length] / spectrum[length, noise].sqrt()
    return Process(
        features,
        float(lengths[length]),
        float(noises[noise]),
        float(scales[length, noise]),
        float(likelihoods[length, noise]),
        root @ (root.T @ targets),
        root,
    )


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared Euclidean distances of rows `[i, n]` and `[j, n]`, `[i, j]`."""
    found = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    return found.clamp_min(0)


def expected_improvement(mean: Tensor, deviation: Tensor, best: float) -> Tensor:
    """Return E[max(f − best, 0)] where f is normal (Jones et al. 1998, eq. 15)."""
    z = (mean - best) / deviation
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    improvement: Tensor = (mean - best) * torch.special.ndtr(z) + deviation * density
    return improvement


@final
class Gp(ModelBased):
    """A Gaussian process over features, and expected improvement (Kandasamy et al. 2018; White et al. 2020).

    The kernel is squared exponential, with one length for all features; length, noise and scale are those of
    the largest marginal likelihood on a grid. Networks that are being evaluated count as if they had the mean
    that the process expects. It is exact, so that its time grows with the cube of `points`.
    """

    elsewhere = 0.25

    def __init__(
        self,
        space: Space[Any],
        seed: int,
        *,
        initial: Initial = 10,
        candidates: Candidates = 200,
        parents: Parents = 10,
        points: Points = 200,
    ) -> None:
        super().__init__(space, seed, initial, candidates, parents, points)

    def observe(self, number: int, outcome: Outcome) -> None:
        """Learn the network's value."""
        super().observe(number, outcome)
        self.model = None

    def rank(self, candidates: Tensor, pending: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the expected improvement over the best normal score."""
        if self.model is None:
            features, targets = self.learned
            self.model = fitted(features, targets), float(targets.max())
        process, best = self.model
        mean, deviation = process.posterior(candidates, pending)
        return expected_improvement(mean, deviation, best)
