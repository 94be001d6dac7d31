"""A state of a mixed cell, and what the operations on it share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.depthwise import depthwise
from search_spaces.separable import FactorizedReduction
from search_spaces.weighted_sum import Convolved, Plain, weighted_sum


@final
class Source:
    """A state, and what operations on it share."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self._maps: dict[str, Tensor] = {}

    def _shared(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        if name not in self._maps:
            self._maps[name] = make()
        return self._maps[name]

    @property
    def _rectified(self) -> Tensor:
        return self._shared("rectified", self.x.relu)

    def _even(self) -> Tensor:
        return self._rectified[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)

    def _odd(self) -> Tensor:
        height, width = self.x.shape[2:]
        odd = F.pad(self._rectified[:, :, 1::2, 1::2], (0, width % 2, 0, height % 2))
        return odd.contiguous(memory_format=torch.channels_last)

    def pooled(self, name: str, module: nn.Module) -> Tensor:
        """Return the pooled and normalized map."""
        return self._shared(name, lambda: module(self.x))

    def through(self, module: nn.Module, weight: Tensor) -> Sequence[Convolved | Plain]:
        """Return what an operation makes of the state, in terms of a weighted sum.

        Args:
            module: the identity, a factorized reduction, or blocks of ReLU, an optional depthwise
                convolution, a convolution and a batch norm without scale and shift.
            weight: of the operation, a scalar.
        """
        if isinstance(module, nn.Identity):
            return [Plain(self.x, weight)]
        if isinstance(module, FactorizedReduction):
            return self._reduced(module, weight)
        layers: list[Any] = list(module.children())[1:]
        x = self._rectified
        while True:
            if isinstance(layers[1], nn.Conv2d):
                x = self._depthwise(layers.pop(0), x)
            convolution, norm, *layers = layers
            if convolution.kernel_size != (1, 1):
                x = norm(convolution(x))
                if not layers:
                    return [Plain(x, weight)]
                x = x.relu()
            elif layers:
                x = weighted_sum([Convolved(x, convolution.weight, norm.eps)], rectify=True)
            else:
                return [Convolved(x, convolution.weight, norm.eps, weight)]
            layers = layers[1:]

    def _depthwise(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        if layer.stride[0] == layer.dilation[0] == 2:
            return depthwise(self._shared("even", self._even), layer, subsampled=True)
        return depthwise(x, layer)

    def _reduced(self, module: FactorizedReduction, weight: Tensor) -> list[Convolved]:
        """Return both halves of the channels, each with zeros in place of the other."""
        even, odd = module.even.weight, module.odd.weight
        below, above = (0, 0, 0, 0, 0, 0, 0, odd.shape[-4]), (0, 0, 0, 0, 0, 0, even.shape[-4], 0)
        halves = (
            (self._shared("even", self._even), F.pad(even, below)),
            (self._shared("odd", self._odd), F.pad(odd, above)),
        )
        return [Convolved(x, kernel, module.norm.eps, weight) for x, kernel in halves]
