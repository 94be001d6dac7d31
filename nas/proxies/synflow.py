"""How much passes through a network, whatever the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from nas.errors import Infeasible
from nas.proxies.base import Proxy, Subject


@final
class Synflow(Proxy):
    """Synaptic flow (Tanaka et al. 2020, arXiv 2006.05467), summed over weights and taken as a logarithm.

    With every weight replaced by its absolute value and batch norm left out, R is the sum of the features of
    an input of ones. The proxy is log Σ |w · ∂R/∂w|, over the weights of convolutions and linear layers.
    """

    name = "synflow"

    def measure(self, subject: Subject) -> float:
        """Return the logarithm of the flow.

        Raises:
            Infeasible: nothing passes through the network.
        """
        backbone, weights = subject.backbone, subject.weights
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.abs_()
        ones = torch.ones_like(subject.images[:1])
        with _WithoutBatchNorm():
            flow = backbone(ones).double().sum()
        if not weights or not flow.requires_grad:
            raise Infeasible("No weight of this network lies between its input and its features.")
        found = torch.autograd.grad(flow, weights, allow_unused=True)
        pairs = ((w, g) for w, g in zip(weights, found, strict=True) if g is not None)
        total = sum(float((w.detach().double() * g.double()).abs().sum()) for w, g in pairs)
        if not total:
            raise Infeasible("Nothing passes through this network: its synaptic flow is 0.")
        return float(torch.tensor(total, dtype=torch.float64).log())


class _WithoutBatchNorm(TorchFunctionMode):
    """Lets batch norm pass on what it is given."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return args[0] if function is F.batch_norm else function(*args, **(kwargs or {}))
