import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from facts import lacking
from grids import rest_slow
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.evolution import Evolution
from controllers.fixed import Fixed
from controllers.random import Random
from nas.backbone import BackboneSpace
from nas.controller import Controller, Evaluate, Outcome, Reject, Reuse, Score
from nas.space import Architecture, TaskShape
from nas.states import TrialState
from nas.testing.controllers import ControllerSuite, Make, completed, generator, mixed, simulate
from nas.testing.toys import Toy
from nas.wrappers import REDRAWS, Constrained, Deduplicated

TINY = Toy(layers=1)
"""Eight networks, as many as encodings."""

SMALL = Toy(layers=2)
"""40 networks in 64 encodings."""

INNER: dict[str, Callable[[BackboneSpace, int], Controller]] = {
    "random": Random,
    "evolution": lambda space, seed: Evolution(space, seed, population=4, sample=2),
    "fixed": lambda space, seed: Fixed(space, seed, architectures=("1.0.0.0.0", "0.2.0.0.0", "0.2.3.0.0")),
}


class Spy(Controller):
    """Random, and counts what it is asked and told."""

    def __init__(self, space: BackboneSpace, seed: int = 0) -> None:
        self.space = space
        self.asked = 0
        self.told: list[tuple[int, Outcome]] = []

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        self.asked += 1
        return Evaluate(self.space.sample(rng))

    def observe(self, number: int, outcome: Outcome) -> None:
        self.told.append((number, outcome))


