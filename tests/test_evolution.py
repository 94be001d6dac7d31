import csv
import gzip
import os
import statistics
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from facts import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from controllers.evolution import Evolution
from controllers.random import Random
from nas.backbone import BackboneSpace
from nas.controller import Controller, Outcome, Score
from nas.errors import ConfigError, Infeasible
from nas.plugins import resolve
from nas.space import Architecture, Decision, TaskShape
from nas.states import TrialState
from nas.testing.controllers import completed, generator, mixed, simulate
from nas.testing.toys import Toy


def scored(architecture: Architecture, value: float, state: TrialState = TrialState.COMPLETED) -> Outcome:
    return Outcome(state, architecture, Score(value, 0.0, 1))


def algorithm_1(
    space: BackboneSpace,
    score: Callable[[Architecture], float],
    population: int,
    sample: int,
    trials: int,
    seed: int,
) -> list[Architecture]:
    """Regularized evolution as the paper prints it, one model after another."""
    living: deque[tuple[Architecture, float]] = deque()
    history: list[Architecture] = []
    while len(living) < population:
        model = space.sample(generator(seed, len(history)))
        living.append((model, score(model)))
        history.append(model)
    while len(history) < trials:
        rng = generator(seed, len(history))
        candidates = []
        while len(candidates) < sample:
            candidates.append(living[int(rng.integers(len(living)))])
        parent, best = candidates[0]
        for model, accuracy in candidates[1:]:
            if accuracy > best:
                parent, best = model, accuracy
        child = space.mutate(parent, rng)
        living.append((child, score(child)))
        history.append(child)
        living.popleft()
    return history


@given(st.integers(0, 2**32), st.integers(1, 12), st.data())
@settings(max_examples=50, deadline=None)
def test_one_worker_is_algorithm_1(seed: int, population: int, data: st.DataObject) -> None:
    sample = data.draw(st.integers(1, population))
    space = Toy()
    controller = Evolution(space, seed, population=population, sample=sample)
    run = simulate(controller, completed(space.score), trials=60, seed=seed)
    expected = algorithm_1(space, space.score, population, sample, 60, seed)
    assert [proposal.architecture for proposal in run.proposals] == expected


