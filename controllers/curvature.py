"""How sharply the validation loss curves in α: the largest eigenvalue of its Hessian."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from controllers.relaxation import Alpha
from nas.bilevel import gradient
from nas.strategy import MixtureLoss

DENSE = 64
"""Dimensions of α up to which the Hessian is built: its eigenvalues are then found without iterating."""

TOLERANCE = 1e-3
"""Error of the eigenvalue at which an iteration ends, relative to it."""

ITERATIONS = 100
"""Hessian-vector products at most of an iteration."""


def largest_eigenvalue(
    alpha: Alpha,
    loss: MixtureLoss,
    rng: np.random.Generator,
    tolerance: float = TOLERANCE,
    iterations: int = ITERATIONS,
    dense: int = DENSE,
) -> float:
    """Return the largest eigenvalue of ∇²L(α), with exact Hessian-vector products.

    It is what Zela et al. (2020, §4.1) watch. A small Hessian is built, product by product; of a larger one
    it is found by Lanczos iteration. It is NaN where a derivative is not finite, or where the iteration does
    not converge.

    Args:
        alpha: where.
        loss: of one batch, twice differentiable in the mixture.
        rng: draws the vector that an iteration begins with.
        tolerance: error at which an iteration ends, relative to the eigenvalue.
        iterations: products at most of an iteration.
        dense: dimensions of α up to which the Hessian is built.
    """
    logits = list(alpha.logits)
    slopes = gradient(loss(alpha.mixture()), logits, create_graph=True)
    flat = torch.cat([slope.flatten() for slope in slopes])
    if not flat.requires_grad:
        return 0.0

    def product(vector: Tensor) -> Tensor:
        found = torch.autograd.grad(flat @ vector, logits, retain_graph=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in found])

    if len(flat) <= dense:
        hessian = torch.stack([product(unit) for unit in torch.eye(len(flat)).to(flat)]).double()
        if not hessian.isfinite().all():
            return math.nan
        return float(torch.linalg.eigvalsh((hessian + hessian.T) / 2)[-1])
    start = torch.as_tensor(rng.normal(size=len(flat))).to(flat)
    return lanczos(product, start, tolerance, iterations)


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, tolerance: float, iterations: int) -> float:
    """Return the largest eigenvalue of a symmetric matrix, NaN where it does not converge.

    Each new vector is made orthogonal to all before. It has converged when the residual, which bounds the
    error, is small compared with the eigenvalue, or of the size of the matrix's rounding errors (Parlett
    1998, ch. 13).

    Args:
        product: of the matrix with a vector `[n]`.
        start: `[n]`, random, so that no eigenvector is orthogonal to it.
        tolerance: of the residual, relative to the eigenvalue.
        iterations: products at most.
    """
    n, noise = len(start), math.sqrt(torch.finfo(start.dtype).eps)
    vector = start / torch.linalg.vector_norm(start)
    basis, diagonal, beside = vector[None], list[float](), list[float]()
    for size in range(1, min(n, iterations) + 1):
        image = product(vector)
        diagonal.append(float(vector @ image))
        for _ in range(2):  # once is not enough: rounding leaves components behind
            image = image - basis.T @ (basis @ image)
        length = float(torch.linalg.vector_norm(image))
        if not math.isfinite(diagonal[-1] + length):
            return math.nan
        small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if beside:
            off = torch.tensor(beside, dtype=torch.float64)
            small += torch.diag(off, 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(small)
        largest, residual = float(values[-1]), length * abs(float(vectors[-1, -1]))
        if size == n or residual <= max(tolerance * abs(largest), noise * float(values.abs().max())):
            return largest
        vector = image / length
        basis = torch.cat([basis, vector[None]])
        beside.append(length)
    return math.nan
