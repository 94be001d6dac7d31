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


def test_a_table_without_proxies_is_read_and_takes_over_what_another_knows(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    """Older tables lack these columns, and may have others; whichever is merged into whichever."""
    from few_shot_proxies import PROXIES, TOOK, filled, lacking

    old, new = tmp_path / "old.csv.gz", tmp_path / "new.csv.gz"
    networks = pd.DataFrame(
        [{"number": n, "seed": 0, "episodes": 0, "arch": f"net{n}"} for n in range(4)], columns=made.COLUMNS
    )
    found = {n: {**dict.fromkeys(PROXIES, 1.5 * n), "grasp": -np.inf, TOOK: 0.25} for n in (1, 3)}
    made.write(new, filled(networks, found))
    assert lacking(made.read(new)) == [0, 2]
    older = pd.concat([networks, trained(made, np.array([0.5, 0.6, 0.7]))])
    older["arch"] = older["number"].map("net{}".format)
    older.drop(columns=[*PROXIES, TOOK]).assign(key="x").to_csv(old, index=False)

    def rows(file: Path) -> list[tuple[object, ...]]:
        told = made.read(file).loc[:, [*made.KEYS, "arch", "score_300", "naswot", "grasp", TOOK]]
        return list(told.astype(object).where(told.notna(), None).itertuples(index=False, name=None))

    both = tmp_path / "both.csv.gz"
    both.write_bytes(new.read_bytes())
    made.merge(both, made.read(old))
    made.merge(old, made.read(new))
    assert rows(old) == rows(both)
    assert rows(both)[2:5] == [
        (1, 0, 0, "net1", None, 1.5, -np.inf, 0.25),
        (1, 1, 300, "net1", 0.6, 1.5, -np.inf, 0.25),
        (2, 0, 0, "net2", None, None, None, None),
    ]


def test_proxies_are_those_of_a_training_s_first_weights(made: SimpleNamespace) -> None:
    from few_shot_proxies import PROXIES, TOOK, looked_at

    from nas import plugins
    from nas.evaluator import Budget, Context
    from nas.settings.sections import maker
    from nas.training.provenance import training_seed
    from nas.training.proxies import proxies

    space, tasks = FewShot(channels=4), maker("tasks", {"name": "glyphs", "ways": 3})()
    context = Context(space, tasks, maker("learner", {"name": "prototypical"}), Budget())
    architecture = space.decode(made.networks()[0])
    found = looked_at(context, architecture, 1)
    own = training_seed(1, space.canonical(architecture), 0)
    wanted = {name: plugins.load("proxy", name)() for name in PROXIES}
    expected = proxies(context.trainee(architecture), own, wanted)
    assert found.pop(TOOK) > 0
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_surrogate_s_error_is_that_of_networks_left_out(made: SimpleNamespace) -> None:
    """Each network is predicted by a regression without any of its trainings."""
    from few_shot_page import FOLDS, predicted

    from nas.tables.regression import Regression

    rng = np.random.default_rng(0)
    numbers = np.repeat(np.arange(20), 2)
    x, y = rng.integers(2, size=(20, 5))[numbers].astype(float), rng.random((40, 2))
    found, order = predicted(x, y, numbers), np.random.default_rng(0).permutation(20)
    for place in (0, 7):
        fold = next(order[k::FOLDS] for k in range(FOLDS) if place in order[k::FOLDS])
        left = ~np.isin(numbers, fold)
        assert found[place] == pytest.approx(Regression(x[left], y[left])(x[2 * place]))


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
