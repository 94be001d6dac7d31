import csv
import gzip
from collections import defaultdict
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from facts import refusal
from grids import rest_slow
from small_networks import randomized
from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.errors import ConfigError, Infeasible, UnknownName
from nas.space import Architecture, TaskShape
from nas.testing.backbones import BackboneSuite
from search_spaces.nasbench201 import RESNET, NasBench201
from search_spaces.nasbench201_cells import (
    OPERATIONS,
    PAIRS,
    Cell,
    edges_of,
    operation,
    prune,
    representative,
)

EXAMPLE = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
ZERO = "|none~0|+|none~0|nor_conv_3x3~1|+|none~0|none~1|skip_connect~2|"
CIFAR = TaskShape((3, 32, 32), 10)

ALL = [Architecture("nasbench201", choices) for choices in product(range(5), repeat=6)]
PRUNED, PUBLISHED = NasBench201(), NasBench201(channels=16, cells=5, prune=False)


class TestCells(BackboneSuite):
    @pytest.fixture(params=rest_slow(["pruned", "published"], ["pruned"]))
    def space(self, request: pytest.FixtureRequest) -> BackboneSpace:
        return NasBench201(channels=4, prune=request.param == "pruned")

    @pytest.fixture
    def shape(self) -> TaskShape:
        return TaskShape((3, 9, 7), 5)


@pytest.fixture(scope="module")
def table(nas_data: Path) -> list[dict[str, str]]:
    path = nas_data / "nasbench201" / "nasbench201.csv.gz"
    if not path.exists():
        pytest.skip(f"needs {path}")
    with gzip.open(path, "rt") as file:
        return list(csv.DictReader(file))


def operations_of(architecture: Architecture) -> tuple[str, ...]:
    return tuple(OPERATIONS[choice] for choice in architecture.choices)


@cache
def groups() -> dict[str, list[Architecture]]:
    found = defaultdict(list)
    for architecture in ALL:
        found[PRUNED.canonical(architecture)].append(architecture)
    return dict(found)


# Text


def test_every_cell_has_a_text() -> None:
    texts = [PRUNED.encode(architecture) for architecture in ALL]
    assert len(set(texts)) == PRUNED.size == 15_625
    assert [PRUNED.decode(text) for text in texts] == ALL


def test_texts_are_the_published_strings(table: list[dict[str, str]]) -> None:
    assert {row["arch"] for row in table} == {PRUNED.encode(architecture) for architecture in ALL}


def test_decisions_follow_the_string() -> None:
    values = PRUNED.values(PRUNED.decode(EXAMPLE))
    assert values == {
        "node1.from0": "nor_conv_3x3",
        "node2.from0": "nor_conv_3x3",
        "node2.from1": "avg_pool_3x3",
        "node3.from0": "skip_connect",
        "node3.from1": "nor_conv_3x3",
        "node3.from2": "skip_connect",
    }


@pytest.mark.parametrize(
    "text",
    [EXAMPLE[:-1], EXAMPLE + "|", EXAMPLE.replace("~2", "~1"), EXAMPLE.replace("avg", "max"), "|none~0|"],
)
def test_misspelt_strings_are_refused(text: str) -> None:
    with refusal(ConfigError, "'nasbench201'"):
        PRUNED.decode(text)


def test_names() -> None:
    assert PRUNED.encode(PRUNED.decode("resnet")) == RESNET
    with refusal(UnknownName, "'resent'", "'resnet'"):
        PRUNED.decode("resent")


# Isomorphism


def test_there_are_6466_networks() -> None:
    assert len(groups()) == 6_466


def test_groups_are_the_published_ones(table: list[dict[str, str]]) -> None:
    published = defaultdict(set)
    for row in table:
        published[row["iso"]].add(PRUNED.decode(row["arch"]))
    ours = {frozenset(group) for group in groups().values()}
    assert ours == {frozenset(group) for group in published.values()}


def test_features_count_the_ways_of_each_kind() -> None:
    """Against an enumeration of paths, edge by edge; equal networks have equal features."""

    def ways(operations: tuple[str, ...], node: int = 0, along: tuple[str, ...] = ()) -> list[str]:
        if node == 3:
            return ["+".join(along)]
        found = []
        for (source, target), name in zip(PAIRS, operations, strict=True):
            if source == node and name != "none":
                step = () if name == "skip_connect" else (name,)
                found += ways(operations, target, (*along, *step))
        return found

    kinds: dict[str, int] = {}
    for number in range(0, len(ALL), 97):
        counts = dict.fromkeys(kinds.values(), 0)
        for way in ways(operations_of(ALL[number])):
            place = int(np.flatnonzero(PUBLISHED.features(alone(way)))[0])
            assert kinds.setdefault(way, place) == place
            counts[place] = counts.get(place, 0) + 1
        features = PUBLISHED.features(ALL[number])
        assert {place: n for place, n in enumerate(features.tolist()) if n} == {
            place: n for place, n in counts.items() if n
        }
    assert len(set(kinds.values())) == len(kinds) > 30
    for group in groups().values():
        assert len({PUBLISHED.features(architecture).tobytes() for architecture in group}) == 1


