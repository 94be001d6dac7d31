"""Networks whose layers' channels are chosen: those of NATS-Bench and those like ResNet-12."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from facts import refusal

from nas.backbone import BackboneSpace
from nas.errors import ConfigError, Infeasible
from nas.space import TaskShape
from nas.testing.backbones import BackboneSuite
from search_spaces.nasbench201 import NasBench201
from search_spaces.natssize import CELL, NatsSize
from search_spaces.resnet_like import ResNetLike

SMALL = {"natssize": NatsSize(channels=(4, 6)), "resnet_like": ResNetLike(stages=2, channels=(4, 6))}


class TestSizes(BackboneSuite):
    @pytest.fixture(params=SMALL)
    def space(self, request: pytest.FixtureRequest) -> BackboneSpace:
        return SMALL[request.param]

    @pytest.fixture
    def shape(self) -> TaskShape:
        return TaskShape((2, 8, 9), 5)


def test_the_size_space_has_the_published_size() -> None:
    assert NatsSize().size == 32_768


def test_equal_channels_are_a_network_of_the_topology_space() -> None:
    """With C, C, 2C, 2C, 4C channels it is that of NAS-Bench-201 with its cell, one a stage."""
    space, other = NatsSize(channels=(8, 16, 32)), NasBench201(channels=8, cells=1, prune=False)
    shape = TaskShape((3, 32, 32), 10)
    nodes = iter(CELL)
    cell = "+".join(
        "|" + "".join(f"{next(nodes)}~{source}|" for source in range(node)) for node in range(1, 4)
    )
    mine = space.cost(space.decode("8:16:16:32:32"), shape)
    theirs = other.cost(other.decode(cell), shape)
    assert mine.parameters == theirs.parameters
    assert mine.macs == theirs.macs


def test_resnet12_has_the_sizes_of_its_papers() -> None:
    """8.0 million parameters with 64, 128, 256 and 512 channels."""
    space = ResNetLike(stages=4, channels=(64, 128, 256, 512))
    cost = space.cost(space.named["resnet12"], TaskShape((3, 84, 84), 5))
    assert f"{cost.parameters / 1e6:.1f}" == "8.0"
    assert ResNetLike(stages=4, channels=(8,)).named == {}


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 84, 84)])
@pytest.mark.parametrize("name", SMALL)
def test_networks_train_a_step(name: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    network = SMALL[name].build(SMALL[name].sample(rng), TaskShape(shape, 5))
    network(torch.randn(2, *shape)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_what_is_refused() -> None:
    with refusal(ConfigError, "layer2.channels", "2 of the 5", "4, 6"):
        SMALL["natssize"].decode("4:8:4:4:4")
    with refusal(ConfigError, "stage2.channels", "2 of the 2", "4, 6"):
        SMALL["resnet_like"].decode("4-8")
    with refusal(Infeasible, "space.stages", "16 × 16", "12 × 20"):
        ResNetLike(stages=4).check_shape(TaskShape((3, 12, 20), 5))
    for make in (lambda: NatsSize(channels=(4, 4)), lambda: ResNetLike(channels=(4, 4))):
        with refusal(ConfigError, "space.channels"):
            make()
