"""The softmax of α: that strategies record it, and that pictures and terminals show it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recorded
import torch
from command_line import nas
from facts import lacking, refusal
from scripted_searches import run

from controllers.darts import Softmax
from controllers.gdas import HardGumbel
from nas.comparison.grid import draw_mixtures, shape, styles
from nas.comparison.groups import find, grouped
from nas.comparison.mixtures import Mixtures, mixtures
from nas.comparison.series import metrics
from nas.comparison.text import table
from nas.controller import Measurement, Outcome
from nas.errors import ConfigError, NotFound
from nas.metrics import alpha_choice, alpha_metric
from nas.states import TrialState
from nas.storage.store import Store
from nas.storage.trials import NewTrial
from nas.testing.oneshot import configure
from nas.testing.toy_supernet import CURVES, ToyCurves, ToyRegression

Weights = Mapping[tuple[str, str], list[float]]
"""After each epoch, by decision and choice."""

TWO: Weights = {("a.from2", "none"): [0.25, 0.5], ("a.from2", "conv_3x3"): [0.75, 0.5]}


def fill(store: Store, name: str, seed: int, weights: Weights, controller: str = "darts") -> None:
    """Write a search with one supernet, an epoch every 20 training episodes."""
    row = recorded.search(store, name=name, seed=seed, controller=controller)
    trial = store.begin(
        row.id,
        NewTrial(0, architecture=None, key=None, space="toy", seed=0, attempt=0, supernet={"strategy": "s"}),
    )
    seen = [
        Measurement(20 * epoch, alpha_metric(*of), value)
        for of, values in weights.items()
        for epoch, value in enumerate(values, start=1)
    ]
    seen.append(Measurement(20, "alpha_entropy", 1.0))
    store.finish(trial, Outcome(TrialState.COMPLETED, None, seconds=1.0, measurements=tuple(seen)))
    recorded.close(store, row)


def found(store: Store, *names: str) -> Mixtures:
    return mixtures(store, grouped(find(store, names))[0])


@pytest.mark.parametrize("strategy", [Softmax, HardGumbel])
def test_an_epoch_records_the_softmax_of_each_decision(strategy: Any) -> None:
    problem = ToyRegression(ToyCurves(features=2), 0)
    learner = strategy(problem.space, problem.supernet, 0)
    logits = [torch.tensor([0.0, 1, 2, 3]), torch.tensor([5.0, 0, 0, -5])]
    learner.alpha.restore(logits)
    seen = learner.end_epoch(problem.batches()).measurements
    for decision, own in zip(problem.space.decisions, logits, strict=True):
        weights = [seen[f"alpha/{decision.name}/{choice}"] for choice in CURVES]
        np.testing.assert_allclose(weights, own.softmax(0))
    assert sum(alpha_choice(metric) is not None for metric in seen) == 2 * len(CURVES)
    entropies = [float(torch.special.entr(own.softmax(0)).sum()) for own in logits]
    assert seen["alpha_entropy"] == pytest.approx(sum(entropies) / 2)


@pytest.mark.parametrize("choice", ["conv_3x3", "3x3/2:64", 8])
def test_metrics_are_read_back(choice: str | int) -> None:
    metric = alpha_metric("stage1.node1.from0", choice)
    assert metric == f"alpha/stage1.node1.from0/{choice}"
    assert alpha_choice(metric) == ("stage1.node1.from0", str(choice))


@pytest.mark.parametrize("metric", ["alpha", "alpha/a", "alpha_entropy", "alpha.a.b", "score"])
def test_other_metrics_are_none(metric: str) -> None:
    assert alpha_choice(metric) is None


def test_one_search(store: Store) -> None:
    more = {("a.from10", "skip_connect"): [1.0, 1.0], ("a.from10", "avg_pool"): [0.0, 0.0]}
    fill(store, "s", 0, more | TWO)
    got = found(store, "s")
    assert (got.epochs, got.absent) == (2, ())
    assert got.choices == ("avg_pool", "conv_3x3", "none", "skip_connect")
    assert [mixture.decision for mixture in got.decisions] == ["a.from2", "a.from10"]
    conv, none = got.decisions[0].lines
    assert (conv.label, conv.x.tolist(), conv.mean.tolist()) == ("conv_3x3", [1, 2], [0.75, 0.5])
    assert (none.label, none.mean.tolist()) == ("none", [0.25, 0.5])
    assert np.isnan(none.half).all()


def test_a_mean_over_seeds_and_who_has_none(store: Store) -> None:
    fill(store, "s-0", 0, {("a", "none"): [0.2, 0.4]})
    fill(store, "s-1", 1, {("a", "none"): [0.4]})
    fill(store, "s-2", 2, {})
    recorded.record(store, [("completed", 0.5, 1.0, None)], name="s-random", seed=0)
    got = found(store, "s")
    assert [search.name for search in got.group.searches] == ["s-0", "s-1"]
    [[line]] = [mixture.lines for mixture in got.decisions]
    np.testing.assert_allclose(line.mean, [0.3, 0.4])
    # Of two the interval is 12.7 times as wide as what they differ by: they are drawn one by one.
    assert np.isnan(line.half).all()
    assert [(x.tolist(), y.tolist()) for x, y in line.single] == [([1, 2], [0.2, 0.4]), ([1], [0.4])]
    random, left_out = got.absent
    assert (lacking(random, "random"), lacking(left_out, "'s-2'")) == ([], [])


def test_unlike_searches_are_refused(store: Store) -> None:
    fill(store, "one", 0, TWO)
    fill(store, "two", 0, TWO, controller="gdas")
    with refusal(ConfigError, "darts (one)", "gdas (two)"):
        found(store, "one", "two")


def test_a_database_without_it_says_what_there_is(store: Store) -> None:
    fill(store, "old", 0, {})
    with refusal(NotFound, "alpha_entropy"):
        found(store, "old")


def test_all_weights_are_one_metric_in_a_list(store: Store) -> None:
    fill(store, "s", 0, TWO)
    assert metrics(store, grouped(find(store, ["s"]))[0]) == ["alpha", "alpha_entropy"]


@pytest.mark.parametrize(
    ("panels", "rows", "columns"),
    [(1, 1, 1), (2, 1, 2), (6, 2, 3), (7, 2, 4), (8, 2, 4), (12, 3, 4), (14, 2, 7), (28, 4, 7)],
)
def test_panels_fill_a_grid(panels: int, rows: int, columns: int) -> None:
    assert shape(panels) == (rows, columns)


def test_no_two_choices_look_alike() -> None:
    choices = [f"op{i}" for i in range(12)] + ["none"]
    looks = styles(choices)
    assert list(looks) == choices
    assert looks["none"]["color"] == "#777777"
    assert len({repr(look) for look in looks.values()}) == 13


def test_weights_that_hardly_moved_look_alike(store: Store, tmp_path: Path) -> None:
    fill(store, "s", 0, {(name, "conv_3x3"): [0.1998, 0.2002] for name in "ab"})
    draw_mixtures(found(store, "s"), "", tmp_path / "a.svg")
    tree = ET.parse(tmp_path / "a.svg")
    texts = ["".join(node.itertext()) for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    ticks = [float(text) for text in texts if re.fullmatch(r"0\.\d+", text)]
    assert max(ticks) - min(ticks) > 0.05
    assert all(0.14 < tick < 0.26 for tick in ticks)


def test_a_table_of_three_epochs(store: Store) -> None:
    own = {("b", "max_pool_3x3"): [1.0] * 5, ("a.from2", "none"): [0.1, 0.2, 0.3, 0.4, 0.5]}
    fill(store, "s", 0, own)
    assert table(found(store, "s")).splitlines() == [
        "                   max",
        "                  pool",
        "decision  epoch    3x3   none",
        "a.from2       1         0.100",
        "a.from2       3         0.300",
        "a.from2       5         0.500",
        "b             1  1.000",
        "b             3  1.000",
        "b             5  1.000",
    ]


def test_the_command_draws_a_search(store: Store, db: Path, tmp_path: Path) -> None:
    budget = {"epochs": 3, "steps": 2, "batch": 2, "validation_episodes": 2}
    darts = {"name": "darts", "derive": 1, "budget": budget, "alpha_rate": 3e-4}
    config = configure(name="s", controller=darts)
    run(store, config)
    code, out, err = nas("plot", "s", "--metric=alpha", "--text", "-o", "alpha.svg")
    assert (code, lacking(err, "alpha.svg")) == (0, [])
    assert (
        out.splitlines()[0]
        == "Weights by α of 's': darts in nas.testing.toy_supernet:ToyCurves, sinusoid 10-shot"
    )
    assert [line.split()[:2] for line in out.splitlines()[3:6]] == [["curve0", str(n)] for n in (1, 2, 3)]
    tree = ET.parse(tmp_path / "alpha.svg")
    texts = {"".join(node.itertext()) for node in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert {"epoch", "weight by α", "curve0", "curve2", *CURVES} <= texts
    assert any("'s': darts in" in text for text in texts)
    _, out, err = nas("show", "s/0")
    assert re.search(r"alpha_entropy +1\.38", out)
    assert "alpha/" not in out
    assert "nas plot s --metric alpha --text" in err
    shown = json.loads(nas("show", "s/0", "-f", "json")[1])["measurements"]
    assert sum(point["metric"].startswith("alpha/") for point in shown) == 3 * 3 * len(CURVES)


def test_bad_input(store: Store, db: Path) -> None:
    fill(store, "s", 0, TWO)
    code, _, err = nas("plot", "s", "--text", "--metric=alpha", "--metric=score")
    assert (code, lacking(err, "--metric alpha")) == (2, [])
    code, _, err = nas("plot", "s", "--text", "--metric=alfa")
    assert (code, lacking(err, "'alpha'", "alpha, alpha_entropy")) == (2, [])
    code, out, _ = nas("plot", "s", "--text", "--metric=alpha/a.from2/none")
    assert (code, out.splitlines()[0]) == (0, "alpha/a.from2/none")
