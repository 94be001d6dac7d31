"""Scores that a regression on a table of trainings predicts."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from facts import refusal
from scripted_searches import run
from sklearn.linear_model import BayesianRidge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from small_table import write

from nas.errors import ConfigError, Infeasible
from nas.evaluator import Job
from nas.metrics import TEST_SCORE
from nas.racing import Racing
from nas.settings.search import SearchConfig, validate
from nas.space import Architecture, TaskShape
from nas.states import TrialState
from nas.storage.store import Store
from nas.tables.regression import Regression, seed_covariance
from nas.tables.surrogate import Fitted
from nas.tables.table import Columns
from nas.testing.toys import Toy
from search_spaces.few_shot import FewShot

TEXTS = [f"0.{width}.{activation}.0" for width in range(4) for activation in range(2)]
SPREAD = np.array([[0.02, 0.0], [0.03, 0.01]])
"""A root of the covariance between seeds, at two lengths."""


def trainings(path: Path, seeds: int = 40) -> Path:
    """Write trainings whose mean is linear in the choices, and one longer training without a score."""
    rng, rows = np.random.default_rng(0), []
    for text in TEXTS:
        _, width, activation, _ = map(int, text.split("."))
        mean = 0.5 + 0.05 * width + 0.02 * activation
        for noise in rng.standard_normal((seeds, 2)) @ SPREAD.T:
            rows.append((text, mean - 0.2 + noise[0], mean + noise[1], 2.0 + width))
    rows.append((TEXTS[0], "", "", ""))
    return write(pd.DataFrame(rows, columns=["arch", "at_4", "at_12", "cost"]), path)


def configure(table: Path, **settings: Any) -> SearchConfig:
    evaluator = {"metric": {4: "at_4", 12: "at_12"}, "cost": "cost", **settings}
    return validate(
        {
            "space": {"name": "nas.testing.toys:Toy", "layers": 1},
            "controller": "random",
            "evaluator": {"name": "surrogate", "table": str(table), **evaluator},
            "budget": {"score_at": [4]},
        }
    )


def predicted(config: SearchConfig, text: str, seeds: range, **asked: int) -> list[Any]:
    space = config.make_space()
    evaluator = config.make_lookup(space, config.make_source())
    return [list(evaluator.evaluate(Job(0, 0, space.decode(text), seed, **asked))) for seed in seeds]


def test_the_regression_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    x, new = rng.integers(3, size=(60, 5)), rng.integers(3, size=(7, 5))
    y = np.stack([x[:, 0] * x[:, 1] - x[:, 2] ** 2, x.sum(1)], 1) + rng.normal(0, 0.1, (60, 2))
    for column, found in zip(y.T, Regression(x, y)(new).T, strict=True):
        parts = PolynomialFeatures(2, include_bias=False), StandardScaler(), BayesianRidge()
        assert found == pytest.approx(make_pipeline(*parts).fit(x, column).predict(new), abs=1e-9)


def test_trainings_of_one_network_tell_the_noise() -> None:
    targets = [[1.0, 2.0], [3.0, 6.0], [5.0, 0.0], [0.0, 1.0], [0.0, 3.0], [3.0, 2.0]]
    found = seed_covariance(targets, ["a", "a", "once", "b", "b", "b"])
    # a: deviations ∓(1, 2); b: (−1, −1), (−1, 1), (2, 0); degrees of freedom 1 + 2
    assert found == pytest.approx(np.array([[2 + 6, 4 + 0], [4 + 0, 8 + 2]]) / 3)
    assert seed_covariance(targets[:2], ["a", "b"]) is None


def test_scores_are_the_mean_and_noise_of_the_trial_s_seed(tmp_path: Path) -> None:
    config = configure(trainings(tmp_path / "t.csv"))
    outcomes = predicted(config, "0.3.1.0", range(2000))
    short, whole = (np.array([one[i].score.value for one in outcomes]) for i in range(2))
    assert [one.train_episodes for one in outcomes[0]] == [4, 12]
    assert [one.state for one in outcomes[0]] == [TrialState.RUNNING, TrialState.COMPLETED]
    assert (short.mean(), whole.mean()) == pytest.approx((0.47, 0.67), abs=0.01)
    assert np.cov(short, whole) == pytest.approx(SPREAD @ SPREAD.T, abs=1.5e-4)
    [exact] = {m.value for one in outcomes for m in one[-1].measurements if m.metric == TEST_SCORE}
    assert exact == pytest.approx(whole.mean(), abs=0.003)
    assert outcomes[0][-1].seconds == pytest.approx(5, abs=0.01)
    assert outcomes[0][0].seconds == pytest.approx(5 * 4 / 12, abs=0.01)
    assert [o.score for o in predicted(config, "0.3.1.0", range(7, 8))[0]] == [o.score for o in outcomes[7]]
    [[early]] = predicted(config, "0.3.1.0", range(7, 8), episodes=4)
    assert (early.score, early.train_episodes) == (outcomes[7][0].score, 4)


def test_costs_are_counted_for_the_shape_of_an_example(tmp_path: Path) -> None:
    [outcome] = predicted(configure(trainings(tmp_path / "t.csv"), input=[16]), "0.3.1.0", range(1))
    toy = Toy(layers=1)
    assert outcome[-1].costs == toy.cost(toy.decode("0.3.1.0"), TaskShape((16,), 1))._asdict()
    with refusal(ConfigError, "evaluator.input"):
        columns = Columns("arch", ((0, "at_12"),), None, ())
        Fitted(tmp_path / "t.csv", "", columns, FewShot(), (16,), noisy=False)


def test_noise_takes_a_network_that_was_trained_twice(tmp_path: Path) -> None:
    table = trainings(tmp_path / "t.csv", seeds=1)
    with refusal(ConfigError, "evaluator.noise"):
        configure(table).make_source()
    quiet = predicted(configure(table, noise=False), "0.3.1.0", range(2))
    assert len({outcomes[-1].score.value for outcomes in quiet}) == 1


def test_the_stand_in_tells_what_it_stands_on(tmp_path: Path) -> None:
    source = configure(trainings(tmp_path / "t.csv", seeds=3)).make_source()
    assert isinstance(source, Fitted)
    [remark] = source.remarks
    assert f"{3 * len(TEXTS)} trainings of {len(TEXTS)} networks" in remark


def test_networks_of_few_shot_are_told_apart_by_their_features() -> None:
    """Brute force over every encoding of a stage: equal keys, equal features; other keys, others."""
    space = FewShot(stages=1)
    features: dict[str, set[bytes]] = {}
    for choices in product(*(range(len(decision.choices)) for decision in space.decisions)):
        architecture = Architecture(space.name, choices)
        try:
            found = space.features(architecture)
        except Infeasible:
            continue
        features.setdefault(space.canonical(architecture), set()).add(found.tobytes())
    assert {len(own) for own in features.values()} == {1}
    assert len(set().union(*features.values())) == len(features) == 228


def test_a_search_by_predictions_races(store: Store, tmp_path: Path) -> None:
    """Each further seed draws noise of its own."""
    racing = {"racing": Racing(finalists=2, max_repeats=3), "trials": 8}
    config = configure(trainings(tmp_path / "table.csv")).model_copy(update=racing)
    run(store, config)
    further = [trial for trial in store.trials(store.search("@last").id) if trial.kind == "race"]
    assert {trial.repeat for trial in further} >= {1, 2}
    assert len({trial.score for trial in further}) == len(further)
