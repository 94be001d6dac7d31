"""Curves and the table at equal cost: summaries by hand, and which search sets the cost."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from recorded import MIXED, Trial, close, record

from nas.comparison.baselines import baselines
from nas.comparison.comparison import compare
from nas.comparison.curves import Curve, curves, outline, read_at
from nas.comparison.groups import find, grouped
from nas.comparison.summary import beyond, exhausted, scored, shortest, spread, summarize
from nas.errors import NotFound
from nas.storage.store import Store


def test_a_curve_by_hand(store: Store) -> None:
    [curve] = curves(store, [record(store, MIXED)])
    nan = math.nan
    np.testing.assert_array_equal(curve.cost, [5, 15, 18, 28, 28, 28, 30])
    np.testing.assert_array_equal(curve.best, [nan, 0.4, 0.4, 0.4, 0.4, 0.4, 0.6])
    np.testing.assert_array_equal(curve.test, [nan, 0.5, 0.5, 0.5, 0.5, 0.5, 0.45])
    assert (curve.total, curve.first) == (30, 15)
    assert curve.at(29.9) == (0.4, 0.5, 6, 1)
    assert curve.at(30) == (0.6, 0.45, 7, 1)
    assert curve.at(28)[2] == 6
    assert curve.at(4)[2:] == (0, 0)
    assert math.isnan(curve.at(14).score)
    best, test = curve.over(np.array([0.0, 14.9, 15.0, 29.0, 99.0]))
    np.testing.assert_array_equal(best, [nan, nan, 0.4, 0.4, 0.6])
    np.testing.assert_array_equal(test, [nan, nan, 0.5, 0.5, 0.45])


def many(seed: int, count: int = 300) -> list[Trial]:
    """Return trials whose scores rise, of all states, some with a test score."""
    rng = np.random.default_rng(seed)
    states = rng.choice(["completed", "stopped", "failed", "reused"], count).tolist()
    scores, seconds = rng.random(count) + np.linspace(0, 0.5, count), np.round(rng.exponential(1, count), 1)
    return [
        (state, None if state == "failed" else score, time, score / 2 if number % 3 else None)
        for number, (state, score, time) in enumerate(
            zip(states, scores.tolist(), seconds.tolist(), strict=True)
        )
    ]


@pytest.mark.parametrize("points", [7, 100, 299, 300, 500])
def test_an_outline_has_the_best_score_at_every_cost(store: Store, points: int) -> None:
    row = record(store, many(0))
    [whole] = curves(store, [row])
    some = outline(store, row, points)
    assert len(some.cost) < 300 or points >= 299
    assert (some.count, some.total, some.first) == (300, *map(pytest.approx, (whole.total, whole.first)))
    costs = np.unique([whole.cost - 0.05, whole.cost, whole.cost + 0.05])
    for one, other in zip(some.over(costs), whole.over(costs), strict=True):
        np.testing.assert_array_equal(one, other)
    at = some.trials - 1
    np.testing.assert_allclose(some.cost, whole.cost[at])
    np.testing.assert_array_equal(some.reused, whole.reused[at])


def test_an_outline_is_read_where_its_trials_are_counted(store: Store) -> None:
    row = record(store, many(0))
    [whole] = curves(store, [row])
    some = outline(store, row, 7)
    for number in (0, 1, 150, 298, 299):
        for cost in whole.cost[number] + np.array([-0.05, 0, 0.05]):
            read = read_at(store, row, some, cost)
            assert read.at(cost) == pytest.approx(whole.at(cost), nan_ok=True)
            assert read.total == some.total
            assert np.all(np.diff(read.cost) >= 0)
    assert some.at(whole.total + 1).trials == 300
    none = record(store, [], name="none")
    assert read_at(store, none, outline(store, none), 5.0).total == 0


def test_long_searches_compare_as_their_curves_do(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of groups at equal cost do not depend on which searches have outlines."""
    for seed in range(3):
        record(store, many(seed, 100 + 40 * seed), name=f"r{seed}", seed=seed)
        record(store, many(10 + seed, 150), name=f"e{seed}", seed=seed, controller="evolution")
    every = find(store, ["r", "e"])
    whole = compare(store, every)
    monkeypatch.setattr("nas.comparison.curves.LONG", 120)
    monkeypatch.setattr("nas.comparison.curves.outline", lambda store, row: outline(store, row, 9))
    some = compare(store, every)
    assert [len(curve.cost) for curve in some.equal.curves[0]] < [len(c.cost) for c in whole.equal.curves[0]]
    for one, other in zip(some.rows, whole.rows, strict=True):
        assert asdict(one) == pytest.approx(asdict(other))
    assert (some.equal.late, some.equal.trials) == (whole.equal.late, whole.equal.trials)


def test_negative_scores_and_no_scores(store: Store) -> None:
    [errors, nothing, none] = curves(
        store,
        [
            record(store, [("completed", -2.0, 1.0, None), ("completed", -0.5, 1.0, None)], name="a"),
            record(store, [("failed", None, 1.0, None)], name="b"),
            record(store, [], name="c"),
        ],
    )
    np.testing.assert_array_equal(errors.best, [-2.0, -0.5])
    assert nothing.first == math.inf
    assert (none.total, none.at(10.0).trials) == (0.0, 0)


def test_curves_of_many_searches_stay_apart(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.comparison.curves.CHUNK", 2)
    rows = [record(store, [("completed", 0.1 * n, 1.0, None)], name=f"s{n}", seed=n) for n in range(5)]
    found: list[Curve] = curves(store, rows[::-1])
    assert [float(curve.best[0]) for curve in found] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])