def alone(way: str) -> Architecture:
    """Return a cell with this way alone."""
    steps = way.split("+") if way else []
    one, two, three = [*steps, *["skip_connect"] * (3 - len(steps))]
    on = {(0, 1): one, (1, 2): two, (2, 3): three}
    return Architecture("nasbench201", tuple(OPERATIONS.index(on.get(pair, "none")) for pair in PAIRS))


def test_a_zero_cell_has_features_only_where_it_is_built() -> None:
    assert not PUBLISHED.features(PUBLISHED.decode(ZERO)).any()
    with pytest.raises(Infeasible):
        PRUNED.features(PRUNED.decode(ZERO))


def test_nothing_folds_where_nothing_is_pruned() -> None:
    assert len({PUBLISHED.canonical(architecture) for architecture in ALL}) == 15_625


@cache
def shared_operations() -> dict[str, nn.Module]:
    """One module an operation, with random weights, gains, biases and statistics; float64."""
    return {name: randomized(operation(name, 2), seed) for seed, name in enumerate(OPERATIONS[1:])}


def output(edges: list) -> Tensor:
    """The cell's output on a fixed batch, weights shared by operation."""
    x = torch.linspace(-1, 1, 36, dtype=torch.float64).sin().view(2, 2, 3, 3)
    modules = shared_operations()
    with torch.no_grad():
        return Cell(edges, [modules[edge.operation] for edge in edges])(x)


@pytest.mark.slow
def test_equal_keys_compute_the_same_function() -> None:
    for group in groups().values():
        expected = output(representative(operations_of(group[0])))
        outputs = torch.stack([output(prune(edges_of(operations_of(cell)))) for cell in group])
        torch.testing.assert_close(outputs, expected.expand_as(outputs), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_groups_that_compute_the_same() -> None:
    """Weights are shared by operation; groups whose cells have different convolutions are different.

    Batch norm takes its statistics from the batch, with an ε so small that a factor leaves no trace.
    """
    modules = shared_operations()
    x = torch.linspace(-1, 1, 36, dtype=torch.float64).sin().view(2, 2, 3, 3)
    seen: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def digits(y: Tensor) -> tuple[int, ...]:
        return tuple(y.flatten().mul(1e7).round().long().tolist())

    def through(name: str, y: Tensor) -> Tensor:
        if name == "none" or not y.any():
            return torch.zeros_like(y)
        if (name, digits(y)) not in seen:
            module = modules[name]
            if isinstance(module, nn.Sequential):
                norm = module[2]
                z = module[1](y.clamp(min=0))
                seen[name, digits(y)] = F.batch_norm(
                    z, None, None, norm.weight, norm.bias, training=True, eps=1e-14
                )
            else:
                seen[name, digits(y)] = module(y)
        return seen[name, digits(y)]

    functions = set()
    with torch.no_grad():
        for group in groups().values():
            names, nodes = iter(operations_of(group[0])), [x]
            while len(nodes) < 4:
                nodes.append(sum((through(next(names), y) for y in nodes), torch.zeros_like(x)))
            convolutions = sorted(edge.operation for edge in representative(operations_of(group[0])))
            functions.add((digits(nodes[-1]), *(name for name in convolutions if "conv" in name)))
    assert len(functions) == 4_634


def test_unpruned_a_dead_edge_leaks_its_bias() -> None:
    dead = edges_of(operations_of(PRUNED.decode(ZERO)))
    assert prune(dead) == []
    assert output(dead).abs().max() > 0
    assert output(prune(dead)).abs().max() == 0


def test_a_network_has_no_dead_edge_and_none_missing() -> None:
    for group in groups().values():
        for architecture in group:
            live = {step for path in paths(architecture) for step in path}
            pruned = prune(edges_of(operations_of(architecture)))
            assert {(edge.source, edge.node) for edge in pruned} == live


def paths(architecture: Architecture) -> list[list[tuple[int, int]]]:
    """Every path from the input to the output that meets no `none`."""
    open_edges = {pair for pair, op in zip(PAIRS, operations_of(architecture), strict=True) if op != "none"}
    routes = [[(0, 3)], [(0, 1), (1, 3)], [(0, 2), (2, 3)], [(0, 1), (1, 2), (2, 3)]]
    return [route for route in routes if open_edges.issuperset(route)]


def test_a_cell_without_a_path_is_infeasible() -> None:
    for group in groups().values():
        assert bool(representative(operations_of(group[0]))) == bool(paths(group[0]))
    with refusal(Infeasible, "'none'"):
        PRUNED.build(PRUNED.decode(ZERO), CIFAR)
    assert PUBLISHED.build(PUBLISHED.decode(ZERO), CIFAR).out_features == 64


def test_one_convolution_used_twice_is_built_as_two() -> None:
    twice = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|skip_connect~1|skip_connect~2|"
    two = "|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_3x3~0|skip_connect~1|skip_connect~2|"
    assert {PRUNED.canonical(PRUNED.decode(text)) for text in (twice, two)} == {"#+#+(0)c3+(0)c3"}
    costs = [PRUNED.cost(PRUNED.decode(text), CIFAR) for text in (twice, two)]
    assert costs[0][:2] == costs[1][:2]  # the memory depends on the order in which they are computed
    as_published = NasBench201(prune=False)
    assert as_published.cost(as_published.decode(two), CIFAR)[:2] == costs[0][:2]
    assert as_published.cost(as_published.decode(twice), CIFAR).parameters < costs[0].parameters


@pytest.mark.parametrize("number", range(0, 6466, 700))
def test_every_weight_of_a_network_matters(number: int) -> None:
    architecture = next(group[0] for group in list(groups().values())[number:] if paths(group[0]))
    network = NasBench201(channels=2).build(architecture, CIFAR)
    network(torch.randn(8, 3, 8, 8)).square().sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())


