"""Population-based training: on the paper's toy, by its rules, and in a search."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from facts import refusal
from scripted_searches import begin
from test_lineage import WHOLE as WHOLE_TRAINING
from test_lineage import configure

from controllers.pba import PBA
from controllers.pbt import PBT
from controllers.population import PopulationBased
from nas.cli.document import document
from nas.controller import Evaluate, Finish, Outcome, Score
from nas.errors import ConfigError
from nas.evaluation.targets import Targets, as_search, course
from nas.product import MAIN, Product
from nas.queries import trials
from nas.settings.evaluation import validate as validate_evaluation
from nas.settings.search import validate
from nas.settings_space import Settings
from nas.space import Architecture
from nas.states import TrialState
from nas.storage.store import Store
from nas.testing.controllers import WHOLE, ControllerSuite, Make, generator
from nas.testing.toys import Toy

H = (0.0, 0.25, 0.5, 0.75, 1.0)


def space(**choices: Any) -> Product:
    return Product({MAIN: Toy(), "learner": Settings("learner", choices, {})})


@pytest.mark.parametrize("controller", [PBT, PBA])
class TestPopulations(ControllerSuite):
    @pytest.fixture
    def space(self) -> Any:
        return space(lr=[0.1, 0.01, 0.001], augmentation=["none", "shift_rotate"])

    @pytest.fixture
    def make(self, space: Any, controller: Callable[..., PopulationBased]) -> Make:
        def made(seed: int) -> PopulationBased:
            made = controller(space, seed, population=5, interval=75)
            made.plan(WHOLE)
            return made

        return made


# The toy of the paper (§4.1.1)


@dataclass
class Trained:
    """A training: what was tried, where it came from, and θ at its end."""

    evaluation: Evaluate
    theta: np.ndarray
    score: float


def ascend(theta: np.ndarray, h: Sequence[float], steps: int) -> np.ndarray:
    """Follow the gradient of 1.2 − h₀θ₀² − h₁θ₁², which stands in for that of 1.2 − θ₀² − θ₁²."""
    for _ in range(steps):
        theta = theta - 2 * 0.02 * np.array(h) * theta
    return theta


def quadratic(theta: np.ndarray) -> float:
    return float(1.2 - theta @ theta)


def train(
    controller: PopulationBased, own: Product, seed: int, *, whole: int, workers: int = 1
) -> dict[int, Trained]:
    """Run a search on the toy; return its trials."""
    assert controller.plan(whole) == len(range(0, whole, 10)) * controller._size
    trials: dict[int, Trained] = {}
    running: dict[int, Evaluate] = {}
    order, number = np.random.default_rng(seed), 0
    while True:
        proposal = None
        if len(running) < workers:
            proposal = controller.propose(number, tuple(running.values()), generator(seed, number))
        if isinstance(proposal, Evaluate):
            running[number] = proposal
            number += 1
            continue
        if not running:
            assert isinstance(proposal, Finish)
            return trials
        ended = sorted(running)[int(order.integers(len(running)))]
        evaluation = running.pop(ended)
        settings = own.slots["learner"].build(own.parts(evaluation.architecture)["learner"], None)  # type: ignore[arg-type]
        until = evaluation.episodes or whole
        parent = None if evaluation.parent is None else trials[evaluation.parent]
        done = 0 if parent is None else parent.evaluation.episodes or 0
        begin = np.array([0.9, 0.9]) if parent is None else parent.theta
        theta = ascend(begin, (settings["h0"], settings["h1"]), until - done)
        trials[ended] = Trained(evaluation, theta, quadratic(theta))
        state = TrialState.COMPLETED if evaluation.episodes is None else TrialState.PAUSED
        controller.observe(
            ended,
            Outcome(
                state,
                evaluation.architecture,
                Score(quadratic(theta), 0.0, 1),
                until,
                episodes=evaluation.episodes,
                parent=evaluation.parent,
            ),
        )


@pytest.mark.parametrize("workers", [1, 3, 6])
@pytest.mark.parametrize("make", [PBT, PBA])
def test_on_the_quadratic_of_the_paper(make: Callable[..., PopulationBased], workers: int) -> None:
    """Where one of two terms alone can be followed at a time, any fixed settings stay far from the best."""
    own = space(h0=[0, 1], h1=[1, 0])  # but for both at once, which is taken out below
    whole, interval, population = 80, 10, 6
    halves = [h for h in product((0, 1), repeat=2) if sum(h) == 1]
    fixed = max(quadratic(ascend(np.array([0.9, 0.9]), h, whole)) for h in halves)
    best = -np.inf
    for schedule in product(halves, repeat=whole // interval):  # every schedule that there is
        theta = np.array([0.9, 0.9])
        for h in schedule:
            theta = ascend(theta, h, interval)
        best = max(best, quadratic(theta))
    assert fixed < 0.4 < 1.0 < best

    class Either(make):  # type: ignore[misc,valid-type]
        def explore(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
            return self._one(super().explore(architecture, rng), rng)

        def begin(self, number: int, rng: np.random.Generator) -> Architecture:
            return self._one(super().begin(number, rng), rng)

        def _one(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
            *network, _, _ = architecture.choices
            first = int(rng.integers(2))
            return Architecture(architecture.space, (*network, first, first))

    found = [
        max(t.score for t in train(controller, own, seed, whole=whole, workers=workers).values())
        for seed in range(5)
        for controller in [Either(own, seed, population=population, interval=interval)]
    ]
    assert all(score <= best + 1e-12 for score in found)
    assert np.mean(found) > fixed + 0.75 * (best - fixed)


# The rules


def fresh(seed: int = 0, **settings: Any) -> PBT:
    return PBT(space(h0=H, h1=H), seed, population=8, interval=10, **settings)


def test_the_weak_copy_the_strong_of_their_length() -> None:
    """With one worker, by an independent reading of the rule; all others go on with their own settings."""
    own = space(h0=H, h1=H)
    trials = train(fresh(), own, 0, whole=60)
    assert len(trials) == 8 * 6
    by_length: dict[int, list[int]] = {}
    for number, trial in trials.items():
        by_length.setdefault(trial.evaluation.episodes or 60, []).append(number)
    copies = 0
    for length, numbers in by_length.items():
        if length == 60:
            continue
        ranked = sorted(numbers, key=lambda n: (-trials[n].score, n))
        strong, weak = ranked[:2], ranked[-2:]  # ⌈0.2 · 8⌉
        following = [t.evaluation for t in trials.values() if t.evaluation.parent in numbers]
        assert len(following) == 8
        for number in numbers:
            same = trials[number].evaluation.architecture
            heirs = [e for e in following if e.parent == number]
            if number in weak:
                assert heirs == []
            elif number not in strong:
                assert [e.architecture for e in heirs] == [same]
            else:
                assert same in [e.architecture for e in heirs]
                copies += len(heirs) - 1
    assert copies == 2 * 5


def test_a_copy_moves_numbers_to_their_neighbours_and_keeps_the_network() -> None:
    own = space(h=[1.0, 0.0, 0.5], augmentation=["a", "b", "c"])
    begin = own.join({"learner": Architecture("learner", (2, 1))})  # h = 0.5, b
    rng = np.random.default_rng(0)
    near = PBT(own, 0, resample=0.0)
    found = {near.explore(begin, rng).choices[-2:] for _ in range(50)}
    assert found == {(0, 1), (1, 1)}
    assert {near.explore(begin, rng).choices[:-2] for _ in range(9)} == {begin.choices[:-2]}
    at_the_end = own.join({"learner": Architecture("learner", (0, 1))})  # h = 1
    assert {near.explore(at_the_end, rng).choices[-2:] for _ in range(50)} == {(0, 1), (2, 1)}
    anew = PBT(own, 0, resample=1.0)
    assert len({anew.explore(begin, rng).choices[-2:] for _ in range(200)}) == 9


def test_pba_moves_as_far_as_its_paper_says() -> None:
    """By 0 to 3 places either way, uniformly, and a fifth drawn anew from all ten."""
    own = space(magnitude=list(range(10)))
    rng, begin = np.random.default_rng(1), own.join({"learner": Architecture("learner", (5,))})
    pba = PBA(own, 0)
    counts = np.bincount([pba.explore(begin, rng).choices[-1] for _ in range(20_000)], minlength=10) / 20_000
    expected = np.full(10, 0.02) + 0.8 * np.array([0, 0, 1, 1, 1, 2, 1, 1, 1, 0]) / 8
    assert np.abs(counts - expected).max() < 0.01
    first = [pba.propose(n, (), generator(0, n)) for n in range(4)]
    chosen = [own.parts(p.architecture)["learner"].choices for p in first if isinstance(p, Evaluate)]
    assert chosen[0] == (0,)
    assert len(set(chosen)) > 1


def test_a_given_network_is_that_of_all() -> None:
    own = space(h0=H)
    network = own.slots[MAIN].encode(own.slots[MAIN].default)
    trials = train_networks(PBT(own, 0, population=4, interval=10, network=network), own)
    assert {own.parts(a)[MAIN] for a in trials} == {own.slots[MAIN].default}
    assert len({own.parts(a)[MAIN] for a in train_networks(PBT(own, 0, population=4, interval=10), own)}) > 1


def train_networks(controller: PopulationBased, own: Product) -> Iterator[Architecture]:
    for number in range(4):
        proposal = controller.propose(number, (), generator(0, number))
        assert isinstance(proposal, Evaluate)
        yield proposal.architecture


@pytest.mark.parametrize("state", [TrialState.FAILED, TrialState.STOPPED, TrialState.INFEASIBLE])
def test_a_part_that_failed_copies_one_of_the_best(state: TrialState) -> None:
    controller = fresh()
    for number in range(8):
        proposal = controller.propose(number, (), generator(0, number))
        assert isinstance(proposal, Evaluate)
        bad = number == 0
        score = None if bad and state is not TrialState.STOPPED else Score(number / 8, 0, 1)
        ending = state if bad else TrialState.PAUSED
        controller.observe(number, Outcome(ending, proposal.architecture, score, 10, episodes=10))
    after = controller.propose(8, (), generator(0, 8))
    assert isinstance(after, Evaluate)
    assert after.parent in (6, 7)
    assert after.episodes == 20


def test_a_part_that_is_tried_again_passes_its_length_once() -> None:
    """The slow one of two may have to copy what the fast one went on from, however often that failed."""
    controller = PBT(space(h0=H, h1=H), 0, population=2, interval=10)
    first, slow = (controller.propose(number, (), generator(0, number)) for number in (0, 1))
    assert isinstance(first, Evaluate)
    assert isinstance(slow, Evaluate)
    done = Outcome(TrialState.PAUSED, first.architecture, Score(0.5, 0, 1), 10, episodes=10)
    controller.observe(0, done)
    for number in (2, 3, 4):
        again = controller.propose(number, (slow,), generator(0, number))
        assert isinstance(again, Evaluate)
        assert again.parent == 0
        failed = Outcome(TrialState.FAILED, again.architecture, episodes=20, parent=0)
        controller.observe(number, failed)
        assert controller.continuable() == {0}
    controller.observe(1, replace(done, architecture=slow.architecture, score=Score(0.4, 0, 1)))
    assert controller.continuable() == {0, 1}
    for number in (5, 6):
        proposal = controller.propose(number, (), generator(0, number))
        assert isinstance(proposal, Evaluate)
        assert proposal.parent == 0
        ending = Outcome(
            TrialState.PAUSED, proposal.architecture, Score(0.5, 0, 1), 20, episodes=20, parent=0
        )
        controller.observe(number, ending)
    assert controller.continuable() == {5, 6}


@pytest.mark.parametrize(
    ("make", "facts"),
    [
        (lambda: PBT(Toy(), 0), ("--slot",)),
        (lambda: fresh(network="no such"), ("controller.network", "no such")),
        (lambda: fresh().plan(10), ("controller.interval: 10", "budget.train_episodes=10")),
    ],
)
def test_refusals(make: Callable[[], object], facts: tuple[str, ...]) -> None:
    with refusal(ConfigError, *facts):
        make()


def test_equal_settings_twice_are_one_training() -> None:
    """A member that took over a score goes on from the trial that has the weights."""
    controller = fresh()
    first = controller.propose(0, (), generator(0, 0))
    assert isinstance(first, Evaluate)
    done = Outcome(TrialState.PAUSED, first.architecture, Score(0.5, 0, 1), 10, episodes=10)
    controller.observe(0, done)
    for number in range(1, 8):
        controller.observe(number, replace(done, state=TrialState.REUSED, reused=0))
    heirs = [controller.propose(number, (), generator(0, number)) for number in range(8, 16)]
    assert all(isinstance(heir, Evaluate) and heir.parent == 0 for heir in heirs)


# In a search


@pytest.mark.usefixtures("one_thread")
def test_a_search(store: Store, tmp_path: Any) -> None:
    """Its trainings are whole in the end, and the best is the same when its schedule is a fixed one."""
    controller = {"name": "controllers.pbt:PBT", "population": 4, "interval": 8, "quantile": 0.5}
    config = configure(controller=controller)
    begin(store, config, tmp_path)
    rows = store.trials(store.search("s").id)
    assert [row.state for row in rows].count("completed") == 4
    assert len(rows) == 12
    assert len({row.parent for row in rows if row.parent is not None}) < 8  # some have two heirs
    found = store.search("s")
    changed = [row for row in rows if row.state == "completed" and course(found, store.lineage(row))]
    best = max(changed, key=lambda row: row.score or -np.inf)
    assert len(store.lineage(best)) == 3
    replayed = as_search(found, store.lineage(best))
    assert replayed.phases is not None
    assert sum(phase.episodes for phase in replayed.phases) == WHOLE_TRAINING
    assert validate(tomllib.loads(document(replayed))) == replayed
    begin(store, replayed, tmp_path)
    [trial] = store.trials(store.search(f"s-{best.number}").id)
    assert (trial.score, trial.seed, trial.train_episodes) == (best.score, best.seed, WHOLE_TRAINING)
    assert trial.parent is None
    details = trials.details(store, "s", best.number)
    assert [part.trial for part in details.lineage] == [row.number for row in store.lineage(best)]
    assert [part.chosen for part in details.lineage][-1] == details.trial.chosen


@pytest.mark.usefixtures("one_thread")
def test_an_evaluation_goes_through_what_the_search_found(store: Store, tmp_path: Any) -> None:
    """And its protocol is that of one whose settings stay, as with all that a search chose."""
    controller = {"name": "controllers.pbt:PBT", "population": 4, "interval": 8, "quantile": 0.5}
    begin(store, configure(controller=controller), tmp_path)
    found = store.search("s")
    changed = [row for row in store.trials(found.id) if row.parent and course(found, store.lineage(row))]
    targets = Targets(store)
    [moved, stays] = targets.choose([f"s/{changed[-1].number}", "s/0"])
    assert moved.config.course is not None
    assert stays.config.course is None
    assert moved.config.course[-1].learner["lr"] == moved.config.learner["lr"]
    assert moved.protocol == stays.protocol
    assert moved.settings != stays.settings
    assert validate_evaluation(moved.config.model_dump(mode="json")) == moved.config
    set_by_hand = Targets(store, lambda values: values["learner"].update(lr=0.5))
    [by_hand] = set_by_hand.choose([f"s/{changed[-1].number}"])
    assert by_hand.config.learner["lr"] == 0.5
    assert all("lr" not in phase.learner for phase in by_hand.config.course or ())
