"""Pictures: what their lines hold, computed by hand, and that files and terminals show it."""

from __future__ import annotations

import builtins
import errno
import math
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import nas
from facts import lacking, refusal
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from recorded import LOOKED_UP, search

from nas.comparison.curves import Curve, curves
from nas.comparison.draw import draw
from nas.comparison.groups import find, grouped
from nas.comparison.panels import FEW, Line, Panel, caption, window
from nas.comparison.series import anytime, measured, metrics
from nas.comparison.text import _labels, render
from nas.comparison.units import metric_name, score_name
from nas.controller import Measurement, Outcome, Score
from nas.errors import ConfigError, NasError, NotFound, UnknownName
from nas.settings.search import validate
from nas.states import TrialState
from nas.storage.searches import NewSearch
from nas.storage.store import Store
from nas.storage.trials import NewTrial
from nas.testing.toys import Toy

NAN = math.nan
SVG = "{http://www.w3.org/2000/svg}"


def line(label: str, x: list[float], mean: list[float], half: float = NAN, *, baseline: bool = False) -> Line:
    return Line(label, 3, baseline, np.array(x), np.array(mean), np.full(len(x), half))


def panel(*lines: Line, steps: bool = True) -> Panel:
    return Panel("worker time (s)", "best so far", steps, lines)


def curve(cost: list[float], best: list[float], test: list[float] | None = None) -> Curve:
    return Curve(
        np.array(cost),
        np.array(best),
        np.array(test or [NAN] * len(cost)),
        np.arange(1, len(cost) + 1),
        np.zeros(len(cost), dtype=np.int64),
    )


def fill(
    store: Store,
    name: str,
    seed: int,
    controller: str,
    losses: list[dict[int, float]],
    choices: int | None = None,
) -> None:
    """Write a search whose trials measured these losses by step, of the networks that a number draws."""
    config = validate(
        {
            "space": "nas.testing.toys:Toy",
            "controller": controller,
            "tasks": "sinusoid",
            "learner": "maml",
            "name": name,
            "seed": seed,
        }
    )
    row = store.create_search(
        NewSearch(
            name=name,
            source=None,
            config=config.model_dump(mode="json"),
            space="toy",
            controller=controller,
            tasks="sinusoid",
            task_label="sinusoid 10-shot",
            learner="maml",
            executor="inline",
            seed=seed,
            trials=5,
            settings=config.settings,
            environment={},
        )
    )
    space, rng = Toy(), np.random.default_rng(seed if choices is None else choices)
    for number, loss in enumerate(losses):
        architecture = space.sample(rng)
        text, key = space.encode(architecture), space.canonical(architecture)
        trial = store.begin(
            row.id, NewTrial(number, architecture=text, key=key, space="toy", seed=0, attempt=0)
        )
        seen = tuple(Measurement(step, "train_loss", value) for step, value in loss.items())
        score = Score(0.1 * (number + seed + 1), 0.0, 1)
        store.finish(
            trial, Outcome(TrialState.COMPLETED, architecture, score, seconds=10.0, measurements=seen)
        )
    store.acquire(row.id)
    store.release(row.id, "completed")


@pytest.fixture
def filled(db: Path, store: Store) -> Store:
    """Two searches with losses, and one without."""
    fill(store, "x-random-0", 0, "random", [{10: 2.0, 20: 1.0}])
    fill(store, "x-random-1", 1, "random", [{10: 4.0, 20: 2.0, 30: 5.0}])
    fill(store, "x-evolution-0", 0, "evolution", [{}, {}])
    return store


