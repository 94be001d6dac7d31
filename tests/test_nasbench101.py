"""NAS-Bench-101: the suite, isomorphism against networkx, published parameters, and its table."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from facts import refusal
from small_table import configure, look_up, write

from nas.backbone import BackboneSpace
from nas.errors import ConfigError, Infeasible
from nas.space import Architecture, TaskShape
from nas.testing.backbones import BackboneSuite
from search_spaces.nasbench101 import RESNET, NasBench101
from search_spaces.nasbench101_cells import Graph101, parsed, pruned

SPACE = NasBench101(channels=8)
DATA = Path(os.environ.get("NAS_DATA", "")) / "nasbench101_part" / "nasbench101_part.csv.gz"
published = pytest.mark.skipif("NAS_DATA" not in os.environ, reason="set NAS_DATA to a folder with real data")


class TestNasBench101(BackboneSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return SPACE

    @pytest.fixture
    def shape(self) -> TaskShape:
        return TaskShape((2, 6, 5), 5)


def as_graph(cell: Graph101) -> nx.DiGraph:
    graph = nx.DiGraph()
    for vertex, name in enumerate(("input", *cell.operations, "output")):
        graph.add_node(vertex, op=name)
    graph.add_edges_from((s, v) for v, sources in enumerate(cell.sources) for s in sources)
    return graph


def isomorphic(a: Graph101, b: Graph101) -> bool:
    same = nx.algorithms.isomorphism.categorical_node_match("op", None)
    return nx.is_isomorphic(as_graph(a), as_graph(b), node_match=same)


def few(rng: np.random.Generator) -> Architecture:
    """A cell of two operations and few vertices, so that many are isomorphic."""
    edges = rng.random(21) < 0.35
    return Architecture("nasbench101", (*map(int, edges), *map(int, rng.integers(2, size=5))))


def invariant(cell: Graph101) -> object:
    degrees = sorted(map(len, cell.sources))
    return degrees, sorted(cell.operations)


@pytest.mark.parametrize("count", [1500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_keys_are_equal_exactly_where_graphs_are_isomorphic(count: int) -> None:
    rng, kinds, shared = np.random.default_rng(0), defaultdict(dict), 0
    for _ in range(count):
        architecture = few(rng)
        cell, key = pruned(SPACE.graph_of(architecture)), SPACE.canonical(architecture)
        if cell is None:
            assert key == "none"
            continue
        known = kinds[str(invariant(cell))]
        if key in known:
            shared += known[key] != cell
            assert known[key] == cell or isomorphic(known[key], cell)
        else:
            assert not any(isomorphic(other, cell) for other in islice(known.values(), 60))
            known[key] = cell
    assert shared > count / 100


def relabelled(cell: Graph101, rng: np.random.Generator) -> Graph101:
    """The same cell, its vertices in another order that puts sources first."""
    size, done, left = len(cell.sources), [0], list(range(1, len(cell.sources) - 1))
    while left:
        free = [v for v in left if set(cell.sources[v]) <= set(done)]
        done.append(free[int(rng.integers(len(free)))])
        left.remove(done[-1])
    place = {v: i for i, v in enumerate([*done, size - 1])}
    sources = [tuple(sorted(place[s] for s in cell.sources[v])) for v in (*done, size - 1)]
    return Graph101(tuple(cell.operations[v - 1] for v in done[1:]), tuple(sources))


def test_samples_have_networks_and_any_order_of_their_vertices_has_one_key() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        architecture = SPACE.sample(rng)
        assert SPACE.has_network(architecture)
        assert SPACE.has_network(SPACE.mutate(architecture, rng))
        cell = pruned(SPACE.graph_of(architecture))
        assert cell is not None
        other = SPACE.decode(str(relabelled(cell, rng)))
        assert SPACE.canonical(other) == SPACE.canonical(architecture)
        assert np.array_equal(SPACE.features(other), SPACE.features(architecture))


@pytest.mark.slow
def test_no_collision() -> None:
    """Of 100,000 samples, those of one key are isomorphic."""
    rng, known = np.random.default_rng(2), {}
    for _ in range(100_000):
        architecture = SPACE.sample(rng)
        cell = pruned(SPACE.graph_of(architecture))
        first = known.setdefault(SPACE.canonical(architecture), cell)
        assert first == cell or isomorphic(first, cell)


def test_cells_without_a_network() -> None:
    full = Architecture("nasbench101", (*[1] * 21, *[0] * 5))
    empty = Architecture("nasbench101", (*[0] * 21, *[0] * 5))
    for architecture, facts in ((full, ("21", "9")), (empty, ("path",))):
        with refusal(Infeasible, *facts):
            SPACE.build(architecture, TaskShape((1, 8, 8), 5))
    assert SPACE.canonical(empty) == "none"


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 84, 84)])
def test_networks_train_a_step(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    for _ in range(2):
        network = SPACE.build(SPACE.sample(rng), TaskShape(shape, 5))
        network(torch.randn(2, *shape)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_texts() -> None:
    assert SPACE.decode("0100001000010000 conv3x3 conv1x1") == SPACE.decode(
        "conv3x3@0 conv1x1@1 conv3x3@ conv3x3@ conv3x3@ output@2"
    )
    for text, facts in (
        (RESNET.replace("conv3x3@1", "conv5x5@1"), ("vertex2.op", "23 of the 26", "conv1x1")),
        (RESNET.replace("conv3x3@1", "conv3x3@4"), ("edge4.2",)),
        ("0110", ("vertices",)),
    ):
        with refusal(ConfigError, *facts):
            SPACE.decode(text)


@published
def test_networks_have_the_published_parameters() -> None:
    """With the paper's sizes and a classifier for ten classes, of rows of the published table."""
    space = NasBench101(channels=128, cells=3)
    for row in pd.read_csv(DATA, dtype=str, nrows=2000).iloc[::50].itertuples():
        cell = parsed(f"{row.adjacency_rowmajor} {row.ops}")
        assert cell is not None
        assert pruned(cell) == cell
        with torch.device("meta"):
            network = space.network(cell, 3)
        assert sum(p.numel() for p in network.parameters()) + 5130 == int(row.params)


