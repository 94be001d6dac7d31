"""The macro space of ENAS: the suite, its wiring against the paper's, and texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from facts import refusal
from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.errors import ConfigError, Infeasible
from nas.space import TaskShape
from nas.testing.backbones import BackboneSuite
from search_spaces.enas_macro import EnasMacro
from search_spaces.enas_macro_layers import OPERATIONS, operation

SMALL = EnasMacro(channels=4, layers=4)


class TestEnasMacro(BackboneSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return SMALL

    @pytest.fixture
    def shape(self) -> TaskShape:
        return TaskShape((2, 7, 6), 5)


def test_a_network_is_wired_as_the_paper_says() -> None:
    """Against the convolution of all maps side by side; maps are halved after a third and two thirds."""
    space = EnasMacro(channels=4, layers=6)
    architecture = space.decode(
        "conv_3x3 max_pool_3x3@0 avg_pool_3x3@0+1 sep_conv_3x3@1+2 conv_5x5@0 sep_conv_5x5@0+3"
    )
    network = space.build(architecture, TaskShape((3, 9, 8), 5)).double().eval()
    body = network.body
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    values: list[Tensor] = [body.stem(x)]
    for layer, (name, skips) in enumerate(space.layers_of(architecture), 1):
        del name
        y = body.layers[layer - 1](values[layer - 1])
        if layer > 1:
            join = body.joins[layer - 2]
            side = torch.cat([y, *(values[skip] for skip in skips)], 1).relu()
            kernel = torch.cat([join.own.weight, *(join.skips[str(skip)].weight for skip in skips)], 1)
            y = join.norm(torch.conv2d(side, kernel))
        values.append(y)
        if layer in (2, 4):
            values = [
                body.halvings[f"{i}_{layer}"](v) if f"{i}_{layer}" in body.halvings else v * torch.nan
                for i, v in enumerate(values)
            ]
    assert values[-1].shape[1:] == (16, 3, 2)
    torch.testing.assert_close(network(x), values[-1].mean((2, 3)))


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_as_published(name: str) -> None:
    """A ReLU, a 1×1 convolution and batch norm come before; the map keeps its size."""
    layers = [part for part in operation(name, 4).modules() if not list(part.children())]
    assert [type(layer) for layer in layers[:3]] == [nn.ReLU, nn.Conv2d, nn.BatchNorm2d]
    assert layers[1].kernel_size == (1, 1)
    assert operation(name, 4)(torch.randn(2, 4, 5, 6)).shape == (2, 4, 5, 6)
    kernels = [layer.kernel_size for layer in layers[3:] if isinstance(layer, nn.Conv2d)]
    k = int(name[-1])
    assert kernels == {"conv": [(k, k)], "sep_": [(k, k), (1, 1)]}.get(name[:4], [])


def test_weights_of_skip_connections_that_are_not_taken_are_not_there() -> None:
    space = EnasMacro(channels=4, layers=6)
    architecture = space.decode(" ".join(["max_pool_3x3"] * 6))
    network = space.build(architecture, TaskShape((1, 8, 8), 5))
    assert sorted(network.body.halvings) == ["2_2", "4_4"]
    assert all(not join.skips for join in network.body.joins)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 84, 84)])
def test_networks_train_a_step(shape: tuple[int, ...]) -> None:
    space, rng = EnasMacro(channels=2), np.random.default_rng(0)
    network = space.build(space.sample(rng), TaskShape(shape, 5))
    network(torch.randn(2, *shape)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.slow
def test_no_collision() -> None:
    """No two of 100,000 samples share a key: all differ."""
    rng, space = np.random.default_rng(0), EnasMacro()
    drawn = {space.sample(rng) for _ in range(100_000)}
    assert len({space.canonical(architecture) for architecture in drawn}) == len(drawn)


def test_texts_that_name_what_the_space_has_not() -> None:
    text = "conv_3x3 conv_3x3@0 conv_3x3@1 conv_3x3"
    assert SMALL.encode(SMALL.decode(text)) == text
    for wrong, facts in (
        (text.replace("conv_3x3@0", "conv_7x7@0"), ("layer2.op", "2 of the 10", "max_pool_3x3")),
        (text.replace("@1", "@2"), ("layer3.skip2",)),
        (text + " conv_3x3", ("4 layers",)),
    ):
        with refusal(ConfigError, *facts):
            SMALL.decode(wrong)
    with refusal(Infeasible, "'enas_macro'"):
        SMALL.build(SMALL.default, TaskShape((3,), 1))