def test_a_mean_and_its_interval_by_hand(store: Store) -> None:
    """Over six trials of one architecture, one of which measured longer; fewer are drawn one by one."""
    losses = [{10: 2.0, 20: 1.0}, {10: 4.0, 20: 2.0, 30: 5.0}, *[{10: 3.0, 20: 1.5}] * 4]
    for seed, loss in enumerate(losses):
        fill(store, f"same-{seed}", seed, "random", [loss], choices=0)
    groups, _ = grouped(find(store, ["same"]))
    [line] = measured(store, groups, "train_loss").lines
    [few] = measured(store, grouped(find(store, ["same-0", "same-1"]))[0], "train_loss").lines
    assert metrics(store, groups) == ["train_loss"]
    with refusal(UnknownName, "'loss'", "train_loss"):
        measured(store, groups, "loss")
    assert (line.name, line.count, line.baseline, line.single) == ("random (n = 6)", 6, True, ())
    np.testing.assert_array_equal(line.x, [10, 20, 30])
    np.testing.assert_allclose(line.mean, [3, 1.5, 5])
    # t(5) s / √6 with s = √(2 / 5) and half of it; a single value has no interval.
    half = 2.570582 * math.sqrt(0.4 / 6)
    np.testing.assert_allclose(line.half, [half, half / 2, NAN], rtol=1e-5)
    assert [x.tolist() for x, _ in few.single] == [[10, 20], [10, 20, 30]]
    assert np.isnan(few.half).all()


def test_unlike_architectures_have_no_mean(filled: Store) -> None:
    """The best by its score, the second of two, stands out beside the other, and no average is drawn."""
    groups, _ = grouped(find(filled, ["x"]))
    made = measured(filled, groups, "train_loss")
    alone = measured(filled, groups, "train_loss", singles=0)
    [random] = made.lines
    assert made.absent == ("evolution has no line: none of its trials measured train_loss.",)
    assert (random.name, random.baseline) == ("random (best of 2 trials)", True)
    assert (random.x.tolist(), random.mean.tolist()) == ([10, 20, 30], [4, 2, 5])
    assert np.isnan(random.half).all()
    assert [(x.tolist(), y.tolist()) for x, y in random.single] == [([10, 20], [2, 1])]
    assert alone.lines[0].single == ()


def test_supernets_have_lines_of_their_own(filled: Store) -> None:
    [search] = find(filled, ["x-evolution-0"])
    supernet = filled.begin(
        search.id, NewTrial(9, architecture=None, key=None, space="toy", seed=0, attempt=0, supernet={})
    )
    seen = tuple(Measurement(step, "train_loss", 0.5) for step in (100, 200))
    filled.finish(supernet, Outcome(TrialState.COMPLETED, None, seconds=1.0, measurements=seen))
    groups, _ = grouped(find(filled, ["x-evolution"]))
    fill(filled, "y-evolution-1", 1, "evolution", [{10: 3.0}])
    both, _ = grouped(find(filled, ["x-evolution", "y"]))
    assert [line.label for line in measured(filled, groups, "train_loss").lines] == ["evolution, supernet"]
    lines = {line.label: line for line in measured(filled, both, "train_loss").lines}
    assert lines["evolution"].mean.tolist() == [3.0]
    assert lines["evolution, supernet"].x.tolist() == [100, 200]


def test_anytime_lines_begin_with_the_last_first_score(filled: Store) -> None:
    groups, _ = grouped(find(filled, ["x"]))
    series = [
        [curve([10, 20, 40], [0.1, 0.2, 0.9]), curve([5, 15, 30], [NAN, 0.3, 0.4])],
        [curve([50], [0.7])],
    ]
    [made] = anytime(groups, series, 30.0)
    [random] = made.lines
    assert (made.steps, random.x[0], random.x[-1]) == (True, 15.0, 30.0)
    expected = {15.0: 0.2, 30.0: 0.3}
    for x, value in expected.items():
        assert random.mean[random.x == x] == pytest.approx(value)
    before_20 = random.mean[(random.x >= 15) & (random.x < 20)]
    np.testing.assert_allclose(before_20, 0.2)
    np.testing.assert_allclose(random.mean[(random.x >= 20) & (random.x < 30)], 0.25)
    [absent] = made.absent
    assert lacking(absent, "evolution", "'x-evolution-0'", "50 s", "30 s") == []
    with refusal(NotFound, "random", "'x-random-1'", "evolution"):
        anytime(groups, series, 12.0)


