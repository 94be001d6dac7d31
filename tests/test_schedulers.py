"""Schedulers that promote, against brackets computed by hand and as the paper's algorithm goes on a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from facts import refusal
from grids import rest_slow
from scripted_searches import configure, killed, run

from controllers.evolution import Evolution
from controllers.fixed import Fixed
from controllers.random import Random
from nas.backbone import BackboneSpace
from nas.controller import Controller, Evaluate, Finish, Outcome, Proposal, Score
from nas.errors import ConfigError, NotFound
from nas.schedulers.curves import ENOUGH, Curves
from nas.schedulers.halving import Bracket, Halving, brackets
from nas.schedulers.median import Median
from nas.schedulers.promotion import Promotion
from nas.schedulers.settings import Scheduler
from nas.space import Architecture, Space
from nas.states import TrialState
from nas.storage.store import Store
from nas.testing.controllers import ControllerSuite, Make, Run, simulate
from nas.testing.toys import Toy
from nas.wrappers import Deduplicated

TOY = Toy()
LENGTHS = (1, 3, 9)


class Listed(Controller):
    """Proposes a list in turn, then nothing more; its order stands for the score."""

    def __init__(self, architectures: Sequence[Architecture]) -> None:
        self.architectures, self.told = architectures, list[int]()

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        return Evaluate(self.architectures[number]) if number < len(self.architectures) else Finish()

    def observe(self, number: int, outcome: Outcome) -> None:
        self.told.append(number)


def different(many: int) -> list[Architecture]:
    rng, found = np.random.default_rng(0), dict[str, Architecture]()
    while len(found) < many:
        drawn = TOY.sample(rng)
        found.setdefault(TOY.canonical(drawn), drawn)
    return list(found.values())


def scripted(values: dict[Architecture, float], failing: Sequence[int] = ()) -> Callable[..., Outcome]:
    def evaluate(number: int, architecture: Architecture) -> Outcome:
        if number in failing:
            return Outcome(TrialState.FAILED, architecture, error="by chance")
        return Outcome(TrialState.COMPLETED, architecture, Score(values[architecture], 0.0, 1), LENGTHS[-1])

    return evaluate


def lengths(run: Run) -> list[int]:
    """Return the lengths of a run's trials in the order proposed."""
    asked = [proposal.episodes for proposal in run.proposals if isinstance(proposal, Evaluate)]
    return [LENGTHS[-1] if episodes is None else episodes for episodes in asked]


INNER: dict[str, Callable[[BackboneSpace, int], Controller]] = {
    "random": Random,
    "evolution": lambda space, seed: Evolution(space, seed, population=4, sample=2),
    "fixed": lambda space, seed: Fixed(space, seed, architectures=("1.0.0.0.0", "0.2.0.0.0", "0.2.3.0.0")),
}
KINDS: dict[str, Callable[[Controller, Space[Any]], Controller]] = {
    "promotion": lambda inner, space: Promotion(inner, space, (20, 75, 300), 2),
    "halving": lambda inner, space: Halving(inner, space, (20, 75, 300), 2, hyperband=False),
    "hyperband": lambda inner, space: Halving(inner, space, (20, 75, 300), 2, hyperband=True),
}


GRID = list(product(KINDS, INNER))
QUICK = tuple(zip(KINDS, INNER, strict=True))
"""Each scheduler and each controller once."""


