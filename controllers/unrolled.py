"""How α changes the validation loss through the next step of the weights (Liu et al. 2019, §2.3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from controllers.relaxation import Alpha
from nas.bilevel import RADIUS, Problem, owned, stepped
from nas.errors import Unsupported
from nas.strategy import Batches


def exact(alpha: Alpha, batches: Batches, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the gradient in α of L_val(w′(α), α) by autograd.

    w′ is where the optimizer's next step down ∇L_train(w, α) takes the weights; see `stepped`.

    Raises:
        Unsupported: the optimizer's step cannot be differentiated.
    """
    return _problem(alpha, batches, optimizer).gradient("exact")


def second_order(
    alpha: Alpha, batches: Batches, optimizer: torch.optim.Optimizer, radius: float = RADIUS
) -> list[Tensor]:
    """Return what `exact` does by the paper's finite difference, without a second derivative of a loss.

    Raises:
        Unsupported: the optimizer's step cannot be differentiated.
    """
    return _problem(alpha, batches, optimizer).gradient(2, radius)


def _problem(alpha: Alpha, batches: Batches, optimizer: torch.optim.Optimizer) -> Problem:
    def step(slopes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        try:
            return stepped(optimizer, batches.weights, slopes)
        except Unsupported as error:
            raise Unsupported(f"controller.order: {error}") from None

    weights = owned(optimizer, batches.weights)
    return Problem(list(alpha.logits), alpha.mixture, batches.inner, batches.outer, weights, step)