def test_axes_say_what_a_score_is(store: Store) -> None:
    trained = search(store, name="trained", evaluator="train")
    looked_up = search(store, name="looked-up", **LOOKED_UP)
    odd = search(store, name="odd")
    assert [score_name(trained, lowest) for lowest in (0.0, -0.1)] == ["accuracy", "−MSE"]
    assert score_name(looked_up, 80.0) == "score (valid)"
    assert score_name(looked_up, 80.0, test=True) == "score"
    assert score_name(odd, 0.0) == "score"
    assert metric_name(trained, "score", 0.0) == "validation accuracy"
    assert metric_name(trained, "my_own", 0.0) == "my own"


def test_test_scores_have_a_panel_of_their_own(filled: Store) -> None:
    groups, _ = grouped(find(filled, ["x"]))
    series = [curves(filled, group.searches) for group in groups]
    assert len(anytime(groups, series, 10.0)) == 1
    tested = [[curve([1, 2], [0.1, 0.2], [0.5, 0.4])], [curve([1], [0.3], [0.6])]]
    first, second = anytime(groups, tested, 2.0)
    assert (first.y_label, second.y_label) == (
        "best validation accuracy so far",
        "test accuracy of that architecture",
    )
    assert [float(line.mean[-1]) for line in second.lines] == [0.4, 0.6]
    assert first.absent == second.absent == ()
    half = [tested[0], [curve([1], [0.3])]]
    first, second = anytime(groups, half, 2.0)
    assert [line.label for line in second.lines] == ["random"]
    assert first.absent == ()
    [absent] = second.absent
    assert lacking(absent, "evolution", "'x-evolution-0'") == []


def test_a_window_holds_all_that_is_drawn() -> None:
    """Bands and single lines too; the first tenth is left out where it would flatten all others."""
    far = line("a", [0, 5, 10, 100], [-9, 0.5, 0.6, 0.7], half=0.1)
    other = line("b", [50, 100], [0.65, 0.9])
    assert window(panel(far, other)) == (10.0, 100.0, pytest.approx(0.5), pytest.approx(0.9))
    near = line("a", [0, 5, 10, 100], [0.45, 0.5, 0.6, 0.7], half=0.1)
    assert window(panel(near, other)) == (0.0, 100.0, pytest.approx(0.35), pytest.approx(0.9))
    single = replace(other, single=((np.array([50.0, 100.0]), np.array([0.2, 1.0])),))
    assert window(panel(near, single))[2:] == (pytest.approx(0.2), 1.0)
    between = line("c", [0, 40], [-9, 0.5])
    assert window(panel(line("d", [0, 8, 100], [-9, 0.4, 0.5])))[:3] == (10.0, 100.0, 0.4)
    assert window(panel(between))[2:] == (-9.0, 0.5)
    assert window(panel(line("flat", [0, 1], [0.0, 0.0])))[2:] == (-0.5, 0.5)


def test_few_searches_are_drawn_one_by_one(filled: Store) -> None:
    """An interval of three is wider than all that they differ by."""
    for seed in range(2, FEW):
        fill(filled, f"x-random-{seed}", seed, "random", [{}])
    fill(filled, "x-evolution-1", 1, "evolution", [{}])
    groups, _ = grouped(find(filled, ["x"]))
    made = anytime(groups, [curves(filled, group.searches) for group in groups], 10.0)
    [random, evolution] = made[0].lines
    assert (random.count, random.single) == (FEW, ())
    assert not np.isnan(random.half).any()
    assert (evolution.count, len(evolution.single)) == (2, 2)
    assert np.isnan(evolution.half).all()
    assert caption(made[0].lines) == "mean over n; thin: each of them; band: 95 % interval of the mean"
    alone = replace(evolution, count=1, single=())
    assert caption([alone]) == ""


