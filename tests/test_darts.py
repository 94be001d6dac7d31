from collections import defaultdict
from functools import cache
from itertools import combinations, permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nas.errors import Infeasible
from nas.space import Architecture, SearchSpace, TaskShape
from nas.testing.spaces import SpaceSuite, architectures
from search_spaces.darts import Darts, Place
from search_spaces.darts_cells import Cell, graph
from search_spaces.genotype import Edges, Genotype
from search_spaces.separable import OPERATIONS, WEIGHTLESS, FactorizedReduction, operation

CIFAR = TaskShape((3, 32, 32), 10)
SMALL = Darts(channels=2, cells=4)

quick = settings(max_examples=60, deadline=None)


class TestDarts(SpaceSuite):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return Darts(channels=2, cells=4)

    @pytest.fixture
    def shape(self) -> TaskShape:
        return TaskShape((3, 7, 6), 5)


def cells(operations: tuple[str, ...] = OPERATIONS) -> st.SearchStrategy[Edges]:
    """Draw the edges of a cell."""
    nodes = []
    for node in range(4):
        pairs = st.sampled_from(list(combinations(range(2 + node), 2)))
        ops = st.tuples(st.sampled_from(operations), st.sampled_from(operations))
        nodes.append(st.builds(lambda pair, op: tuple(zip(op, pair, strict=True)), pairs, ops))
    return st.builds(lambda *own: tuple(edge for edges in own for edge in edges), *nodes)


def cell(*nodes: str) -> Edges:
    """Read a cell such as `skip_connect0 sep_conv_3x31`, one text a node; a node left out is `none`."""
    texts = [*nodes, *["none0 none1"] * (4 - len(nodes))]
    return tuple((edge[:-1], int(edge[-1])) for text in texts for edge in text.split())


CONVOLUTION = cell("sep_conv_3x30 sep_conv_3x31")


# Isomorphism


def maps(
    edges: Edges, modules: list[nn.Module], inputs: tuple[Tensor, Tensor], *, reduction: bool
) -> list[Tensor]:
    """A cell's nodes as the paper describes them, one module an edge, zeros left out."""
    states: list[Tensor | None] = list(inputs)
    for node in range(4):
        total = None
        for (name, state), module in list(zip(edges, modules, strict=True))[2 * node : 2 * node + 2]:
            x = states[state]
            if name != "none" and x is not None:
                y = module(x)
                total = y if total is None else total + y
        states.append(total)
    half = operation("max_pool_3x3", 1, 2)(inputs[0]) if reduction else inputs[0]
    like = next((node for node in states[2:] if node is not None), half)
    return [torch.zeros_like(like) if node is None else node for node in states[2:]]


def strides(edges: Edges, *, reduction: bool) -> list[int]:
    return [2 if reduction and state < 2 else 1 for _, state in edges]


@cache
def random_operation(name: str, stride: int, seed: int) -> nn.Module:
    """An operation of two channels, float64, with random weights and statistics."""
    torch.manual_seed(seed)
    module = nn.Identity() if name == "none" else operation(name, 2, stride).double().eval()
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    for weight in module.parameters():
        weight.data.sub_(0.9)
    return module


SHARED = {
    (name, s): random_operation(name, s, 7 * i + s) for i, name in enumerate(OPERATIONS) for s in (1, 2)
}
INPUTS = tuple(torch.linspace(-1, 1, 32, dtype=torch.float64).mul(k).sin().view(1, 2, 4, 4) for k in (30, 77))


def fingerprint(nodes: list[Tensor]) -> Tensor:
    """The nodes in an order of their own."""
    order = sorted(range(4), key=lambda i: [round(v, 9) for v in nodes[i].flatten().tolist()])
    return torch.stack([nodes[i] for i in order])


def shared_output(edges: Edges, *, reduction: bool) -> Tensor:
    """The nodes with weights shared by operation, whatever their order."""
    modules = [
        SHARED[name, s] for (name, _), s in zip(edges, strides(edges, reduction=reduction), strict=True)
    ]
    with torch.no_grad():
        return fingerprint(maps(edges, modules, INPUTS, reduction=reduction))