# Arithmetic


def relu_conv_bn(x: Tensor, module: nn.Sequential) -> Tensor:
    conv, norm = module[1], module[2]
    y = F.conv2d(x.clamp(min=0), conv.weight, padding="same")
    mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
    gain, bias = norm.weight.view(1, -1, 1, 1), norm.bias.view(1, -1, 1, 1)
    return (y - mean) / (var + 1e-5).sqrt() * gain + bias


def average(x: Tensor) -> Tensor:
    """The mean over those of the 3×3 neighbours that lie inside."""
    box = torch.ones(x.shape[1], 1, 3, 3, dtype=x.dtype)
    inside = F.conv2d(torch.ones_like(x), box, padding=1, groups=x.shape[1])
    return F.conv2d(x, box, padding=1, groups=x.shape[1]) / inside


def test_a_cell_computes_what_its_string_says() -> None:
    torch.manual_seed(1)
    edges = edges_of(operations_of(PRUNED.decode(EXAMPLE)))
    cell = Cell(edges, [operation(edge.operation, 3) for edge in edges]).double()
    for weight in cell.parameters():
        weight.data.normal_()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    one = relu_conv_bn(x, cell.operations[0])
    two = relu_conv_bn(x, cell.operations[1]) + average(one)
    three = x + relu_conv_bn(one, cell.operations[4]) + two
    torch.testing.assert_close(cell(x), three)


def parameters(operations: tuple[str, ...], width: int, cells: int, inputs: int = 3) -> int:
    """Weights of the published network, without its classifier."""
    kernels = [{"nor_conv_1x1": 1, "nor_conv_3x3": 9}.get(operation, 0) for operation in operations]
    total = 9 * inputs * width + 2 * width + 2 * 4 * width
    for c in (width, 2 * width, 4 * width):
        total += cells * sum(kernel * c * c + 2 * c for kernel in kernels if kernel)
    for c in (width, 2 * width):
        total += 9 * c * 2 * c + 9 * 4 * c * c + 2 * 4 * c + c * 2 * c
    return total


def macs(operations: tuple[str, ...], width: int, cells: int, side: int, inputs: int = 3) -> int:
    kernels = sum({"nor_conv_1x1": 1, "nor_conv_3x3": 9}.get(operation, 0) for operation in operations)
    total, area = 9 * inputs * width * side**2, side**2
    for c in (width, 2 * width, 4 * width):
        total += cells * kernels * c * c * area
        side = -(-side // 2)
        area = side**2
        if c < 4 * width:
            total += (9 * c * 2 * c + 9 * 4 * c * c + c * 2 * c) * area
    return total


def test_formulas_are_the_published_figures(table: list[dict[str, str]]) -> None:
    classifier = 64 * 10 + 10
    for row in table:
        operations = operations_of(PUBLISHED.decode(row["arch"]))
        assert round(float(row["params_M_c10"]) * 1e6) == parameters(operations, 16, 5) + classifier
        assert round(float(row["flops_M_c10"]) * 1e6) == macs(operations, 16, 5, 32) + classifier


@pytest.mark.parametrize("seed", range(8))
def test_costs_are_those_of_the_formulas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    space = NasBench201(channels=int(rng.integers(1, 24)), cells=int(rng.integers(1, 4)), prune=False)
    architecture, side = space.sample(rng), int(rng.integers(1, 40))
    cost = space.cost(architecture, TaskShape((1, side, side), 5))
    operations = operations_of(architecture)
    assert cost.parameters == parameters(operations, space.channels, space.cells, inputs=1)
    assert cost.macs == macs(operations, space.channels, space.cells, side, inputs=1)


def test_the_published_size_costs_what_was_published() -> None:
    cost = PUBLISHED.cost(PUBLISHED.decode(EXAMPLE), CIFAR)
    assert cost.parameters + 650 == 802_426
    assert cost.macs + 650 == 113_951_370


def test_vectors_are_infeasible() -> None:
    with refusal(Infeasible, "'nasbench201'", "(4,)"):
        PRUNED.cost(PRUNED.decode(EXAMPLE), TaskShape((4,), 1))
