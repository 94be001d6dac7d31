from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn
from torch.func import functional_call

from search_spaces.mixed.depthwise import depthwise


class Applied(nn.Module):
    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return depthwise(x, [self.layer])[0]


def layer(channels: int, kernel: int, stride: int, dilation: int) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(channels, channels, kernel, stride, padding, dilation, channels, bias=False).double()


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [*product((1, 3, 5, 7), (1, 2), (1, 2))])
def test_gradients_are_torchs(kernel: int, stride: int, dilation: int) -> None:
    for size, channels in product(((8, 8), (7, 9), (5, 6), (1, 1), (2, 3)), (1, 3, 8)):
        convolution = layer(channels, kernel, stride, dilation)
        x = torch.randn(3, channels, *size, dtype=torch.float64, requires_grad=True)
        inputs = [x, convolution.weight]
        expected, (found,) = convolution(x), depthwise(x, [convolution])
        torch.testing.assert_close(found, expected)
        gradient = torch.randn_like(expected)
        wanted = torch.autograd.grad(expected, inputs, gradient)
        torch.testing.assert_close(torch.autograd.grad(found, inputs, gradient), wanted)
        if stride == dilation == 2:
            (sub,) = depthwise(x[:, :, ::2, ::2], [convolution], subsampled=True)
            torch.testing.assert_close(sub, expected)
            torch.testing.assert_close(torch.autograd.grad(sub, inputs, gradient), wanted)


def test_several_layers_add_up_their_gradients() -> None:
    """Also where a result is not used."""
    layers = [layer(4, kernel, 1, dilation) for kernel, dilation in ((3, 1), (5, 1), (5, 2), (3, 2))]
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64, requires_grad=True)
    inputs = [x, *(own.weight for own in layers[:3])]
    total = [
        sum((y * y).sum() for y in maps[:3]) for maps in (depthwise(x, layers), [own(x) for own in layers])
    ]
    torch.testing.assert_close(*(torch.autograd.grad(loss, inputs, create_graph=True) for loss in total))
    twice = [
        torch.autograd.grad(
            sum(g.square().sum() for g in torch.autograd.grad(loss, inputs, create_graph=True)), x
        )
        for loss in total
    ]
    torch.testing.assert_close(*twice)


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 1), (5, 2)])
def test_second_derivatives(kernel: int, dilation: int) -> None:
    convolution = layer(2, kernel, 1, dilation)
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)

    weight = convolution.weight.detach().clone().requires_grad_()
    network = Applied(convolution)

    def convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional_call(network, {"layer.weight": weight}, (x,))

    assert torch.autograd.gradcheck(convolve, (x, weight))
    assert torch.autograd.gradgradcheck(convolve, (x, weight))
