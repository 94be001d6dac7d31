"""NSGA-II: who survives, who becomes a parent, and whether it beats random search."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.nsga2 import Nsga2
from controllers.random import Random
from nas.controller import Controller, Outcome, Score
from nas.objective import Objective
from nas.space import Architecture
from nas.states import TrialState
from nas.testing.controllers import completed, simulate
from nas.testing.toys import Toy

BOTH = Objective(("score", "macs"))

Point = tuple[float, float]


def architecture(number: int) -> Architecture:
    """Return one of many architectures of the toy, each with another key."""
    return Architecture("toy", (number % 8, *[number // 8 % 4] * 8, number // 32 % 2, number // 64 % 2))


def outcome(of: Architecture, point: Point, episodes: int = 0) -> Outcome:
    score, macs = -point[0], point[1]
    return Outcome(TrialState.COMPLETED, of, Score(score, 0.0, 1), episodes, costs={"macs": macs})


def alive(controller: Nsga2) -> set[Architecture]:
    return {member.architecture for member in controller._population.values()}


def dominates(one: Point, other: Point) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]


def rank(point: Point, every: list[Point]) -> int:
    """Return how long the longest chain of points is, each of which dominates the next, down to this one."""
    return 1 + max((rank(other, every) for other in every if dominates(other, point)), default=-1)


def room(point: Point, front: list[Point]) -> float:
    """Return the crowding distance of a point of a front of distinct points."""
    total = 0.0
    for along in (0, 1):
        values = [other[along] for other in front]
        below = [value for value in values if value < point[along]]
        above = [value for value in values if value > point[along]]
        if not below or not above:
            return math.inf
        total += (min(above) - max(below)) / (max(values) - min(values))
    return total


@given(st.permutations(range(14)), st.permutations(range(14)), st.integers(2, 6))
@settings(max_examples=50, deadline=None)
def test_on_the_last_front_the_most_crowded_dies(scores: list[int], macs: list[int], size: int) -> None:
    controller = Nsga2(Toy(), 0, population=size)
    controller.aim(BOTH)
    living: dict[Architecture, Point] = {}
    for number, point in enumerate((float(a), float(b)) for a, b in zip(scores, macs, strict=True)):
        living[architecture(number)] = point
        controller.observe(number, outcome(architecture(number), point))
        kept = alive(controller)
        if len(living) > size:
            (dead,) = living.keys() - kept
            every = list(living.values())
            ranks = {each: rank(each, every) for each in every}
            last = [each for each in every if ranks[each] == max(ranks.values())]
            assert living[dead] in last
            assert room(living[dead], last) == pytest.approx(min(room(each, last) for each in last))
            del living[dead]
        assert kept == living.keys()


def test_parents_win_a_tournament_of_two() -> None:
    """Of n members the k-th from below wins k − 1 of the n(n−1)/2 pairs."""
    controller, draws = Nsga2(Toy(), 0, population=4), 3000
    members = [architecture(i) for i in range(4)]
    for place in (2, 0, 3, 1):
        controller.observe(place, outcome(members[place], (-float(place), 0.0)))
    rng = np.random.default_rng(0)
    won = Counter(members.index(controller._parent(rng)) for _ in range(draws))
    pairs = Counter(max(pair) for pair in combinations(range(4), 2))
    for place in range(4):
        p = pairs[place] / 6
        assert abs(won[place] / draws - p) <= 4 * (p * (1 - p) / draws) ** 0.5


def test_a_network_lives_once_by_its_longest_training() -> None:
    controller = Nsga2(Toy(), 0, population=4)
    for number, (score, episodes) in enumerate([(0.5, 75), (0.4, 300), (0.9, 75)]):
        controller.observe(number, outcome(architecture(0), (-score, 1.0), episodes))
    (member,) = controller._population.values()
    assert (member.episodes, member.point) == (300, (-0.4,))


def test_a_longer_training_outlives_a_shorter_one() -> None:
    controller = Nsga2(Toy(), 0, population=2)
    for number, (score, episodes) in enumerate([(0.9, 75), (0.1, 300), (0.2, 300)]):
        controller.observe(number, outcome(architecture(number), (-score, 1.0), episodes))
    assert alive(controller) == {architecture(1), architecture(2)}


def test_children_are_new() -> None:
    space = Toy()
    run = simulate(Nsga2(space, 3, population=6), completed(space.score), trials=80, seed=3, workers=3)
    born = [space.canonical(proposal.architecture) for proposal in run.proposals[6:]]
    first = {space.canonical(proposal.architecture) for proposal in run.proposals[:6]}
    assert len(set(born)) == len(born)
    assert first.isdisjoint(born)


@pytest.mark.slow
def test_beats_random_on_the_toy() -> None:
    """Over 20 seeds, 150 trials and 4 workers each, the mean gap is many standard errors."""
    space = Toy()

    def best(make: Callable[[Toy, int], Controller], seed: int) -> float:
        run = simulate(make(space, seed), completed(space.score), trials=150, seed=seed, workers=4)
        return space.score(run.best.architecture)

    gaps = [best(Nsga2, seed) - best(Random, seed) for seed in range(20)]
    assert statistics.mean(gaps) > 5 * statistics.stdev(gaps) / len(gaps) ** 0.5