@pytest.mark.parametrize("reduction", [False, True])
def test_equal_keys_compute_the_same(reduction: bool) -> None:
    """Cells drawn from few operations, so that many are isomorphic, against the paper's wiring."""
    drawn = torch.Generator().manual_seed(0)
    few = ("none", "none", "skip_connect", "max_pool_3x3", "sep_conv_3x3")
    groups = defaultdict(set)
    for _ in range(1500):
        edges = []
        for node in range(4):
            a, b = sorted(torch.randperm(2 + node, generator=drawn)[:2].tolist())
            picks = torch.randint(len(few), (2,), generator=drawn).tolist()
            edges += [(few[picks[0]], a), (few[picks[1]], b)]
        groups[graph(tuple(edges), reduction=reduction)].add(tuple(edges))
    several = [sorted(group)[:4] for group in groups.values() if len(group) > 1]
    assert len(several) > 60
    for group in several[:60]:
        outputs = torch.stack([shared_output(edges, reduction=reduction) for edges in group])
        torch.testing.assert_close(outputs, outputs[:1].expand_as(outputs), rtol=1e-9, atol=1e-9)


def weighted(edges: Edges, *, reduction: bool) -> list[int]:
    """The edges that bring weights of their own and see something."""
    fed, found = {0, 1}, []
    for i, ((name, state), stride) in enumerate(zip(edges, strides(edges, reduction=reduction), strict=True)):
        if name != "none" and state in fed:
            fed.add(2 + i // 2)
            if name not in WEIGHTLESS and not (name == "skip_connect" and stride == 1):
                found.append(i)
    return found


def same_network(one: Edges, two: Edges, *, reduction: bool) -> bool:
    """Whether some exchange of weights makes them equal: every one is tried."""
    both = [weighted(edges, reduction=reduction) for edges in (one, two)]
    if len(both[0]) != len(both[1]):
        return False

    def output(edges: Edges, own: dict[int, int]) -> Tensor:
        modules = [
            random_operation(name, stride, 100 + own[i]) if i in own else SHARED[name, stride]
            for i, ((name, _), stride) in enumerate(
                zip(edges, strides(edges, reduction=reduction), strict=True)
            )
        ]
        with torch.no_grad():
            return fingerprint(maps(edges, modules, INPUTS, reduction=reduction))

    expected = output(one, {edge: number for number, edge in enumerate(both[0])})
    return any(
        torch.allclose(expected, output(two, dict(zip(both[1], order, strict=True))), rtol=1e-9, atol=1e-9)
        for order in permutations(range(len(both[1])))
    )


def test_keys_are_equal_exactly_where_weights_can_be_exchanged() -> None:
    """Cells of two nodes and few operations, those together that agree with shared weights."""
    alike = defaultdict(set)
    few = ("none", "skip_connect", "max_pool_3x3", "dil_conv_3x3")
    for first in product(few, repeat=2):
        for pair in ((0, 1), (0, 2)):
            for second in product(few, repeat=2):
                edges = cell(f"{first[0]}0 {first[1]}1", f"{second[0]}{pair[0]} {second[1]}{pair[1]}")
                alike[str(shared_output(edges, reduction=False).round(decimals=8).tolist())].add(edges)
    told_apart = 0
    for group in alike.values():
        keys: dict[object, Edges] = {}
        for edges in sorted(group)[:12]:
            first = keys.setdefault(graph(edges, reduction=False), edges)
            assert same_network(first, edges, reduction=False), (first, edges)
        for one, two in combinations(keys.values(), 2):
            assert not same_network(one, two, reduction=False), (one, two)
            told_apart += 1
    assert len(alike) > 100
    assert told_apart  # one convolution used twice is not two


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (
            cell("sep_conv_3x30 none1", "max_pool_3x30 none1"),
            cell("max_pool_3x30 none1", "sep_conv_3x30 none1"),
        ),
        (cell("none0 none1", "sep_conv_3x30 dil_conv_5x52"), cell("none0 none1", "sep_conv_3x30 none1")),
        (
            cell("max_pool_3x30 none1", "max_pool_3x30 none1"),
            cell("max_pool_3x30 none1", "none0 skip_connect2"),
        ),
    ],
    ids=["nodes change places", "a zero's operation", "pooling twice"],
)
@pytest.mark.parametrize("reduction", [False, True])
def test_rewrites_keep_the_key(one: Edges, two: Edges, reduction: bool) -> None:
    assert one != two
    assert graph(one, reduction=reduction) == graph(two, reduction=reduction)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (
            cell("skip_connect0 skip_connect1", "none0 avg_pool_3x32"),
            cell("skip_connect0 skip_connect1", "avg_pool_3x30 avg_pool_3x31"),
        ),
        (
            cell("skip_connect0 none1", "skip_connect0 skip_connect2", "none0 max_pool_3x33"),
            cell("skip_connect0 none1", "skip_connect0 skip_connect2", "max_pool_3x30 max_pool_3x32"),
        ),
    ],
    ids=["the average of a sum", "the maximum of a map twice"],
)
def test_pooling_is_not_taken_apart(one: Edges, two: Edges) -> None:
    torch.testing.assert_close(*(shared_output(edges, reduction=False) for edges in (one, two)))
    assert graph(one, reduction=False) != graph(two, reduction=False)


