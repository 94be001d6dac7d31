"""Pictures of what was chosen, and of scores against costs, by hand and by brute force."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import nas
from facts import lacking, refusal
from recorded import search

from nas.comparison import decisions_picture
from nas.comparison.decisions import ChoicesMade, importance, means, shares
from nas.comparison.decisions_picture import draw, table
from nas.comparison.draw import picture
from nas.comparison.groups import find, grouped
from nas.comparison.tradeoff import tradeoff
from nas.controller import Outcome, Score
from nas.errors import NotFound, UnknownName
from nas.space import Architecture, Decision
from nas.states import TrialState
from nas.storage.store import Store
from nas.storage.trials import NewTrial
from nas.testing.toys import Toy


def chosen(store: Store, choices: np.ndarray, scores: np.ndarray) -> ChoicesMade:
    """Return what one search chose, in `Toy`."""
    search(store, name="s")
    [group], _ = grouped(find(store, ["s"]))
    return ChoicesMade(group, Toy(), "score", np.arange(len(choices)) / len(choices), choices, scores)


def draws(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(len(d.choices), size=count) for d in Toy().decisions], 1)


def test_the_decision_that_makes_the_score_has_all_importance(store: Store) -> None:
    choices = draws(60)
    found = importance(chosen(store, choices, choices[:, 1].astype(float)))
    names = [decision.name for decision in Toy().decisions]
    assert next(iter(found)) == names[1]
    assert found[names[1]] == pytest.approx(1, abs=0.05)
    assert all(share < 0.05 for name, share in found.items() if name != names[1])


def test_what_never_varies_explains_nothing(store: Store) -> None:
    choices = draws(20)
    equal = chosen(store, choices, np.ones(20))
    same = replace(equal, choices=np.repeat(choices[:1], 20, 0), scores=np.arange(20.0))
    assert set(importance(equal).values()) == set(importance(same).values()) == {0.0}


def test_shares_and_means_by_counting(store: Store) -> None:
    choices = draws(37)
    scores = np.where(np.arange(37) % 5 == 0, math.nan, np.arange(37.0))
    found = chosen(store, choices, scores)
    periods = [[t for t in range(37) if min(int(t / 37 * 4), 3) == p] for p in range(4)]
    for place, decision in enumerate(Toy().decisions):
        for number in range(len(decision.choices)):
            counted = [np.mean([choices[t, place] == number for t in period]) for period in periods]
            np.testing.assert_allclose(shares(found, place, 4)[number], counted)
            own = [scores[t] for t in range(37) if choices[t, place] == number and t % 5]
            mean, count = means(found, place)[number]
            assert count == len(own)
            assert math.isnan(mean) if not own else mean == pytest.approx(np.mean(own))


def test_a_table_names_what_the_best_chose(store: Store, tmp_path: Path) -> None:
    choices = draws(40)
    scores = 10.0 * choices[:, 0] + choices[:, 1]
    found = chosen(store, choices, scores)
    best = choices[int(scores.argmax())]
    rows = {row["decision"]: row for row in table(found, importance(found))}
    for place, decision in enumerate(Toy().decisions):
        assert rows[decision.name]["of_the_best"] == str(decision.choices[best[place]])
    first = Toy().decisions[0]
    assert rows[first.name]["highest_mean"] == str(first.choices[choices[:, 0].max()])
    draw(found, importance(found), "title", tmp_path / "chosen.png")
    assert (tmp_path / "chosen.png").read_bytes().startswith(b"\x89PNG")


def test_no_words_of_parallel_coordinates_overlap(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of eight decisions with long names, each of six operations."""
    operations = ("none", "skip_connect", "conv_1x1", "conv_3x3", "sep_conv_3x3", "a_long_name_of_a_pool_3x3")
    decisions = tuple(Decision(f"stage{n}.a_long_name.from{n}", operations) for n in range(8))
    found = chosen(store, draws(40), np.arange(40.0))
    choices = np.random.default_rng(0).integers(6, size=(40, 8))
    monkeypatch.setattr(found.space, "decisions", decisions)
    figures = []

    @contextmanager
    def kept(*arguments: Any) -> Iterator[Any]:
        with picture(*arguments) as figure:
            figures.append(figure)
            yield figure

    monkeypatch.setattr(decisions_picture, "picture", kept)
    names = {decision.name: 0.1 for decision in decisions}
    draw(replace(found, choices=choices), names, "title", tmp_path / "chosen.png")
    figures[0].draw_without_rendering()
    axes = figures[0].axes[1]
    words = [*axes.texts, *axes.get_xticklabels()]
    boxes = [word.get_window_extent() for word in words]
    assert len(boxes) == 8 * 7
    assert [a for n, a in enumerate(boxes) if any(a.overlaps(b) for b in boxes[:n])] == []