@given(st.integers(0, 2**32), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_children_differ_in_one_decision_from_a_living_parent(seed: int, workers: int) -> None:
    run = simulate(
        Evolution(Toy(), seed, population=5, sample=2), mixed(seed), trials=60, seed=seed, workers=workers
    )
    for asked in run.asked:
        assert asked.proposal is not None
        seen = [o.architecture for _, o in run.history[: asked.observed] if o.score is not None]
        if asked.number >= 5 and seen:
            child = asked.proposal.architecture.choices
            changes = [
                sum(a != b for a, b in zip(child, parent.choices, strict=True)) for parent in seen[-5:]
            ]
            assert 1 in changes


def test_tournament_prefers_the_best_as_often_as_it_should() -> None:
    """The best of S draws with replacement from P is k-th from below with probability (kˢ − (k−1)ˢ) / Pˢ."""
    space, size, sample, draws = Toy(), 4, 3, 4000
    controller = Evolution(space, 0, population=size, sample=sample)
    members = [Architecture("toy", (i, *[i] * 8, i % 2, 0)) for i in range(size)]
    for rank in (2, 0, 3, 1):  # neither by age nor by score
        controller.observe(rank, scored(members[rank], rank / 10))

    def parent(child: Architecture) -> int:
        alike = [
            sum(a == b for a, b in zip(child.choices, member.choices, strict=True)) for member in members
        ]
        return int(np.argmax(alike))

    won = Counter(
        parent(controller.propose(9, (), np.random.default_rng(n)).architecture) for n in range(draws)
    )
    for rank in range(size):
        p = ((rank + 1) ** sample - rank**sample) / size**sample
        assert abs(won[rank] / draws - p) < 4 * (p * (1 - p) / draws) ** 0.5


def test_the_oldest_dies_however_good() -> None:
    space = Toy()
    best, worse = space.decode("7.0.1.2.3.0.1.2.3.0.0"), space.decode("0.0.0.0.0.0.0.0.0.1.0")
    controller = Evolution(space, 0, population=3, sample=3)
    controller.observe(0, scored(best, 1.0))
    for number in range(1, 4):
        parents = [controller.propose(9, (), np.random.default_rng(i)).architecture for i in range(50)]
        assert any(sum(a != b for a, b in zip(p.choices, best.choices, strict=True)) == 1 for p in parents)
        controller.observe(number, scored(worse, 0.0))
    children = [controller.propose(9, (), np.random.default_rng(i)).architecture for i in range(50)]
    assert all(sum(a != b for a, b in zip(c.choices, worse.choices, strict=True)) == 1 for c in children)


@pytest.mark.parametrize("state", [TrialState.COMPLETED, TrialState.STOPPED, TrialState.REUSED])
def test_scored_outcomes_live(state: TrialState) -> None:
    space = Toy()
    member = space.sample(np.random.default_rng(1))
    controller = Evolution(space, 0, population=1, sample=1)
    controller.observe(0, scored(member, 0.5, state))
    child = controller.propose(1, (), generator(0, 1)).architecture
    assert child in set(space.neighbours(member))


@pytest.mark.parametrize(
    "outcome",
    [
        lambda a: scored(a, 1.0, TrialState.FAILED),
        lambda a: scored(a, 1.0, TrialState.INFEASIBLE),
        lambda a: scored(a, float("nan")),
        lambda a: Outcome(TrialState.STOPPED, a),
    ],
    ids=["failed", "infeasible", "not a number", "stopped before a score"],
)
def test_other_outcomes_do_not(outcome: Callable[[Architecture], Outcome]) -> None:
    space = Toy()
    controller = Evolution(space, 0, population=1, sample=1)
    controller.observe(0, outcome(space.sample(np.random.default_rng(1))))
    assert controller.propose(1, (), generator(0, 1)).architecture == space.sample(generator(0, 1))


@pytest.mark.parametrize("workers", [1, 4])
def test_fresh_proposes_no_network_twice(workers: int) -> None:
    space = Toy(layers=3)
    controller = Evolution(space, 0, population=6, sample=6, fresh=True)
    run = simulate(controller, mixed(0), trials=100, workers=workers)
    keys = [space.canonical(proposal.architecture) for proposal in run.proposals]
    assert len(set(keys)) == 100


def test_the_worst_dies_and_twins_do_not_crowd() -> None:
    """Parents are the best networks of all that was scored, each once."""
    space, rng = Toy(), np.random.default_rng(0)
    controller = Evolution(space, 0, population=3, sample=3, dies="worst")
    seen: dict[str, float] = {}
    for number in range(60):
        architecture = space.sample(rng) if number % 3 else space.decode("0.1.0.0.0.0.0.0.0.0.0")
        value = round(space.score(architecture), 1)
        controller.observe(number, scored(architecture, value))
        seen[space.canonical(architecture)] = value
    living = {space.canonical(member): -point[0] for _, point, member in controller._population}
    assert len(living) == 3
    assert sorted(living.values()) == sorted(seen.values())[-3:]


def test_first_trials_are_random_by_number() -> None:
    space = Toy()
    controller = Evolution(space, 0, population=8, sample=2)
    for number in range(8):
        assert controller.propose(number, (), generator(0, number)).architecture == space.sample(
            generator(0, number)
        )
        controller.observe(number, scored(space.sample(generator(0, number)), 0.5))
    assert controller.propose(8, (), generator(0, 8)).architecture != space.sample(generator(0, 8))


def test_settings() -> None:
    assert resolve(Evolution, {}, "controller") == {
        "population": 16,
        "sample": 4,
        "dies": "oldest",
        "fresh": False,
        "start": None,
    }
    with refusal(ConfigError, "controller.sample: 9", "controller.population (8)"):
        Evolution(Toy(), 0, population=8, sample=9)
    with refusal(ConfigError, "controller.sample", 1):
        resolve(Evolution, {"sample": 0}, "controller")


@pytest.mark.slow
def test_beats_random_on_the_toy() -> None:
    """Over 20 seeds, 200 trials and 4 workers each, the mean gap is many standard errors."""
    space = Toy()

    def best(cls: Callable[[BackboneSpace, int], Controller], seed: int) -> float:
        run = simulate(cls(space, seed), completed(space.score), trials=200, seed=seed, workers=4)
        return space.score(run.best.architecture)

    gaps = [best(Evolution, seed) - best(Random, seed) for seed in range(20)]
    error = statistics.stdev(gaps) / len(gaps) ** 0.5
    assert statistics.mean(gaps) > 5 * error
    assert sum(gap > 0 for gap in gaps) >= 18


# NAS-Bench-201, where results are published

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


class Cells(BackboneSpace):
    name = "cells"
    decisions = tuple(Decision(f"edge{i}", OPERATIONS) for i in range(6))

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        raise Infeasible("a table has scores, no networks")

    def canonical(self, architecture: Architecture) -> str:
        return self.encode(architecture)


def nasbench201() -> dict[tuple[int, ...], tuple[float, float]]:
    """Return each cell's accuracies in percent: validation after 12 epochs, test after 200 epochs."""
    path = Path(os.environ.get("NAS_DATA", "")) / "nasbench201" / "nasbench201.csv.gz"
    if not path.is_file():
        pytest.skip("needs NAS_DATA with nasbench201/nasbench201.csv.gz")
    table = {}
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            edges = [
                edge.split("~")[0] for node in row["arch"].split("+") for edge in node.strip("|").split("|")
            ]
            key = tuple(OPERATIONS.index(edge) for edge in edges)
            table[key] = float(row["c10_valid_12"]), float(row["c10_test_200"])
    assert len(table) == 15_625
    return table


@pytest.mark.slow
def test_nasbench201_matches_published_searches() -> None:
    """100 evaluations: evolution (population 10, sample 3) finds 93.99 % on CIFAR-10, random 93.75 %."""
    table, space = nasbench201(), Cells()

    def found(controller: Controller, seed: int) -> float:
        run = simulate(controller, completed(lambda a: table[a.choices][0]), trials=100, seed=seed)
        return table[run.best.architecture.choices][1]

    evolution = [found(Evolution(space, seed, population=10, sample=3), seed) for seed in range(50)]
    random = [found(Random(space, seed), seed) for seed in range(50)]
    assert statistics.mean(evolution) == pytest.approx(93.99, abs=0.15)
    assert statistics.mean(random) == pytest.approx(93.75, abs=0.15)
    assert statistics.mean(evolution) > statistics.mean(random)


def test_evolution_starts_from_an_architecture() -> None:
    """The first trials are that one, and mutants of it."""
    space = Toy(layers=4)
    start = space.decode("3.1.1.1.1.0.0")
    controller = Evolution(space, 0, population=4, sample=2, start=space.encode(start))
    proposed = [controller.propose(number, (), generator(0, number)).architecture for number in range(4)]
    assert proposed[0] == start
    for mutant in proposed[1:]:
        assert sum(a != b for a, b in zip(mutant.choices, start.choices, strict=True)) == 1
    with refusal(ConfigError, "'toy'"):
        Evolution(space, 0, start="nowhere else")