class TestWrappedControllers(ControllerSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return SMALL

    @pytest.fixture(params=rest_slow(INNER, ("evolution",)))
    def make(self, request: pytest.FixtureRequest, space: BackboneSpace) -> Make:
        shape = TaskShape((8,), 5)
        return lambda seed: Deduplicated(
            Constrained(INNER[request.param](space, seed), space, shape, {"parameters": 150, "macs": 100}),
            space,
        )


# Deduplicated


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_no_network_is_completed_twice_nor_runs_twice_at_once(
    inner: Callable[[BackboneSpace, int], Controller], seed: int, workers: int
) -> None:
    run = simulate(
        Deduplicated(inner(SMALL, seed), SMALL), mixed(seed), trials=60, seed=seed, workers=workers
    )
    assert len(run.history) == 60
    for asked in run.asked:
        done: dict[str, int] = {}
        for number, outcome in run.history[: asked.observed]:
            if outcome.state is TrialState.COMPLETED:
                done.setdefault(SMALL.canonical(outcome.architecture), number)
        pending = [SMALL.canonical(evaluation.architecture) for evaluation in asked.pending]
        match asked.proposal:
            case Evaluate(architecture):
                assert SMALL.canonical(architecture) not in [*done, *pending]
            case Reuse(architecture, trial):
                assert done[SMALL.canonical(architecture)] == trial
            case other:
                assert other is None


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_with_one_worker_only_the_cost_changes(inner: Callable[[BackboneSpace, int], Controller]) -> None:
    """Where a network's score is certain, the search is the same trial by trial, at fewer evaluations."""
    plain = simulate(inner(SMALL, 0), completed(SMALL.score), trials=100)
    saving = simulate(Deduplicated(inner(SMALL, 0), SMALL), completed(SMALL.score), trials=100)
    pairs = list(zip(plain.history, saving.history, strict=True))
    assert all((a.architecture, a.score) == (b.architecture, b.score) for (_, a), (_, b) in pairs)
    evaluated = [
        SMALL.canonical(o.architecture) for _, o in saving.history if o.state is TrialState.COMPLETED
    ]
    assert len(evaluated) == len(set(evaluated)) < 41
    assert all(o.state in (TrialState.COMPLETED, TrialState.REUSED) for _, o in saving.history)


def test_a_tiny_space_is_exhausted_then_reused() -> None:
    run = simulate(Deduplicated(Random(TINY, 0), TINY), completed(TINY.score), trials=200, workers=4)
    assert sum(isinstance(proposal, Evaluate) for proposal in run.proposals) == 8
    assert sum(isinstance(proposal, Reuse) for proposal in run.proposals) == 192
    assert all(asked.proposal is not None for asked in run.asked)


def test_more_workers_than_networks_wait_then_reuse() -> None:
    run = simulate(Deduplicated(Random(TINY, 0), TINY), completed(TINY.score), trials=200, workers=20)
    assert sum(isinstance(proposal, Evaluate) for proposal in run.proposals) == 8
    waits = [asked for asked in run.asked if asked.proposal is None]
    assert 1 <= len(waits) <= 8
    assert {TINY.canonical(evaluation.architecture) for evaluation in waits[0].pending} == {
        TINY.canonical(Architecture("toy", (0, width, act, 0))) for width in range(4) for act in range(2)
    }


def test_a_fixed_duplicate_waits_for_its_twin() -> None:
    controller = Deduplicated(Fixed(SMALL, 0, architectures=("0.1.0.0.0", "0.1.3.0.0")), SMALL)
    first = controller.propose(0, (), generator(0, 0))
    assert isinstance(first, Evaluate)
    assert controller.propose(1, [first], generator(0, 1)) is None
    controller.observe(0, Outcome(TrialState.COMPLETED, first.architecture, Score(0.5, 0.1, 10)))
    twin = SMALL.decode("0.1.3.0.0")
    assert controller.propose(1, (), generator(0, 1)) == Reuse(twin, 0)
    assert controller.propose(2, (), generator(0, 2)) == Reuse(first.architecture, 0)


@pytest.mark.parametrize(
    "state", [TrialState.STOPPED, TrialState.FAILED, TrialState.INFEASIBLE, TrialState.REUSED]
)
def test_only_completed_scores_are_reused(state: TrialState) -> None:
    controller = Deduplicated(Fixed(TINY, 0, architectures=("0.1.0.0",)), TINY)
    architecture = TINY.decode("0.1.0.0")
    controller.observe(0, Outcome(state, architecture, Score(0.5, 0.1, 10)))
    assert controller.propose(1, (), generator(0, 1)) == Evaluate(architecture)
    controller.observe(1, Outcome(TrialState.COMPLETED, architecture, Score(0.6, 0.1, 10)))
    controller.observe(2, Outcome(TrialState.COMPLETED, architecture, Score(0.7, 0.1, 10)))
    assert controller.propose(3, (), generator(0, 3)) == Reuse(architecture, 1)


def test_redraws_are_bounded_and_the_next_of_the_same_generator() -> None:
    spy = Spy(TINY)
    every = [Evaluate(Architecture("toy", (0, width, act, 0))) for width in range(4) for act in range(2)]
    assert Deduplicated(spy, TINY).propose(0, every, generator(0, 0)) is None
    assert spy.asked == REDRAWS
    rng = generator(0, 0)
    free = next(a for a in iter(lambda: TINY.sample(rng), None) if Evaluate(a) not in every[:7])
    assert Deduplicated(spy, TINY).propose(0, every[:7], generator(0, 0)) == Evaluate(free)


def test_the_inner_controller_sees_every_outcome() -> None:
    spy = Spy(SMALL)
    wrapped = Deduplicated(Constrained(spy, SMALL, TaskShape((8,), 5), {"parameters": 150}), SMALL)
    run = simulate(wrapped, mixed(0), trials=60, workers=3)
    assert spy.told == run.history
    assert {outcome.state for _, outcome in spy.told} == set(TrialState) - {
        TrialState.RUNNING,
        TrialState.INTERRUPTED,
        TrialState.PAUSED,  # by a scheduler alone
    }


# Constrained


def parameters_and_macs(architecture: Architecture, features: int) -> tuple[int, int]:
    *widths, _ = SMALL.canonical(architecture).split("-")
    sizes = [features, *map(int, widths)]
    macs = sum(i * o for i, o in itertools.pairwise(sizes))
    return macs + sum(sizes[1:]), macs


@pytest.mark.parametrize(("parameters", "macs"), [(None, None), (60, None), (None, 50), (90, 60)])
def test_proposes_the_first_draw_that_fits(parameters: int | None, macs: int | None) -> None:
    asked = {"parameters": parameters, "macs": macs}
    limits = {name: limit for name, limit in asked.items() if limit is not None}
    constrained = Constrained(Random(SMALL, 0), SMALL, TaskShape((8,), 5), limits)

    def fits(architecture: Architecture) -> bool:
        used = parameters_and_macs(architecture, 8)
        buildable = int(SMALL.canonical(architecture).split("-")[0]) <= 8
        return buildable and used[0] <= (parameters or 1e9) and used[1] <= (macs or 1e9)

    redrawn = 0
    for number in range(100):
        rng = generator(0, number)
        expected = next(a for a in iter(lambda: SMALL.sample(rng), None) if fits(a))  # noqa: B023
        redrawn += expected != SMALL.sample(generator(0, number))
        assert constrained.propose(number, (), generator(0, number)) == Evaluate(expected)
    assert redrawn > 10


def test_rejects_with_the_limit_and_the_excess() -> None:
    architecture = SMALL.decode("1.2.1.0.0")  # 8 → 8 → 4: 108 weights, 96 multiply-accumulates
    assert parameters_and_macs(architecture, 8) == (108, 96)

    def answer(**limits: int) -> object:
        fixed = Fixed(SMALL, 0, architectures=("1.2.1.0.0",))
        return Constrained(fixed, SMALL, TaskShape((8,), 5), limits).propose(0, (), generator(0, 0))

    assert answer(parameters=108, macs=96, activations=96) == Evaluate(architecture)
    over_weights = "108 parameters, 1 more than constraints.max_parameters = 107"
    over_macs = "96 macs, 86 more than constraints.max_macs = 10"
    assert answer(parameters=107, macs=96) == Reject(architecture, over_weights)
    assert answer(macs=10) == Reject(architecture, over_macs)
    over_memory = "96 bytes of activations, 1 more than constraints.max_activations = 95"
    assert answer(activations=95) == Reject(architecture, over_memory)  # the input and twice 8 features
    assert answer(parameters=107, macs=10) == Reject(architecture, f"{over_weights}; {over_macs}")


def test_rejects_what_cannot_be_built() -> None:
    fixed = Fixed(TINY, 0, architectures=("0.3.0.0",))
    proposal = Constrained(fixed, TINY, TaskShape((2, 4), 5), {}).propose(0, (), generator(0, 0))
    assert isinstance(proposal, Reject)
    assert lacking(proposal.reason, 16, 8) == []


def test_rejects_the_last_of_bounded_draws() -> None:
    spy, rng = Spy(SMALL), generator(0, 0)
    last = [SMALL.sample(rng) for _ in range(REDRAWS)][-1]
    proposal = Constrained(spy, SMALL, TaskShape((8,), 5), {"parameters": 1}).propose(0, (), generator(0, 0))
    assert spy.asked == REDRAWS
    assert isinstance(proposal, Reject)
    assert proposal.architecture == last


def test_rejects_what_was_asked_for() -> None:
    class Asking(Spy):
        def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
            return Evaluate(self.space.sample(rng), repeat=1, episodes=20, parent=3)

    constrained = Constrained(Asking(SMALL), SMALL, TaskShape((8,), 5), {"parameters": 1})
    proposal = constrained.propose(4, (), generator(0, 4))
    assert isinstance(proposal, Reject)
    assert (proposal.repeat, proposal.episodes, proposal.parent) == (1, 20, 3)


def test_each_network_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    cost = Toy.cost
    monkeypatch.setattr(
        Toy, "cost", lambda self, a, shape: counted.append(self.canonical(a)) or cost(self, a, shape)
    )
    constrained = Constrained(Random(SMALL, 0), SMALL, TaskShape((8,), 5), {"parameters": 60})
    for number in range(300):
        constrained.propose(number, (), generator(0, number))
    assert len(counted) == len(set(counted)) == 40


def test_answers_pass_through() -> None:
    class Script(Spy):
        def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> object:
            return [None, Reject(self.space.sample(rng), "why"), Reuse(self.space.sample(rng), 3)][number]

    script = Script(TINY)
    for wrapped in (
        Deduplicated(script, TINY),
        Constrained(script, TINY, TaskShape((2,), 5), {"parameters": 1}),
    ):
        for number in range(3):
            expected = script.propose(number, (), generator(0, number))
            assert wrapped.propose(number, (), generator(0, number)) == expected