def test_a_skip_connection_is_the_identity_only_where_the_size_stays() -> None:
    copy = cell("skip_connect0 none1", "sep_conv_3x30 none1")
    reader = cell("skip_connect0 none1", "none1 sep_conv_3x32")
    assert graph(copy, reduction=False) == graph(reader, reduction=False)
    assert graph(copy, reduction=True) != graph(reader, reduction=True)
    assert graph(copy, reduction=True).steps[0].stride == 2


@quick
@given(edges=cells(), data=st.data(), reduction=st.booleans())
def test_permuted_nodes_keep_the_key(edges: Edges, data: st.DataObject, reduction: bool) -> None:
    """Any order of the nodes that the two-inputs-of-earlier-states form can write."""
    states = [tuple(state for _, state in edges[2 * n : 2 * n + 2]) for n in range(4)]
    order: list[int] = []
    while len(order) < 4:
        done = {0, 1, *(2 + n for n in order)}
        order.append(
            data.draw(st.sampled_from([n for n in range(4) if n not in order and done >= {*states[n]}]))
        )
    place = {0: 0, 1: 1} | {2 + old: 2 + new for new, old in enumerate(order)}
    moved = []
    for old in order:
        own = [(name, place[state]) for name, state in edges[2 * old : 2 * old + 2]]
        moved += sorted(own, key=lambda edge: edge[1])
    assert graph(tuple(moved), reduction=reduction) == graph(edges, reduction=reduction)


@quick
@given(edges=cells(("none", "skip_connect", "sep_conv_3x3", "avg_pool_3x3")), data=st.data())
def test_what_computes_nothing_is_no_matter(edges: Edges, data: st.DataObject) -> None:
    """The input of a `none`, and the operation on a state that is zero, can be anything."""
    zero: set[int] = set()
    changed = list(edges)
    for node in range(4):
        for i in (2 * node, 2 * node + 1):
            name, state = edges[i]
            if state in zero:
                changed[i] = (data.draw(st.sampled_from(OPERATIONS)), state)
            elif name == "none":
                other = edges[i ^ 1][1]
                free = [s for s in range(2 + node) if s != other]
                changed[i] = ("none", data.draw(st.sampled_from(free)))
        if all(edges[i][0] == "none" or edges[i][1] in zero for i in (2 * node, 2 * node + 1)):
            zero.add(2 + node)
    for reduction in (False, True):
        assert graph(tuple(changed), reduction=reduction) == graph(edges, reduction=reduction)


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
        with pytest.raises(Infeasible, match=f"The {kind} cell is zero"):
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


# Arithmetic


def tied(network: nn.Module) -> dict[object, nn.Module]:
    """Share operations by cell, kind and stride, and let inputs mix all nodes alike; return the modules."""
    shared: dict[object, nn.Module] = {}
    for position, module in network.body.cells.items():
        assert isinstance(module, Cell)
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


# Cost


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
    with pytest.raises(Infeasible, match=r"'darts' needs images"):
        SMALL.build(SMALL.named["darts_v1"], TaskShape((3,), 1))


def test_places_double_the_channels_and_halve_the_map() -> None:
    places: list[Place] = []
    Darts(channels=4, cells=6).body(1, lambda place: places.append(place) or nn.Identity())
    assert [place.kind for place in places] == ["normal", "normal", "reduce", "normal", "reduce", "normal"]
    assert [place.channels for place in places] == [4, 4, 8, 8, 16, 16]
    assert [place.halve for place in places] == [False, False, False, True, False, True]
    assert [place.inputs for place in places] == [(12, 12), (12, 16), (16, 16), (16, 32), (32, 32), (32, 64)]
    assert isinstance(places[3].preprocessing(0), FactorizedReduction)
