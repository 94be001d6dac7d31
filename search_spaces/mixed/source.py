"""A state of a mixed cell, and what the operations on it share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.mixed.depthwise import depthwise
from search_spaces.mixed.pointwise import Convolved
from search_spaces.mixed.rectified import rectified
from search_spaces.mixed.weighted_sum import Plain
from search_spaces.separable import FactorizedReduction


class _Block(NamedTuple):
    """ReLU, an optional depthwise convolution, a convolution and a batch norm."""

    depthwise: nn.Conv2d | None
    convolution: nn.Conv2d
    norm: nn.BatchNorm2d

    @property
    def pointwise(self) -> bool:
        """Whether convolution and batch norm are what `Convolved` computes."""
        return _pointwise(self.convolution) and _of_the_batch(self.norm)

    @property
    def subsampled(self) -> bool:
        """Whether the depthwise convolution sees every other pixel only."""
        return self.depthwise is not None and self.depthwise.stride[0] == self.depthwise.dilation[0] == 2

    def entered(self, x: Tensor) -> Tensor:
        """Return what enters the convolution."""
        return x if self.depthwise is None else depthwise(x, [self.depthwise])[0]

    def normalized(self, x: Tensor, weight: Tensor | None = None) -> Convolved:
        """Return what the pointwise convolution and the batch norm make of a map, as a term of a sum."""
        return Convolved(x, self.convolution.weight, self.norm.eps, weight)


def _pointwise(layer: nn.Conv2d) -> bool:
    window = layer.kernel_size, layer.stride, layer.padding
    return window == ((1, 1), (1, 1), (0, 0)) and layer.groups == 1 and layer.bias is None


def _depthwise(layer: nn.Conv2d) -> bool:
    """Return whether a layer is what `depthwise` computes."""
    size, (stride, across), (dilation, _) = layer.kernel_size[0], layer.stride, layer.dilation
    return (
        layer.groups == layer.in_channels == layer.out_channels
        and layer.kernel_size == (size, size)
        and size % 2 == 1
        and stride == across
        and layer.dilation == (dilation, dilation)
        and layer.padding == (dilation * (size // 2),) * 2
        and layer.padding_mode == "zeros"
        and layer.bias is None
    )


def _of_the_batch(norm: nn.BatchNorm2d) -> bool:
    """Return whether a batch norm has neither scale nor shift nor running averages."""
    return not (norm.affine or norm.track_running_stats)


def _blocks(module: nn.Module) -> list[_Block]:
    """Return the blocks that an operation consists of; none: it is computed by itself."""
    if not isinstance(module, nn.Sequential):
        return []
    layers, blocks = list(module), list[_Block]()
    while layers:
        match layers:
            case [
                nn.ReLU(),
                nn.Conv2d() as first,
                nn.Conv2d() as convolution,
                nn.BatchNorm2d() as norm,
                *layers,
            ] if _depthwise(first):
                blocks.append(_Block(first, convolution, norm))
            case [nn.ReLU(), nn.Conv2d() as convolution, nn.BatchNorm2d() as norm, *layers]:
                blocks.append(_Block(None, convolution, norm))
            case _:
                return []
    return blocks


@final
class Source:
    """A state, and what operations on it share.

    Args:
        x: the state.
        modules: operations that will be asked for once each, see `through`: what they have in common is then
            computed for all of them at once.
    """

    def __init__(self, x: Tensor, modules: Iterable[nn.Module] = ()) -> None:
        self.x = x
        self._maps = dict[str, Tensor]()
        self._blocks = {module: _blocks(module) for module in modules}
        self._known = [module for module, blocks in self._blocks.items() if blocks and blocks[0].depthwise]
        self._convolved = dict[nn.Module, Tensor]()
        self._hidden = dict[nn.Module, Tensor]()

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
            module: any operation. Fast are the identity, a factorized reduction, and blocks of ReLU, an
                optional depthwise convolution, a convolution and a batch norm, with norms that have neither
                scale nor shift.
            weight: of the operation, a scalar.
        """
        if isinstance(module, nn.Identity):
            return [Plain(self.x, weight)]
        if isinstance(module, FactorizedReduction) and _of_the_batch(module.norm):
            return self._reduced(module, weight)
        if module not in self._blocks:
            self._blocks[module] = _blocks(module)
        blocks = self._blocks[module]
        if not blocks:
            return [Plain(module(self.x), weight)]
        first, *others = blocks
        if first.depthwise is None:
            x = self._rectified
        elif others and first.pointwise:
            x, blocks = others[0].entered(self._first_block(module)), others
        else:
            x = self._first_convolution(module)
        while True:
            block, *blocks = blocks
            if not block.pointwise:
                x = block.norm(block.convolution(x))
                if not blocks:
                    return [Plain(x, weight)]
                x = x.relu()
            elif blocks:
                (x,) = rectified([block.normalized(x)])
            else:
                return [block.normalized(x, weight)]
            x = blocks[0].entered(x)

    def _first_convolution(self, module: nn.Module) -> Tensor:
        """Return the depthwise convolution of the state's ReLU that an operation begins with."""
        subsampled = self._blocks[module][0].subsampled
        if module not in self._convolved:
            group = self._together(module, lambda own: own[0].subsampled == subsampled)
            x = self._shared("even", self._even) if subsampled else self._rectified
            layers = [self._blocks[own][0].depthwise for own in group]
            maps = depthwise(x, [layer for layer in layers if layer is not None], subsampled=subsampled)
            self._convolved.update(zip(group, maps, strict=True))
        return self._convolved.pop(module)

    def _first_block(self, module: nn.Module) -> Tensor:
        """Return the ReLU of what the first of several separable blocks makes of the state."""
        if module not in self._hidden:
            group = self._together(module, lambda own: len(own) > 1 and own[0].pointwise)
            maps = rectified([self._blocks[own][0].normalized(self._first_convolution(own)) for own in group])
            self._hidden.update(zip(group, maps, strict=True))
        return self._hidden.pop(module)

    def _together(self, module: nn.Module, alike: Callable[[Sequence[_Block]], bool]) -> Sequence[nn.Module]:
        """Return the operations to compute when one is asked for: one, where no gradient keeps the others."""
        if module not in self._known or not torch.is_grad_enabled():
            return [module]
        return [own for own in self._known if alike(self._blocks[own])]

    def _reduced(self, module: FactorizedReduction, weight: Tensor) -> list[Convolved]:
        """Return both halves of the channels, each with zeros in place of the other."""
        even, odd = module.even.weight, module.odd.weight
        below, above = (0, 0, 0, 0, 0, 0, 0, odd.shape[-4]), (0, 0, 0, 0, 0, 0, even.shape[-4], 0)
        halves = (
            (self._shared("even", self._even), F.pad(even, below)),
            (self._shared("odd", self._odd), F.pad(odd, above)),
        )
        return [Convolved(x, kernel, module.norm.eps, weight) for x, kernel in halves]
