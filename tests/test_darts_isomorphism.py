"""Which cells of DARTS are one: equal keys against the paper's wiring, and rewrites that keep a key."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from itertools import combinations, permutations, product

import pytest
import torch
from darts_wiring import cell, cells, maps, strides
from grids import rest_slow
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import randomized
from torch import Tensor, nn

from search_spaces.darts_cells import graph
from search_spaces.genotype import Edges
from search_spaces.separable import OPERATIONS, WEIGHTLESS, operation

quick = settings(max_examples=60, deadline=None)


@cache
def random_operation(name: str, stride: int, seed: int) -> nn.Module:
    """An operation of two channels, float64, with random weights and statistics."""
    return randomized(nn.Identity() if name == "none" else operation(name, 2, stride), seed)


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


@pytest.mark.parametrize("reduction", rest_slow([False, True], [False]))
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
