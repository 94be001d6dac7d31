"""Statistics of ranks: tests by enumeration, published values, a correlation by hand."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.comparison.ranks import EXACT, mann_whitney, midranks, spearman


def enumerated(a: list[float], b: list[float]) -> float:
    """The share of all divisions of the values whose U lies at least as far from its mean."""
    values = a + b

    def distance(chosen: tuple[int, ...]) -> float:
        ours = [values[i] for i in chosen]
        others = [values[i] for i in range(len(values)) if i not in chosen]
        u = sum((x > y) + 0.5 * (x == y) for x in ours for y in others)
        return abs(u - len(ours) * len(others) / 2)

    seen = distance(tuple(range(len(a))))
    every = [distance(chosen) for chosen in itertools.combinations(range(len(values)), len(a))]
    return statistics.fmean(far >= seen - 1e-9 for far in every)


@pytest.mark.parametrize("levels", [1, 2, 4, 1000])
def test_the_exact_test_equals_enumeration(levels: int) -> None:
    rng = np.random.default_rng(levels)
    for first, second in ((1, 1), (3, 3), (2, 6), (5, 4), (6, 6)):
        a, b = (rng.integers(levels, size=n).astype(float).tolist() for n in (first, second))
        assert mann_whitney(a, b) == pytest.approx(enumerated(a, b), abs=1e-12)
        assert mann_whitney(a, b) == pytest.approx(mann_whitney(b, a), abs=1e-12)


def test_published_critical_values() -> None:
    """Two-sided 5 % critical values of U (Mann & Whitney 1947): 2 for n = 5, 5 and 23 for n = 10, 10."""
    for n, critical in ((5, 2), (10, 23)):
        found = {}
        for u in (critical, critical + 1):
            # The first sample 1 … n against the second, n + 1 … 2n: U counts how many steps it rises.
            a = list(range(1, n + 1))
            left = u
            for i in reversed(range(n)):
                step = min(left, n)
                a[i] += step
                left -= step
            b = [v for v in range(1, 2 * n + 1) if v not in a]
            found[u] = mann_whitney([float(v) for v in a], [float(v) for v in b])
        assert found[critical] <= 0.05 < found[critical + 1]


@pytest.mark.parametrize("levels", [12, 10**6])
def test_the_normal_approximation_meets_the_exact_test(levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    for shift in (0.0, 0.1, 0.25):
        a = rng.integers(levels, size=EXACT // 2).astype(float).tolist()
        b = (rng.integers(levels, size=EXACT // 2) + int(shift * levels)).astype(float).tolist()
        exact = mann_whitney(a, b)
        with monkeypatch.context() as patch:
            patch.setattr("nas.comparison.ranks.EXACT", 0)
            assert mann_whitney(a, b) == pytest.approx(exact, abs=0.004)


def test_rank_tests_without_information() -> None:
    assert mann_whitney([], [1.0]) is None
    assert mann_whitney([1.0] * 3, [1.0] * 4) == 1.0
    assert mann_whitney([1.0] * 60, [1.0] * 70) == 1.0
    np.testing.assert_array_equal(midranks(np.array([3.0, 1.0, 3.0, 2.0])), [3.5, 1.0, 3.5, 2.0])


def test_a_rank_correlation_by_hand() -> None:
    """1 − 6 Σd² / n(n² − 1) without ties: d = 1, 1, 0, 2, 2 of n = 5."""
    assert spearman([1, 2, 3, 4, 5], [20, 10, 30, 70, 40]) == pytest.approx(1 - 6 * 4 / 120)
    assert spearman([1, 2], [9, 3]) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5.
    assert spearman([1, 2, 2, 3], [5, 6, 7, 8]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_a_rank_correlation_that_is_not_defined() -> None:
    assert spearman([], []) is None
    assert spearman([1.0], [2.0]) is None
    assert spearman([1.0, 1.0], [2.0, 3.0]) is None
    assert spearman([2.0, 3.0], [1.0, 1.0]) is None


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2))
def test_a_rank_correlation_sees_the_order_alone(pairs: list[tuple[int, int]]) -> None:
    a, b = ([float(value) for value in side] for side in zip(*pairs, strict=True))
    rho = spearman(a, b)
    if rho is None:
        assert len(set(a)) == 1 or len(set(b)) == 1
        return
    assert -1 - 1e-12 <= rho <= 1 + 1e-12
    assert spearman([math.exp(x) for x in a], b) == pytest.approx(rho)
    assert spearman([-x for x in a], b) == pytest.approx(-rho)
    assert spearman(b, a) == pytest.approx(rho)
