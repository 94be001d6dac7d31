"""Objectives: what is better, on which front, and how searches for several goals go."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import nas
from facts import lacking, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_searches import configure
from small_table import configure as tabular
from small_table import eight_rows, write

from controllers.evolution import Evolution
from controllers.random import Random
from nas.controller import Controller, Outcome, Score
from nas.errors import ConfigError, UnknownName, Unsupported
from nas.objective import GOALS, Objective
from nas.pareto import Point, crowded, crowding, fronts, nondominated
from nas.space import Architecture
from nas.states import TrialState
from nas.storage.store import Store
from nas.testing.controllers import simulate
from nas.testing.toys import WIDTHS, Toy

BOTH = Objective(("score", "macs"))


def dominates(one: Point, other: Point) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


points = st.integers(1, 3).flatmap(
    lambda size: st.lists(st.tuples(*[st.integers(0, 5).map(float)] * size), max_size=30)
)


@given(points)
@settings(deadline=None)
def test_fronts_are_peeled_off_one_by_one(every: list[Point]) -> None:
    left, expected = set(range(len(every))), []
    while left:
        front = [i for i in left if not any(dominates(every[j], every[i]) for j in left)]
        expected.append(sorted(front))
        left -= set(front)
    assert fronts(every) == expected


def test_crowding_by_hand() -> None:
    assert crowding([(3.0, 1.0), (0.0, 4.0), (4.0, 0.0), (1.0, 2.0)]) == [1.25, math.inf, math.inf, 1.5]
    assert crowding([(1.0, 1.0)] * 3) == [math.inf, 0.0, math.inf]
    assert crowding([]) == []


@given(st.lists(st.permutations(range(8)), min_size=1, max_size=3))
@settings(deadline=None)
def test_crowding_is_the_room_between_neighbours(columns: list[list[int]]) -> None:
    """Where no coordinates tie; along each, a neighbour is the nearest on its side."""
    every = [tuple(2.0**value for value in point) for point in zip(*columns, strict=True)]
    for point, distance in zip(every, crowding(every), strict=True):
        room = 0.0
        for along, value in zip(zip(*every, strict=True), point, strict=True):
            below, above = [v for v in along if v < value], [v for v in along if v > value]
            room += (min(above) - max(below)) / (2.0**7 - 1) if below and above else math.inf
        assert distance == pytest.approx(room)


@given(points)
@settings(deadline=None)
def test_a_better_front_comes_first_then_more_room(every: list[Point]) -> None:
    places = crowded(every)
    for rank, front in enumerate(fronts(every)):
        room = crowding([every[i] for i in front])
        assert [places[i] for i in front] == [(rank, -distance) for distance in room]
    assert all(
        places[i] < places[j] for i, a in enumerate(every) for j, b in enumerate(every) if dominates(a, b)
    )


def test_a_point_has_less_for_better_and_lacks_nothing() -> None:
    values = {"score": 0.5, "macs": 7, "seconds": math.nan}
    assert Objective().point(values) == (-0.5,)
    assert BOTH.point(values) == (-0.5, 7)
    assert Objective(("macs", "score")).point(values) == (7, -0.5)
    for unknown in ("seconds", "latency"):
        assert Objective(("score", unknown)).point(values) is None


@given(st.lists(st.tuples(st.integers(0, 4), st.none() | st.integers(0, 4)), max_size=20))
def test_a_front_is_what_nothing_dominates(rows: list[tuple[int, int | None]]) -> None:
    every = [{"score": float(score), "macs": macs} for score, macs in rows]
    known = [(i, (-float(score), macs)) for i, (score, macs) in enumerate(rows) if macs is not None]
    expected = [i for i, point in known if not any(dominates(other, point) for _, other in known)]
    assert BOTH.front(every) == expected


@pytest.mark.parametrize("goals", [(), ("macs", "macs")])
def test_wrong_objectives_are_refused(goals: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        Objective(goals)


def test_an_outcome_tells_what_it_knows() -> None:
    architecture = Toy().sample(np.random.default_rng(0))
    outcome = Outcome(TrialState.COMPLETED, architecture, Score(0.5, 0.1, 9), seconds=2.0, costs={"macs": 3})
    assert outcome.values == {"score": 0.5, "seconds": 2.0, "macs": 3}
    reused = Outcome(TrialState.REUSED, architecture, Score(0.5, 0.1, 9), costs={"macs": 3}, reused=0)
    assert reused.values == {"score": 0.5, "macs": 3}


# Settings


def test_the_score_is_the_default_however_it_is_asked_for() -> None:
    for given_ in (None, "score", ["score"]):
        config = configure(objective=given_)
        assert config.objective is None
        assert config.aim == Objective()
    for given_ in ("macs, score", ["macs", "score"]):
        config = configure(objective=given_)
        assert config.aim == Objective(("macs", "score"))
        assert configure(**json.loads(config.model_dump_json())) == config
    assert configure(objective="latency_batch").timed
    assert not configure(objective="macs").timed


def test_what_is_no_objective_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName) as unknown:
        configure(objective="score,flops")
    assert all(goal in str(unknown.value) for goal in GOALS)
    for wrong in ([], ["score", "score"], 3, [3]):
        with pytest.raises(ConfigError):
            configure(objective=wrong)
    with pytest.raises(ConfigError):
        configure(objective="score,macs", scheduler={"minimum": 10})
    table = write(eight_rows(), tmp_path / "table.csv")
    for goal in ("macs", "latency"):
        with pytest.raises(ConfigError):
            tabular(table, objective=["score", goal])
    assert tabular(table, objective="score,seconds").aim.several
    told = {"costs": {"macs": "cost"}}
    assert tabular(table, settings=told, objective="score,macs").aim == BOTH
    with refusal(ConfigError, "objective", "parameters", "evaluator.costs"):
        tabular(table, settings=told, objective="score,parameters,macs")


@pytest.mark.parametrize(
    ("controller", "takes"),
    [
        ("random", True),
        ("evolution", True),
        ("nsga2", True),
        ({"name": "fixed", "architectures": ["0.0.0.0.0.0.0.0.0.0.0"]}, True),
        ("rnn", False),
        ("local_search", False),
        ("darts", False),
        ("random_sharing", False),
    ],
)
def test_controllers_take_several_goals_or_refuse(controller: Any, takes: bool) -> None:
    config = configure(controller=controller, objective="score,macs")
    space, tasks = config.make_space(), config.make_tasks()
    if takes:
        config.make_controller(space, tasks)
        return
    with refusal(Unsupported, "objective", "'nsga2'", "'evolution'", "'random'"):
        config.make_controller(space, tasks)


def test_a_search_for_several_goals_is_refused_before_it_is_written(db: Path) -> None:
    search = ["--space=mlp", "--controller=rnn", "--tasks=sinusoid", "--learner=maml", "--executor=inline"]
    code, out, err = nas("run", *search, "--set=objective=score,macs")
    assert (code, out) == (2, "")
    assert lacking(err, "objective", "'nsga2'") == []
    assert json.loads(nas("ls", "-f", "json")[1]) == []


# Evolution


def sized(space: Toy, architecture: Architecture) -> Outcome:
    """Score a network by its depth, and count the sum of its widths."""
    depth, *widths = architecture.choices[:9]
    cost = sum(WIDTHS[width] for width in widths[: depth + 1])
    score = Score(space.score(architecture), 0.0, 1)
    return Outcome(TrialState.COMPLETED, architecture, score, costs={"macs": cost})


def test_parents_are_won_by_rank_then_room() -> None:
    """As often as the crowded comparison says, of draws with replacement."""
    space, sample, draws = Toy(), 2, 3000
    controller = Evolution(space, 0, population=5, sample=sample)
    controller.aim(BOTH)
    values = [(0.9, 9), (0.8, 3), (0.1, 1), (0.7, 8), (0.75, 2)]  # the fourth is dominated
    members = [Architecture("toy", (i, *[i % 4] * 8, i % 2, 0)) for i in range(5)]
    for number, (score, macs) in enumerate(values):
        outcome = Outcome(TrialState.COMPLETED, members[number], Score(score, 0.0, 1), costs={"macs": macs})
        controller.observe(number, outcome)
    room = {1: 7 / 8 + 0.15 / 0.8, 4: 2 / 8 + 0.7 / 0.8}
    assert room[4] > room[1]
    better = [{0, 2}, {4}, {1}, {3}]  # both ends of the front have all the room, and tie

    def parent(child: Architecture) -> int:
        alike = [sum(a == b for a, b in zip(child.choices, m.choices, strict=True)) for m in members]
        return int(np.argmax(alike))

    won = Counter(
        parent(controller.propose(9, (), np.random.default_rng(n)).architecture) for n in range(draws)
    )
    alive = 5
    for group in better:
        p = (alive**sample - (alive - len(group)) ** sample) / 5**sample
        alive -= len(group)
        assert abs(sum(won[i] for i in group) / draws - p) < 4 * (p * (1 - p) / draws) ** 0.5


@pytest.mark.slow
def test_evolution_finds_a_better_front_than_random() -> None:
    """By the area that the front dominates, over seeds."""
    space = Toy()

    def area(make: Callable[[Toy, int], Controller], seed: int) -> float:
        controller = make(space, seed)
        controller.aim(BOTH)
        run = simulate(controller, lambda _, a: sized(space, a), trials=150, seed=seed, workers=3)
        every = sorted(point for _, o in run.history if (point := BOTH.point(o.values)) is not None)
        found = [every[i] for i in nondominated(every)]
        dominated, least = 0.0, 128.0
        for score, macs in found:
            dominated += -score * max(0.0, least - macs)
            least = min(least, macs)
        return dominated

    gaps = [area(Evolution, seed) - area(Random, seed) for seed in range(10)]
    assert np.mean(gaps) > 2 * np.std(gaps, ddof=1) / math.sqrt(len(gaps))


def test_one_cost_can_be_the_objective() -> None:
    space = Toy()
    controller = Evolution(space, 0, population=8, sample=4)
    controller.aim(Objective(("macs",)))
    run = simulate(controller, lambda _, a: sized(space, a), trials=150)
    assert [o.costs["macs"] for _, o in run.history].count(2) > 15  # the least: one layer of two


# Faces


def test_a_search_ends_in_a_front(db: Path, store: Store) -> None:
    budget = ["--set=budget.train_episodes=2", "--set=budget.validation_episodes=2"]
    search = ["--space=mlp", "--controller=evolution", "--tasks=sinusoid", "--learner=maml", "--trials=6"]
    code, out, words = nas(
        "run",
        *search,
        *budget,
        "--name=s",
        "--executor=inline",
        "--set=objective=score,activations",
    )
    assert code == 0, words
    trials = store.trials(store.search("s").id)
    done = [trial for trial in trials if trial.state == "completed"]
    every = [(-trial.score, float(trial.activations)) for trial in done]  # type: ignore[operator, arg-type]
    front = [
        trial.number
        for trial, point in zip(done, every, strict=True)
        if not any(dominates(other, point) for other in every)
    ]
    shown = json.loads(nas("show", "s", "-f", "json")[1])
    assert (shown["objective"], shown["front"]) == (["score", "activations"], front)
    board = nas("leaderboard", "--pareto", "score,activations", "-f", "json", "--limit=0")[1]
    assert sorted(row["trial"] for row in json.loads(board)) == front
    head, *lines = out.splitlines()
    assert "activations" in head
    assert sorted(int(line.split()[1]) for line in lines) == front
