"""Drawings: places that do not overlap, files, and the lines of a terminal."""

from __future__ import annotations

import random
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from facts import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import isotonic_regression

from nas.drawing.graph import Arrow, Drawing, Graph, Vertex, chained
from nas.drawing.layout import ROOM, Box, Layout, _apart, lay_out
from nas.drawing.palette import COLOURS, PLAIN, colour, ink
from nas.drawing.picture import write
from nas.drawing.sketch import sketch
from nas.drawing.svg import svg
from nas.errors import ConfigError
from search_spaces.chain import Chain
from search_spaces.darts import Darts
from search_spaces.few_shot import FewShot
from search_spaces.nasbench201 import NasBench201

SVG = "{http://www.w3.org/2000/svg}"


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draw a graph of at most nine vertices, some arrows with a name, at most one between two vertices."""
    count = draw(st.integers(1, 9))
    vertices = tuple(Vertex(f"v{i}", draw(st.sampled_from(["", "8 channels"]))) for i in range(count))
    pairs = draw(st.lists(st.sampled_from([*combinations(range(count), 2)] or [(0, 0)]), unique=True))
    named = (draw(st.sampled_from(["", "conv", "sep_conv_3x3"])) for _ in pairs)
    return Graph(
        "cell", vertices, tuple(Arrow(*p, n) for p, n in zip(pairs, named, strict=True) if p[0] < p[1])
    )


def apart(a: Box, b: Box) -> bool:
    beside = abs(a.x - b.x) >= (a.width + b.width) / 2
    return beside or abs(a.y - b.y) >= (a.height + b.height) / 2 + ROOM / 2


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_no_two_things_cover_each_other(graph: Graph) -> None:
    placed = lay_out(graph)
    assert [box.vertex for box in placed.boxes if box.vertex].count(None) == 0
    assert {id(box.vertex) for box in placed.boxes if box.vertex} == set(map(id, graph.vertices))
    names = sorted(arrow.operation for arrow in graph.arrows if arrow.operation)
    assert sorted(box.arrow.operation for box in placed.boxes if box.arrow) == names
    assert all(apart(a, b) for a, b in combinations(placed.boxes, 2))
    for box in placed.boxes:
        assert box.width / 2 <= box.x <= placed.width - box.width / 2 + 1e-6
        assert box.height / 2 - 1e-6 <= box.y <= placed.height - box.height / 2 + 1e-6
    for route in placed.routes:
        ends = [graph.vertices[route.arrow.source], graph.vertices[route.arrow.target]]
        assert [route.boxes[0].vertex, route.boxes[-1].vertex] == ends
        for (ax, _), *_, (bx, _) in route.pieces():
            assert ax < bx


def crossings(placed: Layout) -> int:
    pieces = [(a, b) for route in placed.routes for a, *_, b in route.pieces()]
    return sum(
        a[0] == c[0] and b[0] == d[0] and (a[1] - c[1]) * (b[1] - d[1]) < 0
        for (a, b), (c, d) in combinations(pieces, 2)
    )


def test_a_tree_and_a_ladder_are_drawn_without_crossings() -> None:
    tree = Graph(
        "", tuple(Vertex(str(i)) for i in range(7)), tuple(Arrow((i - 1) // 2, i) for i in (4, 1, 6, 3, 2, 5))
    )
    ladder = Graph(
        "",
        tuple(Vertex(str(i)) for i in range(6)),
        (Arrow(1, 2, "a"), Arrow(0, 3, "b"), Arrow(2, 4, "c"), Arrow(3, 5, "d"), Arrow(1, 5), Arrow(0, 5)),
    )
    assert crossings(lay_out(tree)) == crossings(lay_out(ladder)) == 0


def test_a_row_is_straight() -> None:
    placed = lay_out(chained("", map(Vertex, "abcdef")))
    assert {box.y for box in placed.boxes} == {placed.height / 2}


def test_places_are_the_nearest_to_those_wanted() -> None:
    """By squares, as isotonic regression finds them."""
    rng = random.Random(0)
    for _ in range(50):
        layer = [Box(0, 10, rng.uniform(4, 40)) for _ in range(rng.randint(1, 8))]
        wanted = [rng.uniform(-50, 50) for _ in layer]
        needs = [(a.height + b.height) / 2 + ROOM for a, b in pairwise(layer)]
        offsets = np.cumsum([0.0, *needs])
        expected = isotonic_regression(np.array(wanted) - offsets) + offsets
        np.testing.assert_allclose(_apart(layer, wanted), expected)


DRAWN = [
    (FewShot(), "residual"),
    (NasBench201(), "resnet"),
    (Darts(), "darts_v2"),
    (Chain(), "conv4"),
]


def drawing(space: FewShot | NasBench201 | Darts | Chain, text: str) -> Drawing:
    architecture = space.decode(text)
    return Drawing(
        f"{space.name}: {text}", space.graphs(architecture), space.operations, {"learner.lr": "0.01"}
    )


@pytest.mark.parametrize(("space", "text"), DRAWN, ids=lambda value: getattr(value, "name", value))
def test_an_svg_says_all_and_fetches_nothing(space: FewShot | NasBench201 | Darts | Chain, text: str) -> None:
    drawn = drawing(space, text)
    root = ET.fromstring(svg(drawn))
    texts = {element.text for element in root.iter(f"{SVG}text")}
    for graph in drawn.graphs:
        assert {graph.title, *(vertex.label for vertex in graph.vertices)} <= texts
        assert {arrow.operation for arrow in graph.arrows} - {""} <= texts
    assert drawn.title in texts
    assert not any("href" in name or name == "src" for element in root.iter() for name in element.attrib)
    pills = [e for e in root.iter(f"{SVG}rect") if "fill" in e.attrib]
    assert len(pills) == sum(bool(arrow.operation) for graph in drawn.graphs for arrow in graph.arrows)
    dashed = [e for e in root.iter(f"{SVG}path") if "identity" in e.attrib.get("class", "")]
    assert len(dashed) == sum(arrow.identity for graph in drawn.graphs for arrow in graph.arrows)


def test_a_name_is_no_markup() -> None:
    graph = Graph("<script>", (Vertex("a<b"), Vertex("c")), (Arrow(0, 1, "x&y"),))
    text = svg(Drawing("</svg><script>", (graph,), ("x&y",), {"<i>": "&"}))
    texts = {element.text for element in ET.fromstring(text).iter(f"{SVG}text")}
    assert {"<script>", "a<b", "x&y", "</svg><script>"} <= texts


@pytest.mark.parametrize(("kind", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<svg")])
def test_files(tmp_path: Path, kind: str, magic: bytes) -> None:
    file = tmp_path / f"cell{kind}"
    write(drawing(FewShot(), "residual"), file)
    assert file.read_bytes().startswith(magic)
    assert [*tmp_path.iterdir()] == [file]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with refusal(ConfigError, "cell.gif", ".svg", ".png", ".pdf"):
        write(drawing(FewShot(), "residual"), tmp_path / "cell.gif")


def test_colours_are_those_of_operations() -> None:
    operations = FewShot().operations
    assert "none" not in operations
    assert "skip_connect" not in operations
    assert len({colour(name, operations) for name in operations}) == len(operations)
    assert colour("another", operations) == PLAIN
    assert {ink(each) for each in ("#000000", "#332288", "#117733")} == {"#ffffff"}
    assert {ink(each) for each in ("#ffffff", "#f0e442", "#88ccee")} == {"#111111"}
    assert len(set(COLOURS)) == len(COLOURS)


def test_a_sketch() -> None:
    lines = sketch(drawing(NasBench201(), "resnet"), 60).split("\n")
    assert lines == [
        "network",
        "  image → conv 3×3 (8 channels) → cell (8 channels)",
        "  → residual /2 → cell (16 channels) → residual /2",
        "  → cell (32 channels) → average",
        "",
        "cell",
        "  input  ── nor_conv_3x3 ───→ node 1",
        "  node 1 ── nor_conv_3x3 ───→ node 2",
        "  input  ╌╌ skip_connect ╌╌┐",
        "  node 2 ╌╌ skip_connect ╌╌┴→ output",
    ]


@pytest.mark.parametrize("cells", [4, 5, 8])
def test_the_row_of_darts_has_the_channels_of_its_cells(cells: int) -> None:
    space = Darts(cells=cells)
    row = space.graphs(space.decode("darts_v1"))[0].vertices
    built = {
        "normal": [n for n in row if n.label.endswith("normal")],
        "reduce": [n for n in row if n.label == "reduce"],
    }
    assert [n.detail for n in built["reduce"]] == ["4 × 8 channels", "4 × 16 channels"]
    assert built["normal"][-1].detail == f"4 × {space.out_features // 4} channels"
