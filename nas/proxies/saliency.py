"""What an untrained network's weights mean to the learner's loss."""

from __future__ import annotations

from typing import final

import torch

from nas.proxies.base import Proxy, Subject, loss_gradients


@final
class Snip(Proxy):
    """Connection sensitivity (Lee et al. 2019, arXiv 1810.02340), summed: Σ |w · ∂L/∂w|.

    L is the learner's loss on training tasks, after whatever it adapts.
    """

    name = "snip"

    def measure(self, subject: Subject) -> float:
        """Return the sum over the weights of convolutions and linear layers.

        Raises:
            Infeasible: the loss depends on no weight.
        """
        gradients = loss_gradients(subject, graph=False)
        pairs = zip(subject.weights, gradients, strict=True)
        return sum(float((w.detach() * g).double().abs().sum()) for w, g in pairs)


@final
class Grasp(Proxy):
    """Gradient signal preservation (Wang et al. 2020, arXiv 2002.07376), summed: −Σ w · (H g).

    g is the gradient of the learner's loss on training tasks, and H its Hessian.
    """

    name = "grasp"

    def measure(self, subject: Subject) -> float:
        """Return the sum over the weights of convolutions and linear layers.

        Raises:
            Infeasible: the loss depends on no weight.
        """
        weights, gradients = subject.weights, loss_gradients(subject, graph=True)
        product = sum((g * g.detach()).sum() for g in gradients)
        if not isinstance(product, torch.Tensor) or not product.requires_grad:
            return 0.0  # the loss is linear in the weights
        found = torch.autograd.grad(product, weights, allow_unused=True)
        pairs = ((w, h) for w, h in zip(weights, found, strict=True) if h is not None)
        return -sum(float((w.detach() * h).double().sum()) for w, h in pairs)
