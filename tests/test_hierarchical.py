"""Hierarchical representations: the suite, what motifs compute against the paper's definition, mutations."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from collisions import INPUT, Values, applied, assert_no_collision, told
from facts import refusal

from nas.backbone import BackboneSpace
from nas.errors import ConfigError, Infeasible
from nas.space import Architecture, TaskShape
from nas.testing.backbones import BackboneSuite
from search_spaces.cells import pairs
from search_spaces.hierarchical import Hierarchical
from search_spaces.hierarchical_motifs import Motif

SMALL = Hierarchical(channels=4, motifs=2, nodes=3, cell_nodes=3)


class TestHierarchical(BackboneSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return SMALL

    @pytest.fixture
    def shape(self) -> TaskShape:
        return TaskShape((2, 7, 6), 5)


def output(edges: dict[str, Motif], name: str, nodes: int, cell_nodes: int, x: Values) -> Values | None:
    """What a motif computes by its definition, with weights shared by operation; None: it is zero."""
    size = cell_nodes if name == "cell" else nodes
    values: list[Values | None] = [x]
    for node in range(1, size):
        arriving = []
        for (source, end), own in zip(pairs(size), edges[name], strict=True):
            if end != node or own == "none" or values[source] is None:
                continue
            value = values[source]
            if own.startswith("motif"):
                made = output(edges, own, nodes, cell_nodes, value)
            else:
                made = value if own == "skip_connect" else applied(own, value)
            arriving += [] if made is None else [made]
        merged = arriving[0] if len(arriving) == 1 else None
        if len(arriving) > 1:
            merged = applied("merge", np.sum([applied("part", own) for own in arriving], axis=0))
        values.append(merged)
    return values[-1]


def function(space: Hierarchical, architecture: Architecture) -> object:
    found = output(space.edges_of(architecture), "cell", space.nodes, space.cell_nodes, INPUT)
    return None if found is None else told([found])


def test_equal_keys_are_equal_functions() -> None:
    assert assert_no_collision(SMALL, lambda a: function(SMALL, a), 1500) > 100


@pytest.mark.slow
def test_no_collision() -> None:
    space = Hierarchical()
    assert_no_collision(space, lambda a: function(space, a), 100_000)


def test_motifs_that_change_numbers_keep_the_key() -> None:
    """And those that no edge of the cell uses do not count."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        architecture = SMALL.sample(rng)
        edges = SMALL.edges_of(architecture)
        names = {"motif1": "motif2", "motif2": "motif1"}
        swapped = {
            "motif1": edges["motif2"],
            "motif2": edges["motif1"],
            "cell": tuple(names.get(own, own) for own in edges["cell"]),
        }
        values = {
            f"{name}.node{node}.from{source}": own
            for name, motif in swapped.items()
            for (source, node), own in zip(pairs(3), motif, strict=True)
        }
        assert SMALL.canonical(SMALL.choosing(values)) == SMALL.canonical(architecture)


def test_nodes_that_change_places_keep_the_key() -> None:
    space = Hierarchical(channels=2, motifs=1, nodes=4, cell_nodes=2)
    edges = {(0, 1): "conv_1x1", (0, 2): "sep_conv_3x3", (1, 3): "skip_connect", (2, 3): "max_pool_3x3"}
    keys = set()
    for order in permutations((1, 2)):
        place = {0: 0, 3: 3, 1: order[0], 2: order[1]}
        moved = {(place[a], place[b]): own for (a, b), own in edges.items()}
        text = "+".join(
            "|" + "".join(f"{moved.get((source, node), 'none')}~{source}|" for source in range(node))
            for node in range(1, 4)
        )
        keys.add(space.canonical(space.decode(f"{text}/|motif1~0|")))
    assert len(keys) == 1


def test_a_mutation_changes_one_edge_each_level_as_often() -> None:
    """Levels are drawn first: the cell's few edges change as often as those of all motifs."""
    space, rng, sites = Hierarchical(), np.random.default_rng(0), Counter[str]()
    for _ in range(1200):
        mutant = space.mutate(space.default, rng)
        [site] = [
            i
            for i, pair in enumerate(zip(mutant.choices, space.default.choices, strict=True))
            if len(set(pair)) > 1
        ]
        sites[space.decisions[site].name.split(".")[0]] += 1
    assert 500 < sites["cell"] < 700
    assert all(60 < sites[f"motif{number}"] < 140 for number in range(1, 7))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 84, 84)])
def test_networks_train_a_step(shape: tuple[int, ...]) -> None:
    rng, space = np.random.default_rng(0), Hierarchical(channels=2)
    for _ in range(2):
        try:
            network = space.build(space.sample(rng), TaskShape(shape, 5))
        except Infeasible:
            continue
        network(torch.randn(2, *shape)).square().sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_what_is_refused() -> None:
    text = SMALL.encode(SMALL.default)
    for wrong, facts in (
        (
            text.replace("sep_conv_3x3~0", "sep_conv_5x5~0", 1),
            ("motif1.node1.from0", "1 of the 9", "conv_1x1"),
        ),
        (text.replace("motif1~0", "motif3~0", 1), ("cell.node1.from0", "motif2")),
        (text.partition("/")[2], ("2 motifs",)),
    ):
        with refusal(ConfigError, *facts):
            SMALL.decode(wrong)
    with refusal(Infeasible, "'none'"):
        SMALL.build(Architecture("hierarchical", (0,) * 9), TaskShape((1, 8, 8), 5))
