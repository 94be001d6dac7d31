"""Networks of DARTS: the suite, the paper's wiring, published sizes."""

from __future__ import annotations

import pytest
import torch
from darts_wiring import cell, cells, maps, strides
from facts import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas.backbone import BackboneSpace
from nas.errors import Infeasible
from nas.space import Architecture, TaskShape
from nas.testing.backbones import BackboneSuite
from nas.testing.spaces import architectures
from search_spaces.darts import Darts
from search_spaces.genotype import Edges, Genotype
from search_spaces.separable import OPERATIONS, FactorizedReduction
from search_spaces.stacked import GraphCell, Place

CIFAR = TaskShape((3, 32, 32), 10)
SMALL = Darts(channels=2, cells=4)
CONVOLUTION = cell("sep_conv_3x30 sep_conv_3x31")


class TestDarts(BackboneSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return Darts(channels=2, cells=4)

    @pytest.fixture
    def shape(self) -> TaskShape:
        return TaskShape((3, 7, 6), 5)


def architecture(normal: Edges, reduce: Edges) -> Architecture:
    return SMALL.architecture_of(Genotype(normal, reduce))


def test_a_cell_that_nothing_reads_is_left_out() -> None:
    """Normal cells that read the last but one alone: of N R N R N they pass over both reductions."""
    space, past = Darts(channels=2, cells=5), cell("sep_conv_3x30 none1", "skip_connect0 none1")
    assert space.kinds == ("normal", "reduce", "normal", "reduce", "normal")
    keys = {space.canonical(architecture(past, reduce)) for reduce in (CONVOLUTION, past, cell())}
    assert len(keys) == 1
    network = space.build(architecture(past, cell()), CIFAR)
    assert list(network.body.cells) == ["0", "2", "4"]
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 32)
    assert len({space.canonical(architecture(CONVOLUTION, r)) for r in (CONVOLUTION, past)}) == 2


def test_a_zero_cell_is_infeasible() -> None:
    for normal, reduce, kind in ((cell(), CONVOLUTION, "normal"), (CONVOLUTION, cell(), "reduce")):
        with refusal(Infeasible, f"{kind} cell"):
            SMALL.build(architecture(normal, reduce), CIFAR)


@settings(max_examples=6, deadline=None)
@given(architectures(SMALL))
def test_every_weight_of_a_network_matters(architecture: Architecture) -> None:
    try:
        network = SMALL.build(architecture, CIFAR)
    except Infeasible:
        return
    network(torch.randn(4, 3, 4, 4)).square().sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())