def fill(store: Store, name: str, points: list[tuple[int, float]], **changes: object) -> None:
    row = search(store, name=name, **changes)
    for number, (parameters, score) in enumerate(points):
        trial = store.begin(row.id, NewTrial(number, f"{number}.0", f"{name}{number}", "toy", 0, 0))
        told = Outcome(
            TrialState.COMPLETED,
            Architecture("toy", (0,)),
            Score(score, 0.0, 1),
            seconds=1.0,
            costs={"parameters": parameters},
        )
        store.finish(trial, told)


def test_fronts_are_those_of_brute_force(store: Store) -> None:
    rng = np.random.default_rng(0)
    points = [
        (int(p), round(float(s), 2)) for p, s in zip(rng.integers(1, 30, 80), rng.random(80), strict=True)
    ]
    fill(store, "a", points)
    fill(store, "b", [(5, 0.5)], controller="evolution")
    found = tradeoff(store, grouped(find(store, ["a", "b"]))[0], "parameters")
    first, second = found.clouds
    assert (first.label, first.baseline, second.label, second.front) == ("random", True, "evolution", (0,))
    kept = {(int(first.cost[i]), round(float(first.score[i]), 2)) for i in first.front}
    assert kept == {
        (p, s) for p, s in points if not any(q <= p and t >= s and (q, t) != (p, s) for q, t in points)
    }


def test_costs_that_nobody_has(store: Store) -> None:
    fill(store, "a", [(5, 0.5)])
    groups, _ = grouped(find(store, ["a"]))
    with refusal(UnknownName, "flops", "macs"):
        tradeoff(store, groups, "flops")
    with refusal(NotFound, "random", "latency"):
        tradeoff(store, groups, "latency")


@pytest.fixture
def ran(tmp_path: Path) -> str:
    db = f"sqlite:///{tmp_path}/nas.db"
    scripted = ("--tasks=sinusoid", "--learner=maml", "--evaluator=nas.testing.evaluators:Scripted")
    options = ("--executor=inline", "--set=deduplicate=false", f"--db={db}")
    for controller, trials in (("random", 16), ("evolution", 4)):
        named = (f"--controller={controller}", f"--trials={trials}", f"--name={controller}")
        assert nas("run", "--space=nas.testing.toys:Toy", *scripted, *named, *options)[0] == 0
    return db


def test_the_command_line(ran: str, tmp_path: Path) -> None:
    file = tmp_path / "x.svg"
    code, out, err = nas("plot", "random", "--decisions", "--text", "-o", str(file), "--db", ran)
    assert (code, lacking(err, str(file))) == (0, [])
    assert lacking(out, *(decision.name for decision in Toy().decisions)) == []
    assert "<svg" in file.read_text()
    code, out, err = nas("plot", "random", "evolution", "--against=seconds", "--text", "--db", ran)
    assert (code, lacking(out, "random", "evolution", "worker time (s)")) == (0, [])
    for arguments, *facts in (
        (("random", "evolution", "--decisions"), "random", "evolution"),
        (("evolution", "--decisions"), 10, 4),
        (("random", "--decisions", "--against=macs"), "--decisions", "--against"),
        (("random", "--against=watts"), "watts", "macs"),
    ):
        code, out, err = nas("plot", *arguments, "--text", "--db", ran)
        assert (code != 0, out, lacking(err, *facts)) == (True, "", [])
