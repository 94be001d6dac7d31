"""Inverted bottlenecks: the suite, what is inactive, slices of weights, and texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from facts import refusal
from torch import nn

from nas.backbone import BackboneSpace
from nas.errors import ConfigError, Infeasible
from nas.space import TaskShape
from nas.testing.backbones import BackboneSuite
from search_spaces.mobile import Mobile
from search_spaces.mobile_blocks import InvertedBottleneck

SMALL = Mobile(stages=2, stem=4, widths=(3, 5), expansions=(2, 3))


class TestMobile(BackboneSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return SMALL

    @pytest.fixture
    def shape(self) -> TaskShape:
        return TaskShape((2, 7, 6), 5)


def test_inactive_blocks_fold() -> None:
    space = Mobile(stages=1)
    texts = ["16:k3e4,(k5e2s)", "16:k3e4,(k3e6)", "16:k3e4,k3e6"]
    keys = [space.canonical(space.decode(text)) for text in texts]
    assert keys == ["16:k3e4", "16:k3e4", "16:k3e4,k3e6"]


def test_blocks_are_as_published() -> None:
    """Sizes of MobileNetV2's bottleneck (Sandler et al. 2018, Table 1), and where its input is added."""
    space = Mobile(stages=2, stem=16)
    network = space.build(space.named["mobilenet_v2"], TaskShape((3, 32, 32), 10))
    blocks = [part for part in network.modules() if isinstance(part, InvertedBottleneck)]
    assert [block.adds for block in blocks] == [False, True, False, True]
    first = blocks[0].body
    assert [type(layer) for layer in first] == [
        *(nn.Conv2d, nn.BatchNorm2d, nn.ReLU6) * 2,
        nn.Conv2d,
        nn.BatchNorm2d,
    ]
    assert [layer.out_channels for layer in first if isinstance(layer, nn.Conv2d)] == [96, 96, 24]
    assert first[3].groups == 96
    assert first[3].stride == (2, 2)


def test_a_network_is_a_slice_of_the_supernet() -> None:
    """A network that is built computes what is extracted once it has the slices of its weights."""
    shape = TaskShape((2, 9, 8), 5)
    torch.manual_seed(0)
    supernet = SMALL.supernet(shape).double()
    rng = np.random.default_rng(0)
    x = torch.randn(4, 2, 9, 8, dtype=torch.float64)
    for _ in range(4):
        architecture = SMALL.sample(rng)
        network = SMALL.build(architecture, shape).double().train()
        network.body[0].load_state_dict(supernet.body.stem.state_dict(), strict=False)
        flat = [b for stage in supernet.body.stages for b in stage]
        active = [
            2 * stage + i
            for stage, plan in enumerate(SMALL.plans_of(architecture))
            for i in range(len(plan.blocks))
        ]
        built = [part for part in network.modules() if isinstance(part, InvertedBottleneck)]
        for place, block in zip(active, built, strict=True):
            whole = flat[place]
            layers = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
            wholes = [
                whole.expand,
                whole.depthwise,
                *([whole.squeeze, whole.excite] * (len(layers) > 3)),
                whole.project,
            ]
            for layer, source in zip(layers, wholes, strict=True):
                out, inputs, k, _ = layer.weight.shape
                edge = (source.weight.shape[-1] - k) // 2
                layer.weight.data = source.weight.data[
                    :out, :inputs, edge : edge + k, edge : edge + k
                ].clone()
                if layer.bias is not None:
                    layer.bias.data.zero_()
        features = network(x)
        extracted = supernet.extract(architecture)(x)
        torch.testing.assert_close(features, extracted[:, : features.shape[1]])
        assert not extracted[:, features.shape[1] :].any()


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 84, 84)])
def test_networks_train_a_step(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        network = SMALL.build(SMALL.sample(rng), TaskShape(shape, 5))
        network(torch.randn(2, *shape)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.slow
def test_no_collision() -> None:
    """Of 100,000 samples, those that share a key differ in inactive blocks only."""
    space, rng, known = Mobile(), np.random.default_rng(0), {}
    for _ in range(100_000):
        architecture = space.sample(rng)
        plans = space.plans_of(architecture)
        assert known.setdefault(space.canonical(architecture), plans) == plans


def test_what_is_refused() -> None:
    text = SMALL.encode(SMALL.default)
    for wrong, facts in (
        (text.replace("k3", "k7", 1), ("stage1.block1.kernel", "3 of the 16", "3, 5")),
        (text.replace("3:", "4:", 1), ("stage1.width", "3, 5")),
        (text.partition(" ")[0], ("2 stages",)),
        (text.replace("k3e2", "(k3e2", 1), ("parentheses",)),
    ):
        with refusal(ConfigError, *facts):
            SMALL.decode(wrong)
    with refusal(Infeasible, "space.stages", "9 × 9", "8 × 20"):
        Mobile(stages=4).build(Mobile(stages=4).default, TaskShape((1, 8, 20), 5))
    with refusal(ConfigError, "space.kernels"):
        Mobile(kernels=(2, 3))
    with refusal(ConfigError, "space.widths"):
        Mobile(widths=(8, 4))
