"""A zero-cost proxy of one's own: how steep the loss is before training."""

from typing import final

from nas.proxies.base import Proxy, Subject, loss_gradients


@final
class GradNorm(Proxy):
    """The norm of the learner's gradient in each layer's weights, summed (Abdelfattah et al. 2021)."""

    name = "grad_norm"

    def measure(self, subject: Subject) -> float:
        """Return the sum of the norms."""
        return sum(float(g.norm()) for g in loss_gradients(subject, graph=False))