def test_a_summary_by_hand(store: Store) -> None:
    """Random 0.2, 0.4 and evolution 0.5, 0.7, 0.9 at 20 s, although two searches went on to better scores."""
    for seed, score in enumerate([0.2, 0.4]):
        trials: list[Trial] = [("completed", score, 10.0, score / 2), ("completed", 0.1, 10.0, None)]
        record(store, [*trials, ("completed", 0.99, 5.0, 0.99)], name=f"r{seed}", seed=seed)
    for seed, score in enumerate([0.5, 0.7, 0.9]):
        trials = [("completed", score, 20.0, score / 2), ("reused", score, 0.0, None)]
        record(store, trials, name=f"e{seed}", seed=seed, controller="evolution")
    groups, _ = grouped(find(store, ["r", "e"]))
    series = [curves(store, group.searches) for group in groups]
    search, cost, trials, reused = shortest(groups, series)
    random, evolution = summarize(groups, series, cost, baselines(groups))
    assert (search.name, cost, trials, reused) == ("e0", 20.0, 2, 1)
    assert beyond(series, cost) == (2, 12)
    assert (random.trials, random.reused, random.searches) == (2.0, 0.0, 2)
    assert (evolution.trials, evolution.reused, evolution.searches) == (2.0, 1.0, 3)
    assert random.score == pytest.approx(0.3)
    assert random.score_std == pytest.approx(math.sqrt(0.02))
    # t(1) = 12.7062, t(2) = 4.3027
    assert random.score_ci95 == pytest.approx(12.7062 * 0.1, rel=1e-4)
    assert evolution.score_ci95 == pytest.approx(4.3027 * 0.2 / math.sqrt(3), rel=1e-4)
    assert (evolution.test, evolution.test_std) == (pytest.approx(0.35), pytest.approx(0.1))
    assert (random.p_score, random.p_test) == (None, None)
    # Complete separation: 2 of the 10 divisions of five values lie as far apart.
    assert evolution.p_score == pytest.approx(0.2)
    assert evolution.p_test == pytest.approx(0.2)


def test_searches_without_a_score_by_then_are_not_counted(store: Store) -> None:
    record(store, [("completed", 0.5, 10.0, None)], name="r0")
    record(store, [("failed", None, 15.0, None), ("completed", 0.6, 10.0, None)], name="r1", seed=1)
    groups, _ = grouped(find(store, ["r"]))
    series = [curves(store, group.searches) for group in groups]
    [row] = summarize(groups, series, shortest(groups, series).cost, baselines(groups))
    assert (row.cost, row.searches, row.score, row.score_std) == (10.0, 1, 0.5, None)


def test_searches_without_any_score_do_not_set_the_cost(store: Store) -> None:
    record(store, [("completed", 0.5, 10.0, None)], name="r0")
    record(store, [("failed", None, 2.0, None)], name="r1", seed=1)
    record(store, [], name="e0", controller="evolution")
    groups, _ = grouped(find(store, ["r", "e"]))
    kept, theirs, without = scored(groups, [curves(store, group.searches) for group in groups])
    assert [[search.name for search in group.searches] for group in kept] == [["r0"]]
    assert [search.name for search in without] == ["r1", "e0"]
    least = shortest(kept, theirs)
    assert (least.search.name, least.cost) == ("r0", 10.0)
    with pytest.raises(NotFound):
        scored(groups[1:], [curves(store, groups[1].searches)])


def test_a_search_without_new_networks_does_not_set_the_cost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took 10 s of 50, and has 0.8 ever after; one cut off so, or one without a budget, sets the cost."""
    monkeypatch.setattr("nas.comparison.curves.REPEATS", 3)
    known: list[Trial] = [("reused", 0.8, 0.0, None), ("infeasible", None, 0.0, None)]
    few: list[Trial] = [("completed", 0.8, 10.0, 0.7), *known, *known]
    record(store, [("completed", 0.5, 40.0, None)], name="r", max_seconds=50)
    record(store, [*few, known[0]], name="e", max_seconds=50, controller="evolution")
    record(store, few, name="short", max_seconds=50, controller="evolution", seed=1)
    record(store, [*few, known[0]], name="free", controller="evolution")

    def compared(*names: str) -> tuple[object, object, list[float | None]]:
        groups, _ = grouped(find(store, names))
        series = [curves(store, group.searches) for group in groups]
        least = shortest(groups, series)
        rows = summarize(groups, series, least.cost, baselines(groups))
        early = [(taken.search.name, taken.cost) for taken in exhausted(groups, series)]
        return early, (least.search.name, least.cost), [row.score for row in rows]

    early = [("e", 10.0)]
    assert compared("r", "e") == (early, ("r", 40.0), [0.5, 0.8])
    assert compared("e") == (early, ("e", 10.0), [0.8])
    assert compared("r", "short")[:2] == ([], ("short", 10.0))
    assert compared("r", "free")[:2] == ([], ("free", 10.0))
    close(store, store.search("e"), "stopped")
    assert compared("r", "e")[:2] == ([], ("e", 10.0))
    longer: list[Trial] = [("completed", 0.1, 20.0, None), *few, known[0]]
    both = [record(store, longer, name=f"late{seed}", max_seconds=50, seed=seed) for seed in range(2)]
    record(store, [*few, known[0]], name="late2", max_seconds=50, seed=2)
    assert [curve.exhausted for curve in curves(store, both)] == [True, True]
    assert compared("late")[1:] == (("late0", 30.0), [pytest.approx(0.8)])


def test_spreads() -> None:
    assert spread([]) == (None, None, None)
    assert spread([0.3]) == (0.3, None, None)