def tied(network: nn.Module) -> dict[object, nn.Module]:
    """Share operations by cell, kind and stride, and let inputs mix all nodes alike; return the modules."""
    shared: dict[object, nn.Module] = {}
    for position, module in network.body.cells.items():
        assert isinstance(module, GraphCell)
        for step, own in zip(module.graph.steps, module.operations, strict=True):
            same = shared.setdefault((int(position), step.operation, step.stride), own)
            own.load_state_dict(same.state_dict())
        for state, own in enumerate(module.preprocessing):
            shared[int(position), state] = own
            for weight in own.parameters():
                if weight.dim() == 4 and int(position) - 2 + state >= 0:
                    one = weight.data[:, : weight.shape[1] // 4]
                    weight.data.copy_(one.repeat(1, 4, 1, 1))
    return shared


@settings(max_examples=8, deadline=None)
@given(architecture=architectures(SMALL), cells=st.integers(4, 6), size=st.sampled_from([(7, 5), (8, 8)]))
def test_a_network_is_wired_as_the_paper_says(
    architecture: Architecture, cells: int, size: tuple[int, int]
) -> None:
    """Against the paper's wiring, node by node; weights are tied so that the order of nodes is no matter."""
    space = Darts(channels=2, cells=cells)
    try:
        network = space.build(architecture, CIFAR).double()
    except Infeasible:
        return
    for weight in network.parameters():
        weight.data.normal_()
    shared = tied(network)
    x = torch.randn(3, 3, *size, dtype=torch.float64)
    genotype = space.genotype_of(architecture)._asdict()
    before = last = network.body.stem(x)
    for position in range(cells):
        kind = "reduce" if position in (cells // 3, 2 * cells // 3) else "normal"
        edges, reduction = genotype[kind], kind == "reduce"
        if f"{position}" not in network.body.cells:
            before, last = last, torch.full((3, 8, 1, 1), torch.nan)
            continue
        inputs = [shared[position, state](each) for state, each in enumerate((before, last))]
        modules = [
            shared.get((position, name, stride), nn.Identity())
            for (name, _), stride in zip(edges, strides(edges, reduction=reduction), strict=True)
        ]
        before, last = last, torch.cat(maps(edges, modules, tuple(inputs), reduction=reduction), 1)
    mine, expected = (y.view(3, 4, 8) for y in (network(x), last.mean((2, 3))))
    order = [
        sorted(range(4), key=lambda i, y=y: [round(v, 6) for v in y[:, i].flatten().tolist()])
        for y in (mine, expected)
    ]
    torch.testing.assert_close(mine[:, order[0]], expected[:, order[1]], rtol=1e-6, atol=1e-6)


def weights_of(name: str, channels: int, stride: int) -> int:
    match name[:3]:
        case "sep":
            return 2 * (channels * int(name[-1]) ** 2 + channels**2 + 2 * channels)
        case "dil":
            return channels * int(name[-1]) ** 2 + channels**2 + 2 * channels
        case "ski":
            return (channels**2 + 2 * channels) * (stride == 2)
    return 0


def parameters(genotype: Genotype, channels: int, cells: int) -> int:
    """Weights of the published network, without its classifiers."""
    before = last = 3 * channels
    total = 3 * 9 * last + 2 * last
    for i in range(cells):
        reduction = i in (cells // 3, 2 * cells // 3)
        channels *= 1 + reduction
        total += (before + last) * channels + 2 * 2 * channels
        edges = genotype.reduce if reduction else genotype.normal
        pairs = zip(edges, strides(edges, reduction=reduction), strict=True)
        total += sum(weights_of(name, channels, stride) for (name, _), stride in pairs)
        before, last = last, 4 * channels
    return total


@pytest.mark.parametrize(
    ("name", "count", "macs"), [("darts_v1", 3_169_414, 501), ("darts_v2", 3_349_342, 528)]
)
def test_published_networks_have_the_published_size(name: str, count: int, macs: int) -> None:
    """3.3 M parameters and 528 M multiply-accumulates, with the classifier for ten classes."""
    space = Darts(channels=36, cells=20)
    cost = space.cost(space.named[name], CIFAR)
    classifier = 576 * 10 + 10
    assert cost.parameters + classifier == count
    assert cost.parameters == parameters(space.genotype_of(space.named[name]), 36, 20)
    assert round(cost.macs / 1e6) == macs


@settings(max_examples=5, deadline=None)
@given(normal=cells(OPERATIONS[1:]), reduce=cells(OPERATIONS[1:]), depth=st.integers(4, 8))
def test_sizes_are_those_of_the_formula(normal: Edges, reduce: Edges, depth: int) -> None:
    genotype = Genotype(normal, reduce)
    space = Darts(channels=4, cells=depth)
    architecture = space.architecture_of(genotype)
    assert space.cost(architecture, CIFAR).parameters == parameters(genotype, 4, depth)


def test_vectors_are_infeasible() -> None:
    with refusal(Infeasible, "'darts'"):
        SMALL.build(SMALL.named["darts_v1"], TaskShape((3,), 1))


def test_places_double_the_channels_and_halve_the_map() -> None:
    places: list[Place] = []
    Darts(channels=4, cells=6).body(1, lambda place: places.append(place) or nn.Identity())
    assert [place.kind for place in places] == ["normal", "normal", "reduce", "normal", "reduce", "normal"]
    assert [place.channels for place in places] == [4, 4, 8, 8, 16, 16]
    assert [place.halve for place in places] == [False, False, False, True, False, True]
    assert [place.inputs for place in places] == [(12, 12), (12, 16), (16, 16), (16, 32), (32, 32), (32, 64)]
    assert isinstance(places[3].preprocessing(0), FactorizedReduction)
