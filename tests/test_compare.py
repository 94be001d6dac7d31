"""Comparisons: curves and summaries by hand, the rank test by enumeration, what is refused."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import shlex
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from nas.cli.main import app
from nas.comparison.curves import Curve, curves
from nas.comparison.groups import find, flat, grouped
from nas.comparison.ranks import EXACT, mann_whitney, midranks
from nas.comparison.summary import equal_cost, spread, summarize
from nas.config import validate
from nas.controller import Measurement, Outcome, Score, State
from nas.errors import ConfigError, NasError, NotFound
from nas.storage.schema import Search
from nas.storage.store import Store
from nas.testing.toys import Toy

SCRIPTED = "nas.testing.evaluators:Scripted"

Trial = tuple[str, float | None, float, float | None]
"""State, score, seconds, test score."""


def record(store: Store, trials: list[Trial], **changes: Any) -> Search:
    """Write a search with these trials, in the order recorded."""
    space = Toy()
    values: dict[str, Any] = {
        "space": "nas.testing.toys:Toy",
        "controller": "random",
        "tasks": "sinusoid",
        "learner": "maml",
        "evaluator": SCRIPTED,
        "trials": 9,
    }
    config = validate(values | changes)
    row = store.create_search(
        name=config.name,
        source=None,
        config=config.model_dump(mode="json"),
        space="toy",
        controller=config.controller["name"],
        tasks="sinusoid",
        task_label="sinusoid 10-shot",
        learner="maml",
        executor="inline",
        seed=config.seed,
        trials=config.trials,
        settings=config.settings,
        environment={"classes": {"sinusoid/train": "abc"}},
    )
    rng = np.random.default_rng(0)
    for number, (state, score, seconds, test) in enumerate(trials):
        architecture = space.sample(rng)
        trial = store.begin(
            row.id,
            number,
            architecture=space.encode(architecture),
            key=space.canonical(architecture),
            space="toy",
            seed=1,
            attempt=0,
        )
        outcome = Outcome(
            State(state),
            architecture,
            None if score is None else Score(score, 0.0, 1),
            seconds=seconds,
            measurements=() if test is None else (Measurement(0, "test_score", test),),
        )
        store.finish(trial, outcome)
    store.acquire(row.id)
    store.release(row.id, "completed")
    return store.search(row.name)


@pytest.fixture
def store(tmp_path: Path):
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        yield store


MIXED: list[Trial] = [
    ("failed", None, 5.0, None),
    ("completed", 0.4, 10.0, 0.5),
    ("stopped", 0.9, 3.0, None),
    ("completed", 0.3, 10.0, 0.9),
    ("reused", 0.4, 0.0, None),
    ("infeasible", None, 0.0, None),
    ("completed", 0.6, 2.0, 0.45),
]
"""Costs: 5, 15, 18, 28, 28, 28, 30."""


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


def test_groups_differ_in_the_seed_alone(store: Store) -> None:
    for name, seed, controller in (
        ("e2", 2, {"name": "evolution", "population": 8}),
        ("e1", 1, {"name": "evolution", "population": 8}),
        ("e-wide", 1, {"name": "evolution", "population": 9}),
        ("r1", 1, "random"),
        ("e1-again", 1, {"name": "evolution", "population": 8}),
    ):
        record(store, MIXED, name=name, seed=seed, controller=controller)
    groups, repeated = grouped(find(store, ["e", "r1"]))
    found = [(group.label, [search.name for search in group.searches]) for group in groups]
    assert found == [
        ("random", ["r1"]),
        ("evolution population=8", ["e1", "e2"]),
        ("evolution population=9", ["e-wide"]),
    ]
    assert repeated == ["e1-again"]


def test_references(store: Store) -> None:
    for name in ("a-random-0", "a-random-1", "a-evolution-0", "b"):
        record(store, [], name=name)
    for reference, names in {
        "a-": ["a-random-0", "a-random-1", "a-evolution-0"],
        "a-*-0": ["a-random-0", "a-evolution-0"],
        "*-random-?": ["a-random-0", "a-random-1"],
        "a-random-1": ["a-random-1"],
        "@last": ["b"],
    }.items():
        assert [search.name for search in find(store, [reference])] == names
    assert len(find(store, ["a-", "a-random-0", "@last"])) == 4
    for reference in ("c", "c-*", ""):
        with pytest.raises(NotFound, match="No search"):
            find(store, [reference])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tasks": {"name": "sinusoid", "shots": 5}}, r"tasks\.shots: 10 and 5"),
        ({"learner": {"name": "maml", "inner_lr": 0.5}}, r"learner\.inner_lr: .* and 0\.5"),
        ({"budget": {"train_episodes": 7}}, r"budget\.train_episodes: 300 and 7"),
        ({"resources": {"precision": "bfloat16"}}, r"resources\.precision: auto and bfloat16"),
        ({"evaluator": {"name": SCRIPTED, "seconds": 1}}, r"evaluator\.seconds: 0\.0 and 1\.0"),
    ],
)
def test_other_protocols_are_refused(store: Store, changes: dict[str, Any], reason: str) -> None:
    one, other = record(store, MIXED, name="one"), record(store, MIXED, name="other", **changes)
    assert one.settings != other.settings
    with pytest.raises(ConfigError, match=f"'one' and 'other' do not compare. They differ in {reason}"):
        grouped([one, other])


def test_other_data_is_refused(store: Store) -> None:
    one, other = record(store, MIXED, name="one"), record(store, MIXED, name="other")
    other.environment = {"classes": {"sinusoid/train": "abd"}}
    with pytest.raises(ConfigError, match="data of sinusoid/train: abc and abd"):
        grouped([one, other])


def test_the_protocol_is_what_the_settings_hash_covers() -> None:
    from nas.comparison.groups import PROTOCOL

    base = {"space": "nas.testing.toys:Toy", "controller": "random", "tasks": "sinusoid", "learner": "maml"}
    config = validate(base)
    others = {"seed": 3, "trials": 5, "name": "x", "deduplicate": False, "retries": 0, "max_seconds": 5.0}
    for key, value in others.items():
        assert not key.startswith(PROTOCOL)
        assert validate(base | {key: value}).settings == config.settings
    covered = {key.split(".")[0] for key in flat(config.model_dump()) if key.startswith(PROTOCOL)}
    assert covered == {"tasks", "learner", "evaluator", "budget", "resources"}


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
    cost = equal_cost(series)
    random, evolution = summarize(groups, series, cost)
    assert cost == 20.0
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
    [row] = summarize(groups, series, equal_cost(series))
    assert (row.cost, row.searches, row.score, row.score_std) == (10.0, 1, 0.5, None)
    with pytest.raises(NotFound, match="no trial that has ended"):
        equal_cost([curves(store, [record(store, [], name="empty")])])


def test_spreads() -> None:
    assert spread([]) == (None, None, None)
    assert spread([0.3]) == (0.3, None, None)


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


def nas(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, NasError):
        return result.exception.exit_code, result.stdout, str(result.exception)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path}/cli.db"
    monkeypatch.setenv("NAS_DB", url)
    with Store(url) as store:
        for seed in range(4):
            for controller in ("random", "evolution"):
                trials: list[Trial] = [
                    ("completed", 0.1 * seed + 0.01 * n, 10.0, 0.05 * seed) for n in range(3)
                ]
                record(store, trials, name=f"x-{controller}-{seed}", seed=seed, controller=controller)
    return url


def test_the_command_prints_every_format(db: str) -> None:
    code, out, err = nas("compare", "x")
    assert code == 0
    assert out.splitlines()[0].split()[:4] == ["group", "searches", "trials", "reused"]
    assert out.splitlines()[1].split()[0] == "random"
    assert "sinusoid 10-shot, each search after 30 s of worker time" in err
    assert "Mann-Whitney" in err
    rows = json.loads(nas("compare", "x", "-f", "json")[1])
    assert [(row["group"], row["searches"]) for row in rows] == [("random", 4), ("evolution", 4)]
    assert rows[1]["score"] == pytest.approx(0.17)
    assert rows[1]["p_score"] == 1.0
    assert len(nas("compare", "x", "-f", "ndjson")[1].splitlines()) == 2
    assert {row["group"] for row in csv.DictReader(io.StringIO(nas("compare", "x", "-f", "csv")[1]))} == {
        "random",
        "evolution",
    }
    assert nas("compare", "x", "-f", "markdown")[1].startswith("| group | searches |")


def test_without_random_search_its_command_is_named(db: str) -> None:
    with Store(db) as store:
        changes = {
            "tasks": {"name": "sinusoid", "shots": 3},
            "controller": {"name": "evolution", "population": 4, "sample": 2},
            "constraints": {"max_parameters": 99},
        }
        record(store, MIXED, name="lonely", seed=7, **changes)
        expected = store.search("lonely").config
    code, _, err = nas("compare", "lonely")
    assert code == 0
    assert "No random search beside evolution" in err
    [command] = [line for line in err.splitlines() if "nas run" in line]
    _, verb, *arguments = shlex.split(command)
    assert verb == "run"
    with pytest.MonkeyPatch.context() as patch:
        seen: list[dict[str, Any]] = []

        def caught(values: dict[str, Any]) -> None:
            seen.append(validate(values).model_dump(mode="json"))
            raise NotFound("seen enough")

        patch.setattr("nas.config.validate", caught)
        assert nas("run", *arguments)[0] == 3
    expected |= {"controller": {"name": "random"}, "name": None}
    assert seen == [expected]


def test_what_is_unusual_is_said(db: str) -> None:
    with Store(db) as store:
        record(store, MIXED, name="y-random-0", seed=0)
        row = record(store, MIXED, name="x-random-9", seed=9)
        store.acquire(row.id)
        store.release(row.id, "interrupted")
    code, _, err = nas("compare", "x", "y")
    assert code == 0
    assert "Left out, since an older search has the same settings and seed: y-random-0." in err
    assert "Not complete: 'x-random-9' (interrupted)" in err


def test_bad_input(db: str) -> None:
    assert nas("compare", "nobody")[0] == 3
    with Store(db) as store:
        record(store, MIXED, name="other", tasks={"name": "sinusoid", "shots": 2})
    code, _, err = nas("compare", "x-random-0", "other")
    assert (code, "tasks.shots: 10 and 2" in err) == (2, True)


def test_curves_of_many_searches_stay_apart(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.comparison.curves.CHUNK", 2)
    rows = [record(store, [("completed", 0.1 * n, 1.0, None)], name=f"s{n}", seed=n) for n in range(5)]
    found: list[Curve] = curves(store, rows[::-1])
    assert [float(curve.best[0]) for curve in found] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
