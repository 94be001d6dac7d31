"""The table of trained networks of `few_shot`: which networks, in which order, merged how."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from search_spaces.few_shot import FewShot

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return SimpleNamespace(**runpy.run_path(str(BENCHMARKS / "few_shot_table.py"), run_name="few_shot_table"))


def trained(made: SimpleNamespace, scores: np.ndarray, seeds: tuple[int, ...] = (1,)) -> pd.DataFrame:
    rows = [
        {"number": number, "seed": seed, "episodes": 300, "score_300": score}
        for number, score in enumerate(scores)
        for seed in seeds
        if seed == 1 or number % 5 == 0
    ]
    return pd.DataFrame(rows, columns=made.COLUMNS)


def test_the_networks_are_distinct_and_always_the_same(made: SimpleNamespace) -> None:
    texts, space = made.networks(), FewShot()
    assert len({space.canonical(space.decode(text)) for text in texts}) == 1500
    cells = [cell for text in texts for cell in text.split("/")]
    counts = pd.Series(cells).value_counts()
    assert len(counts) == 228  # every stage is drawn about 3000 / 228 times
    assert counts.max() < 35
    assert texts[0] == (
        "max_pool|conv_1x1~0|+|none~0|conv_1x1~1|/avg_pool|conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|"
    )


def test_what_is_missing_is_planned_block_after_block(made: SimpleNamespace) -> None:
    first = next(made.plan(trained(made, np.zeros(0))))
    assert first == (0, 1, tuple(range(25)))
    partly = trained(made, np.zeros(24))
    assert [work[:2] for work in made.plan(partly)][:4] == [(0, 1), (0, 2), (0, 3), (1, 1)]
    assert next(made.plan(partly)).networks == (24,)


def test_full_trainings_go_to_every_rank(made: SimpleNamespace) -> None:
    """Scores fall with the number within a block, so that a network's place in it is its rank."""
    table = trained(made, -np.arange(1500.0), seeds=(1, 2, 3))
    full = list(made.plan(table))
    assert [work.seed for work in full] == [None] * 60
    ranks = [work.networks[0] % 25 for work in full]
    assert [work.networks[0] // 25 for work in full] == list(range(60))
    assert sorted(ranks[:25]) == sorted(ranks[25:50]) == list(range(25))
    done = pd.DataFrame([{"number": work.networks[0], "seed": 0, "episodes": 3000} for work in full])
    assert not list(made.plan(pd.concat([table, done])))


def test_merging_again_changes_no_byte(made: SimpleNamespace, tmp_path: Path) -> None:
    file, new = tmp_path / "t.csv.gz", trained(made, np.array([0.5, 0.6, 0.7]))
    networks = pd.DataFrame(
        [{"number": n, "seed": 0, "episodes": 0, "arch": f"net{n}"} for n in range(4)], columns=made.COLUMNS
    )
    made.write(file, networks)
    made.merge(file, new.iloc[::-1])
    before = file.read_bytes()
    made.merge(file, new.assign(score_300=0.0))
    assert file.read_bytes() == before
    found = made.read(file)
    assert found.loc[found["episodes"] == 300, ["arch", "score_300"]].to_numpy().tolist() == [
        ["net0", 0.5],
        ["net1", 0.6],
        ["net2", 0.7],
    ]


def test_costs_are_fitted_and_held_out_as_by_scikit_learn(made: SimpleNamespace) -> None:
    from few_shot_costs import fitted

    rng = np.random.default_rng(0)
    x = np.hstack([np.ones((40, 1)), rng.integers(3, size=(40, 4))])
    known = list(range(0, 40, 2))
    y = x[known] @ rng.random((5, 2)) + rng.normal(0, 0.1, (20, 2))
    predicted, r2 = fitted(x.tolist(), known, y)
    model = LinearRegression(fit_intercept=False)
    assert predicted == pytest.approx(model.fit(x[known], y).predict(x))
    out = cross_val_predict(model, x[known], y, cv=LeaveOneOut())
    assert r2 == pytest.approx(r2_score(y, out, multioutput="raw_values"))


def test_kendall_s_tau_is_that_of_scipy(made: SimpleNamespace) -> None:
    from correlations import kendall

    one, other = np.random.default_rng(0).integers(6, size=(2, 30)).astype(float)
    assert kendall(one, other) == pytest.approx(kendalltau(one, other).statistic)