@pytest.mark.parametrize(("kind", "inner"), rest_slow(GRID, QUICK))
class TestPromotingControllers(ControllerSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return Toy(layers=2)

    @pytest.fixture
    def make(self, space: BackboneSpace, kind: str, inner: str) -> Make:
        return lambda seed: Deduplicated(KINDS[kind](INNER[inner](space, seed), space), space)


def test_brackets_are_those_of_the_paper_s_algorithm() -> None:
    """R = 81 and η = 3: ⌈5/(s+1)·3ˢ⌉ candidates, from 3⁴⁻ˢ on."""
    assert brackets(5, 3) == [Bracket(0, 81), Bracket(1, 34), Bracket(2, 15), Bracket(3, 8), Bracket(4, 5)]


def test_the_lengths_of_a_budget_by_hand() -> None:
    assert Scheduler(eta=3, minimum=1).lengths(81) == (1, 3, 9, 27, 81)
    assert Scheduler(eta=3, minimum=4).lengths(81) == (9, 27, 81)
    assert Scheduler().lengths(300) == (18, 75, 300)


def test_a_bracket_halves_by_hand() -> None:
    """Nine candidates, the third of them with the best scores, then the best of these."""
    nine = different(9)
    values = dict(zip(nine, [4, 8, 1, 7, 2, 9, 3, 6, 5], strict=True))
    inner = Listed(nine)
    found = simulate(Halving(inner, TOY, LENGTHS, 3, hyperband=False), scripted(values), trials=99)
    assert lengths(found) == [1] * 9 + [3] * 3 + [9]
    promoted = [values[proposal.architecture] for proposal in found.proposals[9:]]
    assert promoted == [9, 8, 7, 9]
    assert inner.told == list(range(13))


def test_hyperband_takes_its_brackets_in_turn() -> None:
    many = different(60)
    values = {architecture: float(place) for place, architecture in enumerate(many)}
    found = simulate(Halving(Listed(many), TOY, LENGTHS, 3, hyperband=True), scripted(values), trials=44)
    first = [1] * 9 + [3] * 3 + [9]
    assert lengths(found) == 2 * [*first, *[3] * 5, 9, *[9] * 3]


def test_failures_and_a_short_list_make_a_bracket_smaller() -> None:
    """Of seven candidates two fail: ⌊7/3⌋ go on; where nobody has a score the search ends."""
    seven = different(7)
    values = {architecture: float(place) for place, architecture in enumerate(seven)}
    found = simulate(
        Halving(Listed(seven), TOY, LENGTHS, 3, hyperband=False),
        scripted(values, (5, 6)),
        trials=99,
        workers=3,
    )
    assert Counter(lengths(found)) == {1: 7, 3: 2, 9: 1}
    assert values[found.proposals[-1].architecture] == 4  # type: ignore[union-attr]
    nobody = simulate(
        Halving(Listed(seven), TOY, LENGTHS, 3, hyperband=False), scripted(values, range(7)), trials=99
    )
    assert (len(nobody.proposals), nobody.finished) == (7, True)


def test_promotion_is_algorithm_2_of_the_paper() -> None:
    """One worker: before each job the algorithm is worked out anew from all results."""
    many = different(40)
    rng = np.random.default_rng(1)
    values = {architecture: float(rng.random()) for architecture in many}
    found = simulate(Promotion(Listed(many), TOY, LENGTHS, 3), scripted(values), trials=60)
    done: list[list[Architecture]] = [[], [], []]
    for proposal in found.proposals:
        assert isinstance(proposal, Evaluate)
        expected = None
        for rung in (1, 0):
            top = sorted(done[rung], key=lambda a: -values[a])[: len(done[rung]) // 3]
            promotable = [candidate for candidate in top if candidate not in done[rung + 1]]
            if promotable:
                expected = promotable[0], rung + 1
                break
        if expected is None:
            expected = many[len(done[0])], 0
        rung = LENGTHS.index(proposal.episodes or LENGTHS[-1])
        assert (proposal.architecture, rung) == expected
        done[rung].append(proposal.architecture)
    assert all(done)


@pytest.mark.parametrize("name", ["promotion", "halving", "hyperband"])
def test_a_search_promotes_and_resumes(store: Store, name: str) -> None:
    changes: dict[str, Any] = {
        "scheduler": {"name": name, "minimum": 30, "eta": 3},
        "controller": "random",
        "trials": 30,
    }
    config = configure(name="whole", **changes)
    whole = run(store, config)
    trials = store.trials(store.search("whole").id)
    assert {trial.asked_episodes for trial in trials} == {33, 100, None}
    assert all((trial.state == "completed") == (trial.asked_episodes is None) for trial in trials)
    assert killed(store, configure(name="broken", **changes), 17) == whole


def test_what_a_scheduler_cannot_share_out_is_refused() -> None:
    for changes in (
        {"scheduler": {"name": "hyperband", "minimum": 200}},
        {"scheduler": "hyperband", "objective": ["score", "macs"]},
        {"scheduler": {"name": "promotion", "threshold": 0.1}},
        {"scheduler": {"name": "promotion"}, "controller": "darts", "space": "nasbench201"},
    ):
        with pytest.raises(ConfigError, match="scheduler"):
            configure(**changes)


# Curves


def test_curves_predict_as_a_regression_does() -> None:
    """Where scores at the rung are normal quantiles, against numpy's least squares and scipy's t."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    first = rng.normal(size=40)
    last = 0.5 * first + rng.normal(size=40)
    curves = Curves(0.05, 10, (1,))
    for trial, (early, late) in enumerate(zip(first, last, strict=True)):
        curves.record(trial, 1, float(early))
        curves.complete(trial, float(late))
    curves.record(99, 1, -0.3)
    ranks = stats.rankdata([*first, -0.3])
    x = stats.norm.ppf((ranks - 0.5) / 41)
    design = np.column_stack([np.ones(40), x[:40]])
    weights, residual, *_ = np.linalg.lstsq(design, last, rcond=None)
    here = np.array([1, x[40]])
    spread = math.sqrt(residual[0] / 38 * (1 + here @ np.linalg.inv(design.T @ design) @ here))
    chance = stats.t.sf((last.max() - here @ weights) / spread, 38)
    assert curves.chance(1, -0.3) == pytest.approx(chance)


def test_curves_stop_nobody_while_few_are_known_and_forget_who_failed() -> None:
    curves = Curves(0.5, 10, (1, 3))
    for trial in range(ENOUGH - 1):
        assert curves.report(trial, 1, trial / 10)
        curves.complete(trial, trial / 10)
    assert curves.report(98, 1, -9.0)
    curves.complete(98, -9.0)
    assert not curves.report(99, 1, -8.0)
    assert not curves.report(99, 1, math.nan)
    assert curves.report(99, 3, -8.0)  # nothing is known there
    curves.forget(99)
    assert 99 not in curves._scores[1]


def test_earlier_trainings_are_learned_from_and_are_no_best_so_far() -> None:
    rng = np.random.default_rng(1)
    first = rng.normal(size=30)
    earlier = [{1: float(x), 3: float(x), 10: float(x + rng.normal() / 10)} for x in first]
    alone, told = Curves(0.05, 10, (1, 3)), Curves(0.05, 10, (1, 3), earlier)
    for curves in (alone, told):
        assert curves.report(0, 1, -9.0)  # no trial has been trained whole
        assert curves.report(1, 1, 0.0)
        curves.complete(1, 0.0)
        assert curves.report(2, 1, 0.5)  # the best of the earlier ones is above 1
    assert alone.report(3, 1, -1.0)
    assert not told.report(3, 1, -1.0)
    whole = Curves(0.05, 10, (1, 3))
    for trial, scores in enumerate(earlier):
        whole.record(trial, 1, scores[1])
        whole.complete(trial, scores[10])
    late = Curves(0.05, 10, (1, 3), earlier)
    late.record(99, 3, 0.0)
    late.complete(99, max(scores[10] for scores in earlier))
    assert late.chance(1, 0.3) == pytest.approx(whole.chance(1, 0.3))


def test_a_table_of_learning_curves_stops_trials_from_the_first_on(store: Store, tmp_path: Path) -> None:
    shares = np.random.default_rng(0).uniform(size=50)
    rows = {f"score_{n}": shares * n / 300 + 1e-3 * np.sin(n * shares) for n in (30, 90, 270, 300)}
    table = pd.DataFrame(rows | {"arch": "of no matter"})
    table.loc[50] = [math.nan, math.nan, math.nan, 0.9, "without a curve"]
    table.to_csv(tmp_path / "curves.csv", index=False)
    curves = {"name": "curves", "minimum": 30, "eta": 3}
    metric = {str(n): f"score_{n}" for n in (30, 90, 270, 300)}
    told = {**curves, "table": str(tmp_path / "curves.csv"), "metric": metric}
    changes: dict[str, Any] = {"controller": "random", "trials": 10}
    assert "stopped" not in [row[1] for row in run(store, configure(scheduler=curves, **changes))]
    whole = run(store, configure(name="whole", scheduler=told, **changes))
    assert 2 <= [row[1] for row in whole].count("stopped") < 10
    assert killed(store, configure(name="broken", scheduler=told, **changes), 5) == whole


def test_a_table_of_learning_curves_that_is_of_no_use_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "curves.csv"
    curves = {
        "name": "curves",
        "minimum": 100,
        "table": str(table),
        "metric": {"100": "early", "300": "late"},
    }
    with refusal(NotFound, "scheduler.table", str(table)):
        configure(scheduler=curves).make_stopper()
    table.write_text("early,late\n0.5,\n,0.6\n")
    with refusal(ConfigError, "scheduler.table", "early, late"):
        configure(scheduler=curves).make_stopper()
    with refusal(ConfigError, "scheduler.table", "better"):
        configure(scheduler={**curves, "metric": {"100": "early", "300": "better"}}).make_stopper()
    with refusal(ConfigError, "scheduler.metric", "lengths 25;"):
        configure(scheduler={**curves, "minimum": 25}).make_stopper()
    for lacking in ("table", "metric"):
        with refusal(ConfigError, "scheduler.table, scheduler.metric"):
            configure(scheduler={key: value for key, value in curves.items() if key != lacking})
    with refusal(ConfigError, "scheduler.table", "--scheduler curves"):
        configure(scheduler={**curves, "name": "asha"})


def test_the_median_rule_by_hand() -> None:
    rule = Median(100, (10, 30))
    for trial, scores in enumerate([(0.2, 0.4), (0.4, 0.6), (0.6, 0.8)]):
        assert all(rule.report(trial, step, score) for step, score in zip((10, 30), scores, strict=True))
    assert rule.report(3, 10, 0.4)  # as good as the median of 0.2, 0.4 and 0.6
    assert not rule.report(4, 10, 0.3)  # the median of four is 0.4
    assert not rule.report(3, 30, 0.45)  # the means up to there are 0.3, 0.5 and 0.7
    assert not rule.report(5, 10, math.nan)
    rule.forget(2)
    rule.forget(1)
    rule.forget(0)
    assert rule.report(6, 10, 0.0)  # too few are known


def test_the_median_rule_is_told_again_in_any_order() -> None:
    rng, first, again = np.random.default_rng(0), Median(90, (10, 30)), Median(90, (10, 30))
    known = []
    for trial in range(20):
        for step in (10, 30):
            known.append((trial, step, float(rng.random())))
            if not first.report(*known[-1]):
                break
        else:
            first.complete(trial, 0.5)
            again.complete(trial, 0.5)
    for place in rng.permutation(len(known)):
        again.record(*known[place])
    asked = [(99, 10, 0.2), (100, 10, 0.9), (101, 30, 0.2), (102, 30, 0.9)]
    verdicts = [rule.report(*score) for rule in (first, again) for score in asked]
    assert verdicts == [False, True, False, True] * 2


@pytest.mark.parametrize(("name", "jobs", "most"), [("asha", 15, 40), ("curves", 25, 30), ("median", 25, 30)])
def test_a_search_that_stops_trials_resumes(store: Store, name: str, jobs: int, most: int) -> None:
    changes: dict[str, Any] = {
        "scheduler": {"name": name, "minimum": 30, "eta": 3},
        "controller": "random",
        "trials": 40,
    }
    whole = run(store, configure(name="whole", **changes))
    assert 5 < [row[1] for row in whole].count("stopped") < most
    assert killed(store, configure(name="broken", **changes), jobs) == whole