def test_curves_end_at_the_edges_of_a_picture(tmp_path: Path) -> None:
    """Nothing is drawn outside of its axes, and random search lies above all others."""
    early = line("random", [0, 5, 10, 100], [-9, 0.5, 0.6, 0.7], half=0.1, baseline=True)
    same = line("evolution", [0, 5, 10, 100], [-9, 0.5, 0.6, 0.7])
    seen: list[Axes] = []
    real = Figure.savefig

    def kept(figure: Figure, *arguments: Any, **options: Any) -> None:
        seen.extend(figure.axes)
        real(figure, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", kept)
        draw([panel(early, same)], "", tmp_path / "a.png")
    [axes] = seen
    low, high = axes.get_ylim()
    for drawn in axes.get_lines():
        x, y = np.asarray(drawn.get_xdata()), np.asarray(drawn.get_ydata())
        assert x.min() >= axes.get_xlim()[0]
        assert low <= y.min() <= y.max() <= high
    first, second = axes.get_lines()
    assert first.get_zorder() > second.get_zorder()
    assert first.get_linestyle() != "-"


def test_pictures_hold_labels_and_lines(tmp_path: Path) -> None:
    lines = [line("random", [1, 2], [0.1, 0.2], 0.1, baseline=True)]
    lines += [line(f"method{i}", [1, 2], [0.1, 0.2 + i], 0.1) for i in range(9)]
    alone = panel(line("alone", [3], [0.5]), steps=False)
    for name in ("a.png", "b.pdf", "c.svg"):
        draw([panel(*lines), panel(*lines, steps=False), alone, alone], "the task", tmp_path / name)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")
    tree = ET.parse(tmp_path / "c.svg")
    texts = {"".join(node.itertext()) for node in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert {"worker time (s)", "best so far", "the task", "random (n = 3)", "method8 (n = 3)"} <= texts
    assert len([text for text in texts if text == "random (n = 3)"]) == 1
    styles = re.findall(r"stroke: (#[0-9a-f]{6})", (tmp_path / "c.svg").read_text())
    assert {"#777777", "#0072b2", "#d55e00"} <= set(styles)


@pytest.mark.parametrize(
    ("values", "low", "high", "whole"),
    [
        ([1.0, 1.0], 0, 2, True),
        ([0.0, 0.0], -0.1, 2, True),
        ([2.0, 9.0], 1, 10, True),
        ([1.60941, 1.60942], 1.60, 1.62, False),
        ([0.2, 0.9], 0.1, 1, False),
    ],
)
def test_ticks_of_measured_values(
    values: list[float], low: float, high: float, whole: bool, tmp_path: Path
) -> None:
    made = panel(line("a", [1, 2], values), steps=False)
    draw([made], "", tmp_path / "a.svg")
    tree = ET.parse(tmp_path / "a.svg")
    groups = (group for group in tree.iter(f"{SVG}g") if group.get("id", "").startswith("ytick_"))
    ticks = ["".join(text.itertext()) for group in groups for text in group.iter(f"{SVG}text")]
    assert len(ticks) > 1
    assert all(low <= float(tick) <= high and len(tick) <= 6 for tick in ticks)
    assert all(tick.isdigit() for tick in ticks) is whole


def test_files_that_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = panel(line("a", [0, 1], [0, 1]))
    with refusal(ConfigError, ".png", ".svg", ".pdf"):
        draw([made], "", tmp_path / "a.jpg")
    with refusal(NasError, tmp_path / "no" / "a.png", os.strerror(errno.ENOENT)):
        draw([made], "", tmp_path / "no" / "a.png")
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with refusal(ConfigError, "pip install 'nas-service[plot]'"):
        draw([made], "", tmp_path / "a.png")


def test_a_terminal_shows_where_lines_are() -> None:
    low = line("random", [0, 50, 100], [0.0, 0.0, 0.0], baseline=True)
    high = line("evolution", [50, 100], [1.0, 1.0])
    rows = render(panel(low, high), 60, height=11).splitlines()
    assert rows[0] == "best so far"
    body = rows[1:12]
    inside = [re.split("[│┤]", row)[1] for row in body]
    assert [index for index, row in enumerate(inside) if "*" in row] == [0]
    assert [index for index, row in enumerate(inside) if "." in row] == [10]
    marks = inside[0]
    assert set(marks[:20]) == {" "}
    assert set(marks[-20:]) == {"*"}
    assert inside[10].count(".") == len(marks)
    assert all(len(row) <= 60 for row in rows)
    assert rows[-2:] == [f"{'':3}. random (n = 3)", f"{'':3}* evolution (n = 3)"]


def test_a_terminal_interpolates_what_is_no_staircase() -> None:
    rising = line("a", [0, 10], [0.0, 0.8])
    rows = render(panel(rising, steps=False), 40, height=5).splitlines()[1:6]
    firsts = [re.split("[│┤]", row)[1].find("*") for row in rows]
    assert firsts == sorted(firsts, reverse=True)
    assert render(panel(line("a", [3], [0.5]), steps=False), 40).count("*") > 1


def test_a_terminal_has_round_numbers_on_its_axes() -> None:
    curve = line("a", [0.0, 4000.63], [0.1037, 0.8712])
    rows = render(panel(curve), 80).splitlines()
    labels = [row.partition("┤")[0].strip() for row in rows if "┤" in row]
    assert labels == ["1.0", "0.8", "0.6", "0.4", "0.2", "0.0"]
    [below] = [rows[place + 1] for place, row in enumerate(rows) if "└" in row]
    assert below.split() == ["0", "1000", "2000", "3000", "4000"]
    counts = render(panel(line("a", [1, 2], [0.0, 0.0]), steps=False), 80).splitlines()
    assert [row.partition("┤")[0].strip() for row in counts if "┤" in row] == ["2", "1", "0"]


def test_lines_that_meet_take_turns_in_a_terminal() -> None:
    same = [line(label, [0, 100], [0.5, 0.5], baseline=label == "random") for label in ("random", "b", "c")]
    [row] = [row for row in render(panel(*same), 60).splitlines()[1:19] if "*" in row]
    assert {row.count(mark) for mark in ".*o"} <= {17, 18, 19}


def test_a_terminal_tells_close_values_apart() -> None:
    close = line("a", [0, 1], [1.60938, 1.60943])
    rows = render(panel(close, steps=False), 60).splitlines()
    labels = [row.partition("┤")[0].strip() for row in rows if "┤" in row]
    assert len(set(labels)) == len(labels) >= 4
    assert float(labels[-1]) <= 1.60938 <= 1.60943 <= float(labels[0])


def test_the_command(filled: Store, tmp_path: Path) -> None:
    code, out, err = nas("plot", "x", "-o", "curves.svg", "--text")
    assert (code, lacking(err, "curves.svg")) == (0, [])
    assert "worker time (s)" in out
    assert ". random (n = 2)" in out
    assert "* evolution (n = 1)" in out
    assert "sinusoid 10-shot" in (tmp_path / "curves.svg").read_text()
    code, out, _ = nas("plot", "x", "--metric=train_loss", "--text")
    assert (code, out.splitlines()[0]) == (0, "training loss")
    assert "training episodes" in out


def test_the_command_says_who_is_not_drawn(filled: Store) -> None:
    fill(filled, "x-random-2", 2, "random", [])
    code, out, err = nas("plot", "x", "--text")
    assert (code, ". random (n = 2)" in out) == (0, True)
    assert lacking(err, "'x-random-2' (completed)", "10 s of worker time", "'x-random-0'") == []
    _, _, err = nas("plot", "x", "--metric=train_loss", "--metric=train_loss", "--text")
    assert [line.split()[0] for line in err.splitlines() if "train_loss" in line] == ["evolution"]


def test_bad_input(filled: Store) -> None:
    code, _, err = nas("plot", "x")
    assert (code, lacking(err, "-o curves.png", "--text")) == (2, [])
    assert nas("plot", "nobody", "--text")[0] == 3
    assert nas("plot", "x", "-o", "a.gif")[0] == 2
    code, _, err = nas("plot", "x", "--text", "--metric=alpha_entropy")
    assert (code, lacking(err, "'alpha_entropy'", "train_loss")) == (2, [])


@pytest.mark.parametrize(
    ("steps", "labels"),
    [
        ([0.0, 5e6, 1e7], ["0", "5M", "10M"]),
        ([0.0, 2_500.0, 5_000.0], ["0", "2500", "5000"]),
        ([0.0, 2_500.0, 5_000.0, 7_500.0, 10_000.0], ["0.0", "2.5k", "5.0k", "7.5k", "10.0k"]),
        ([-2.5e4, 0.0], ["-25k", "0"]),
        ([0.7, 0.75], ["0.70", "0.75"]),
    ],
)
def test_numbers_of_an_axis_are_short(steps: list[float], labels: list[str]) -> None:
    assert _labels(steps) == labels