@published
@pytest.mark.slow
def test_the_published_cells_have_a_key_each() -> None:
    rows = pd.read_csv(DATA, dtype=str, keep_default_na=False)
    keys = {SPACE.canonical(SPACE.decode(f"{a} {o}".strip())) for a, o in _texts(rows)}
    assert len(keys) == len(rows)


def _texts(rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    return zip(rows["adjacency_rowmajor"], rows["ops"], strict=True)


def test_a_table_in_the_published_form_is_looked_up(tmp_path: Path) -> None:
    """By the key: a row serves every cell that is isomorphic to it."""
    rows = [("0111001100010000", "conv3x3 conv1x1", 0.9), ("0100", "", 0.5)]
    table = write(pd.DataFrame(rows, columns=["adjacency", "ops", "valid"]), tmp_path / "cells.csv")
    config = configure(table, space="nasbench101", settings={"arch": ["adjacency", "ops"], "partial": True})
    for text, score in (
        ("0111001100010000 conv3x3 conv1x1", 0.9),
        ("conv1x1@0 conv3x3@0 conv3x3@ conv3x3@ conv3x3@2 output@0+2", None),
        ("conv1x1@ conv3x3@0 conv1x1@0+2 conv3x3@ conv3x3@ output@0+3+2", 0.9),
        ("conv1x1@0 maxpool3x3@1 conv3x3@ conv3x3@ conv3x3@ output@0", 0.5),
    ):
        outcome = look_up(config, text)
        assert (None if outcome.score is None else outcome.score.value) == score


@pytest.mark.slow
@published
def test_the_published_table_is_searched() -> None:
    """Of 30,001 rows, one is found by another order of its vertices, with its score at each length."""
    settings = {"arch": ["adjacency_rowmajor", "ops"], "partial": True, "cost": "train_time_108_s"}
    config = configure(DATA, space="nasbench101", settings=settings | {"metric": "valid_108"})
    row = pd.read_csv(DATA, dtype=str, nrows=1).iloc[0]
    cell = parsed(f"{row.adjacency_rowmajor} {row.ops}")
    assert cell is not None
    outcome = look_up(config, str(relabelled(cell, np.random.default_rng(3))))
    assert outcome.score.value == float(row.valid_108)
