from collections import defaultdict
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from facts import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import randomized
from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.errors import ConfigError, Infeasible, UnknownName
from nas.space import Architecture, TaskShape
from nas.testing.backbones import BackboneSuite
from nas.testing.spaces import architectures
from search_spaces.few_shot import RESIDUAL, FewShot
from search_spaces.few_shot_cells import DOWN, OPERATIONS, FewShotCell, down, operation, paths, routes

OMNIGLOT = TaskShape((1, 28, 28), 20)
SMALL = FewShot(channels=2, stages=2)
ONE_STAGE = FewShot(channels=2, stages=1)
CELLS = list(product(OPERATIONS, repeat=3))


class TestFewShot(BackboneSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return FewShot(channels=2, stages=2)

    @pytest.fixture
    def shape(self) -> TaskShape:
        return TaskShape((3, 7, 6), 5)


# Text


def test_decisions() -> None:
    assert [d.name for d in FewShot(stages=2).decisions] == [
        *("stage1.down", "stage1.node1.from0", "stage1.node2.from0", "stage1.node2.from1"),
        *("stage2.down", "stage2.node1.from0", "stage2.node2.from0", "stage2.node2.from1"),
    ]
    assert FewShot(stages=3).size == (len(DOWN) * len(OPERATIONS) ** 3) ** 3


def test_text_is_readable() -> None:
    text = "avg_pool|conv_1x1~0|+|none~0|sep_conv_3x3~1|/max_pool|avg_pool_3x3~0|+|conv_3x3~0|skip_connect~1|"
    architecture = SMALL.decode(text)
    assert list(SMALL.values(architecture).values()) == [
        *("avg_pool", "conv_1x1", "none", "sep_conv_3x3"),
        *("max_pool", "avg_pool_3x3", "conv_3x3", "skip_connect"),
    ]
    assert SMALL.encode(architecture) == text


@pytest.mark.parametrize(
    "text",
    [
        RESIDUAL,
        "/".join([RESIDUAL] * 3),
        RESIDUAL + "/" + RESIDUAL.replace("~1", "~2"),
        RESIDUAL + "/" + RESIDUAL[:-1],
    ],
)
def test_misprints_are_refused(text: str) -> None:
    with refusal(ConfigError, 2):
        SMALL.decode(text)


def test_names() -> None:
    assert SMALL.encode(SMALL.decode("residual")) == f"{RESIDUAL}/{RESIDUAL}"
    with refusal(UnknownName, "'residuel'", "'residual'"):
        SMALL.decode("residuel")


# Isomorphism


def random_operations() -> dict[str, nn.Module]:
    """An operation of each name, of two channels, float64, with random weights and statistics."""
    return {
        name: randomized(operation(name, 2), seed) for seed, name in enumerate(OPERATIONS) if name != "none"
    }


X = torch.linspace(-1, 1, 64, dtype=torch.float64).mul(99).sin().view(2, 2, 4, 4)


def node_by_node(operations: tuple[str, ...], modules: dict[str, nn.Module]) -> Tensor:
    """The cell's output, a node after the other; a `none`, and what sees one, is zero."""
    first, direct, second = operations
    output = torch.zeros_like(X)
    if direct != "none":
        output = output + modules[direct](X)
    if first != "none" and second != "none":
        output = output + modules[second](modules[first](X))
    return output


def convolutions(cell: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(name for way in routes(cell) for _, _, name in way if "conv" in name))


def test_cells_are_equal_exactly_where_their_functions_are() -> None:
    """All 216, up to a factor, which batch norm undoes.

    Weights are shared by operation, so that two convolutions that are added look like one, times 2: cells
    with different convolutions are different. No cell can use one convolution twice.
    """
    modules = random_operations()
    outputs: dict[object, set[object]] = defaultdict(set)
    by_paths: dict[object, set[object]] = defaultdict(set)
    with torch.no_grad():
        for cell in CELLS:
            output = node_by_node(cell, modules)
            scaled = output / output.abs().max().clamp(min=1e-9)
            value = (convolutions(cell), *scaled.flatten().mul(1e8).round().long().tolist())
            outputs[value].add(paths(cell))
            by_paths[paths(cell)].add(value)
    assert all(len(same) == 1 for same in (*outputs.values(), *by_paths.values()))
    assert len(outputs) == len(by_paths) == 115


@pytest.mark.parametrize("cell", ["skip_connect", "avg_pool_3x3"])
def test_a_path_that_comes_twice_is_one_network(cell: str) -> None:
    """As the whole network computes it, with both paths and with one, at random weights."""
    text = f"max_pool|{cell}~0|+|{cell}~0|skip_connect~1|/{RESIDUAL}"
    network = randomized(SMALL.build(SMALL.decode(text), OMNIGLOT), 0).train()
    x = torch.randn(8, 1, 12, 12, dtype=torch.float64)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 1e-12
    once = network(x)
    [path] = network.body[1].paths
    network.body[1].paths.append(path)
    torch.testing.assert_close(network(x), once, rtol=1e-7, atol=1e-7)
    assert SMALL.canonical(SMALL.decode(text)).count("+") == 1


def test_a_cell_computes_what_its_string_says() -> None:
    modules = random_operations()
    for operations in CELLS:
        own = paths(operations)
        if not own:
            continue
        text = f"max_pool|{operations[0]}~0|+|{operations[1]}~0|{operations[2]}~1|"
        cell = ONE_STAGE.build(ONE_STAGE.decode(text), OMNIGLOT).body[1].double().eval()
        assert isinstance(cell, FewShotCell)
        for route, path in zip(own, cell.paths, strict=True):
            for name, module in zip(route, path, strict=True):
                module.load_state_dict(modules[name].state_dict())
        times = len(routes(operations)) / len(own)
        with torch.no_grad():
            torch.testing.assert_close(times * cell(X), node_by_node(operations, modules))


def test_keys_are_expressions() -> None:
    cells = (("conv_3x3", "skip_connect", "conv_1x1"), ("skip_connect", "avg_pool_3x3", "conv_3x3"))
    text = "/".join(f"max_pool|{a}~0|+|{b}~0|{c}~1|" for a, b, c in cells)
    key = "max_pool 0+conv_1x1(conv_3x3(0))/max_pool avg_pool_3x3(0)+conv_3x3(0)"
    assert SMALL.canonical(SMALL.decode(text)) == key


def test_a_zero_cell_is_infeasible() -> None:
    dead = SMALL.decode(f"{RESIDUAL}/avg_pool|none~0|+|none~0|conv_3x3~1|")
    with refusal(Infeasible, "stage 2"):
        SMALL.build(dead, OMNIGLOT)
    with refusal(Infeasible, "stage 2"):
        SMALL.supernet(OMNIGLOT).extract(dead)


@pytest.mark.parametrize("name", OPERATIONS[1:])
def test_a_supernet_may_have_one_channel(name: str) -> None:
    """Depthwise convolutions then have one group, as others do."""
    space = FewShot(channels=1, stages=1)
    supernet, x = space.supernet(OMNIGLOT).double(), torch.randn(4, 1, 6, 6, dtype=torch.float64)
    architecture = space.decode(f"max_pool|{name}~0|+|conv_3x3~0|{name}~1|")
    found = supernet(x, supernet.mixture_of(architecture))
    torch.testing.assert_close(found, supernet.extract(architecture)(x))


@settings(max_examples=20, deadline=None)
@given(architectures(SMALL))
def test_every_weight_of_a_network_matters(architecture: Architecture) -> None:
    try:
        network = SMALL.build(architecture, OMNIGLOT)
    except Infeasible:
        return
    network(torch.randn(4, 1, 8, 8)).square().sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())


