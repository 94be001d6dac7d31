"""What evaluations say together, against numpy: intervals over seeds and episodes, paired differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nas.controller import Measurement
from nas.intervals import student_t
from nas.queries.results import NOT_FINITE, Difference, against, compare, compared, summarize
from nas.states import EvaluationState
from nas.storage.schema import Evaluation
from nas.storage.store import Store
from nas.testing.evaluations import claim, trained


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (120, 1.9799)],
)
def test_student_s_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert student_t(freedom) == pytest.approx(quantile, abs=5e-5)


def record(store: Store, scores: Any, **changes: Any) -> list[Evaluation]:
    """Record the test scores `[seeds, episodes]` of an architecture; NaN for a seed that failed."""
    rows = []
    for seed, run in enumerate(np.asarray(scores)):
        row = claim(store, seed=seed, **changes)
        if np.isnan(run).any():
            store.evaluations.fail(row.id, EvaluationState.FAILED, "no")
        else:
            store.evaluations.complete(row.id, trained(tuple(map(float, run))))
        rows.append(store.evaluations.get(row.id))
    return rows


def test_a_result_keeps_seeds_and_episodes_apart(store: Store) -> None:
    scores = np.random.default_rng(0).random((3, 40))
    result = summarize(store, record(store, scores))
    assert result is not None
    assert result.seeds == 3
    assert result.test_score == pytest.approx(scores.mean())
    spread = scores.mean(1).std(ddof=1) / math.sqrt(3)
    assert result.ci95_seeds == pytest.approx(4.302652729911275 * spread)
    assert result.ci95_episodes == pytest.approx(1.96 * scores.mean(0).std(ddof=1) / math.sqrt(40))
    assert (result.test_episodes, result.validation_score, result.normalization) == (40, 0.75, "transductive")


def test_a_single_seed_has_no_interval_over_seeds(store: Store) -> None:
    result = summarize(store, record(store, [[0.0, 1.0, 0.5]]))
    assert result is not None
    assert result.ci95_seeds is None
    assert result.ci95_episodes == pytest.approx(1.96 * 0.5 / math.sqrt(3))


def test_a_difference_is_paired_over_the_seeds_that_both_have(store: Store) -> None:
    chance = np.random.default_rng(1)
    mine, theirs = chance.random((4, 30)), chance.random((4, 30))
    mine[1], theirs[3] = np.nan, np.nan
    rows, baseline = record(store, mine), record(store, theirs, key="baseline")
    found = compare(store, rows, baseline)
    assert found is not None
    differences = (mine - theirs)[[0, 2]]
    assert found.value == pytest.approx(differences.mean())
    assert found.by_seed == pytest.approx(tuple(differences.mean(1)))
    assert found.ci95_episodes == pytest.approx(1.96 * differences.mean(0).std(ddof=1) / math.sqrt(30))
    assert found.ci95_seeds == pytest.approx(student_t(1) * differences.mean(1).std(ddof=1) / math.sqrt(2))
    result = summarize(store, rows)
    assert result is not None
    assert result.seeds == 3


def test_episodes_without_a_finite_prediction_are_told_over_all_seeds(store: Store) -> None:
    rows = record(store, [[0.0, 1.0], [1.0, 1.0], [0.5, 0.5]])
    for row, count in zip(rows, (2, 3), strict=False):
        store.evaluations.measure(row.id, [Measurement(30, NOT_FINITE, count), Measurement(30, "other", 9)])
    result = summarize(store, rows)
    assert result is not None
    assert result.test_not_finite == 5


def test_what_never_completed_has_no_result(store: Store) -> None:
    failed = record(store, [[np.nan], [np.nan]])
    done = record(store, [[0.0, 1.0]], key="other")
    assert summarize(store, failed) is None
    assert compare(store, done, failed) is None
    one, two = ("chain", "key", "0"), ("chain", "other", "0")
    [(identity, result, differences)] = compared(store, {one: failed, two: done}, {two: [one]})
    assert (identity, result.key, differences) == (two, "other", {})


def test_a_target_is_compared_with_each_of_its_baselines_but_itself(store: Store) -> None:
    names = [("chain", key, "0") for key in ("key", "one", "other")]
    scores = ([0.9, 0.5], [0.4, 0.6], [0.2, 0.4])
    evaluated = {name: record(store, [own], key=name[1]) for name, own in zip(names, scores, strict=True)}
    found = compared(store, evaluated, dict.fromkeys(names[:2], names[1:]))
    assert [
        {other: pytest.approx(difference.value) for other, difference in differences.items()}
        for _, _, differences in found
    ] == [{names[1]: 0.2, names[2]: 0.4}, {names[2]: 0.2}, {}]


def test_a_result_has_a_row_for_each_baseline(store: Store) -> None:
    result = summarize(store, record(store, [[0.9, 0.5]]))
    assert result is not None
    [alone] = against(result, "conv4", [])
    assert (alone.name, alone.test_score, alone.baseline, alone.difference) == ("conv4", 0.7, None, None)
    first, second = (Difference(value, 0.01, (value,), None) for value in (0.2, -0.1))
    rows = against(result, None, [("conv4", first), ("chain:1.0", second)])
    assert [(row.key, row.baseline, row.difference, row.difference_by_seed) for row in rows] == [
        ("key", "conv4", 0.2, (0.2,)),
        ("key", "chain:1.0", -0.1, (-0.1,)),
    ]
    assert [(row.difference_ci95_episodes, row.difference_ci95_seeds) for row in rows] == [(0.01, None)] * 2
