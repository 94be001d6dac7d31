"""Operations of any kind on a state of a mixed cell, compared with the plain weighted sum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nas.space import TaskShape
from search_spaces import nasbench201_supernet
from search_spaces.mixed import cell
from search_spaces.mixed.mixing import of_the_batch
from search_spaces.mixed.source import Source
from search_spaces.mixed.weighted_sum import weighted_sum
from search_spaces.nasbench201 import NasBench201
from search_spaces.nasbench201_cells import OPERATIONS, operation
from search_spaces.operations import relu_conv_bn
from search_spaces.separable import FactorizedReduction

CHANNELS = 4


class Residual(nn.Module):
    """Has the layers of a fast operation, and computes something else."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.convolution = nn.ReLU(), plain()
        self.norm = of_the_batch(nn.BatchNorm2d(CHANNELS), affine=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = x + layer(x)
        return x


def scaled(module: nn.Module) -> nn.Module:
    """Give the batch norms of a module scales and shifts that matter."""
    for part in of_the_batch(module).modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module


def blocks(first: nn.Conv2d, *more: nn.Conv2d) -> nn.Module:
    layers = [nn.ReLU(), first, *more, nn.BatchNorm2d(CHANNELS)]
    return of_the_batch(nn.Sequential(*layers), affine=False)


def plain(**settings: int | bool) -> nn.Conv2d:
    return nn.Conv2d(CHANNELS, CHANNELS, **{"kernel_size": 1, "bias": False, **settings})


OWN: dict[str, Callable[[], nn.Module]] = {
    "tanh": lambda: nn.Sequential(plain(kernel_size=3, padding=1, bias=True), nn.Tanh()),
    "group_norm": lambda: nn.Sequential(nn.ReLU(), plain(), nn.GroupNorm(2, CHANNELS)),
    "residual": Residual,
    "scaled": lambda: scaled(relu_conv_bn(CHANNELS, CHANNELS, 1)),
    "scaled_reduction": lambda: scaled(FactorizedReduction(CHANNELS, CHANNELS)),
    "grouped": lambda: blocks(plain(groups=2)),
    "strided": lambda: blocks(plain(stride=2)),
    "padded": lambda: blocks(plain(padding=1)),
    "two_full_convolutions": lambda: blocks(plain(kernel_size=3, padding=1), plain()),
    "unpadded_depthwise": lambda: blocks(plain(kernel_size=3, groups=CHANNELS), plain()),
    "long_depthwise": lambda: blocks(plain(kernel_size=(3, 1), padding=(1, 0), groups=CHANNELS), plain()),
}


@pytest.mark.parametrize("name", OWN)
def test_any_operation_is_weighed_and_added_with_its_gradients(name: str) -> None:
    torch.manual_seed(0)
    module = OWN[name]().double()
    x = torch.randn(3, CHANNELS, 6, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    inputs = [x, weight, *module.parameters()]
    found = weighted_sum(Source(x, [module]).through(module, weight))
    expected = weight * module(x)
    torch.testing.assert_close(found, expected)
    along = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, along), torch.autograd.grad(expected, inputs, along)
    )


def test_a_supernet_takes_an_operation_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(name: str, channels: int) -> nn.Module:
        return (
            nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Tanh())
            if name == "nor_conv_1x1"
            else operation(name, channels)
        )

    monkeypatch.setattr(nasbench201_supernet, "operation", own)
    torch.manual_seed(0)
    space = NasBench201(channels=4, cells=1)
    supernet = space.supernet(TaskShape((1, 8, 8), 5)).double()
    mixture = [
        torch.rand(len(OPERATIONS), dtype=torch.float64).softmax(0).requires_grad_()
        for _ in supernet.decisions
    ]
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    inputs = [*mixture, *supernet.parameters()]
    found = supernet(x, mixture)
    with monkeypatch.context() as patch:
        patch.setattr(
            cell,
            "weighted_sum",
            lambda parts: sum(parts[1:], parts[0]),
        )
        patch.setattr(Source, "through", lambda self, module, weight: [weight * module(self.x)])
        patch.setattr(cell, "Plain", lambda x, weight: weight * x)
        expected = supernet(x, mixture)
    torch.testing.assert_close(found, expected)
    along = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, along, allow_unused=True),
        torch.autograd.grad(expected, inputs, along, allow_unused=True),
    )