# Arithmetic


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (1, 2)])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", DOWN)
def test_a_stage_begins_as_it_says(name: str, first: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = down(name, 2, 3, first=first).double()
    x = torch.randn(4, 2, *size, dtype=torch.float64)
    conv, norm = (part for part in module if isinstance(part, nn.Conv2d | nn.BatchNorm2d))
    for weight in norm.parameters():
        weight.data.normal_()
    seen = x if first else x.clamp(min=0)
    y = F.conv2d(F.pad(seen, (1, 1, 1, 1)), conv.weight)
    mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
    gain, bias = norm.weight.view(1, -1, 1, 1), norm.bias.view(1, -1, 1, 1)
    y = (y - mean) / (var + 1e-5).sqrt() * gain + bias
    rows, columns = (range(0, s, 2) for s in size)
    windows = [[y[:, :, i : i + 2, j : j + 2] for j in columns] for i in rows]
    reduce = torch.amax if name == "max_pool" else torch.mean
    y = torch.stack([torch.stack([reduce(w, (2, 3)) for w in row], 2) for row in windows], 2)
    assert module(x).shape == (4, 3, -(-size[0] // 2), -(-size[1] // 2))
    torch.testing.assert_close(module(x), y)


def weights_of(name: str, channels: int) -> int:
    kernels = {
        "conv_1x1": channels**2,
        "conv_3x3": 9 * channels**2,
        "sep_conv_3x3": 9 * channels + channels**2,
    }
    return kernels[name] + 2 * channels if name in kernels else 0


@settings(max_examples=12, deadline=None)
@given(
    cells=st.lists(
        st.tuples(st.sampled_from(DOWN), *[st.sampled_from(OPERATIONS[1:])] * 3), min_size=3, max_size=3
    )
)
def test_sizes_are_those_of_the_formula(cells: list[tuple[str, ...]]) -> None:
    space = FewShot(channels=4, stages=3)
    text = "/".join(f"{d}|{a}~0|+|{b}~0|{c}~1|" for d, a, b, c in cells)
    total, width, before = 2 * 16, 4, 1
    for _, *operations in cells:
        total += 9 * before * width + 2 * width + sum(weights_of(name, width) for name in operations)
        before, width = width, 2 * width
    assert space.cost(space.decode(text), OMNIGLOT).parameters == total


def test_vectors_are_infeasible() -> None:
    with refusal(Infeasible, "'few_shot'"):
        SMALL.build(SMALL.named["residual"], TaskShape((3,), 1))


@pytest.mark.parametrize("side", [28, 84])
def test_networks_fit_the_usual_images(side: int) -> None:
    space = FewShot()
    network = space.build(space.named["residual"], TaskShape((3, side, side), 5))
    assert network(torch.zeros(2, 3, side, side)).shape == (2, network.out_features) == (2, 48)
