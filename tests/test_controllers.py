from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import product
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from facts import refusal
from hypothesis.errors import Flaky

from controllers.fixed import Fixed
from controllers.grid import LIMIT
from controllers.random import Random
from nas.backbone import BackboneSpace
from nas.controller import Controller, Evaluate, Outcome, Reject, Reuse
from nas.errors import ConfigError, Infeasible, UnknownName
from nas.plugins import arguments, installed, load, resolve
from nas.space import Architecture, Decision, TaskShape
from nas.states import TrialState
from nas.testing.controllers import ControllerSuite, Make, completed, generator, mixed, simulate
from nas.testing.toys import WIDTHS, Toy


def three_texts(space: BackboneSpace) -> dict[str, Any]:
    return {"architectures": [space.encode(space.sample(np.random.default_rng(i))) for i in range(3)]}


SETTINGS: Mapping[str, Callable[[BackboneSpace], dict[str, Any]]] = {
    "bananas": lambda _: {"initial": 4, "candidates": 20, "points": 20},
    "evolution": lambda _: {"population": 6, "sample": 2},
    "gp": lambda _: {"initial": 4, "candidates": 20, "points": 20},
    "lamarckian": lambda _: {"population": 4, "sample": 3, "passes_on": 2},
    "local_search": lambda _: {"initial": 4},
    "fixed": three_texts,
    "nsga2": lambda _: {"population": 6},
}
"""Where the defaults would not do: something required, or too long before a controller learns."""


@cache
def space_named(name: str) -> BackboneSpace:
    cls = Toy if name == "toy" else load("space", name)
    return cls(**resolve(cls, {}, "space"))


def making(name: str, space: BackboneSpace) -> Make:
    if name == "grid" and space.size > LIMIT:
        pytest.skip("grid refuses it")
    cls = load("controller", name)
    given = SETTINGS.get(name, lambda _: {})(space)
    return lambda seed: cls(space, seed, **arguments(cls, resolve(cls, given, "controller")))


ELSEWHERE = ("mlp", "evolution")
"""What is fast besides the toy space: a controller that learns, on a space of networks."""
COSTLY = ("bananas", "optuna", "rnn")
"""Slow ones: `gp` stands for models of scores, and the others' own tests have the suite."""

ALONE = [name for name in installed("controller") if not load("controller", name).continues]
"""Those that choose networks alone; populations change settings, and their own tests have the suite."""

EVERYWHERE = ("evolution", "gp")
"""Those that mutate, and that learn from features: what spaces differ in for a controller."""
OF_ALL = ("toy", "mlp", "few_shot", "nasbench201")
"""Spaces that every controller is held to."""

PAIRS = [
    (space, name)
    for space, name in product(("toy", *installed("space")), ALONE)
    if space in OF_ALL or name in EVERYWHERE
]
QUICK = [pair for pair in PAIRS if pair == ELSEWHERE or (pair[0] == "toy" and pair[1] not in COSTLY)]


class TestInstalledControllers(ControllerSuite):
    @pytest.fixture(
        params=[
            pytest.param(pair, id="-".join(pair), marks=() if pair in QUICK else pytest.mark.slow)
            for pair in PAIRS
        ]
    )
    def pair(self, request: pytest.FixtureRequest) -> tuple[str, str]:
        return request.param

    @pytest.fixture
    def space(self, pair: tuple[str, str]) -> BackboneSpace:
        return space_named(pair[0])

    @pytest.fixture
    def make(self, pair: tuple[str, str], space: BackboneSpace) -> Make:
        return making(pair[1], space)


# The suite itself: each way to break the promise fails a test


class Broken(Controller):
    def __init__(self, space: BackboneSpace, seed: int) -> None:
        self.space = space
        self.calls = 0

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate | None:
        return Evaluate(self.space.sample(rng))

    def observe(self, number: int, outcome: Outcome) -> None:
        pass


class Counts(Broken):
    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        self.calls += 1
        return Evaluate(self.space.sample(rng))


class DrawsGlobally(Broken):
    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        return Evaluate(self.space.sample(np.random.default_rng(int(torch.randint(100, ())))))


class DrawsItsOwn(Broken):
    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        return Evaluate(self.space.sample(np.random.default_rng()))


class LearnsFromObject(Broken):
    history: ClassVar[list[int]] = []

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        return Evaluate(self.space.sample(np.random.default_rng(len(self.history))))

    def observe(self, number: int, outcome: Outcome) -> None:
        self.history.append(number)


class OutOfRange(Broken):
    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        choices = [len(d.choices) for d in self.space.decisions]
        return Evaluate(Architecture(self.space.name, tuple(choices)))


class NumpyInts(Broken):
    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        return Evaluate(Architecture(self.space.name, tuple(np.zeros(len(self.space.decisions), np.int64))))


class NeedsScores(Broken):
    def observe(self, number: int, outcome: Outcome) -> None:
        assert outcome.score is not None


class Waits(Broken):
    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> None:
        return None


class Suite(ControllerSuite):
    def space(self) -> BackboneSpace:
        return Toy()

    def make(self, space: BackboneSpace) -> Make:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("cls", "test"),
    [
        (Counts, Suite().test_propose_is_pure),
        (DrawsGlobally, Suite().test_propose_is_pure),
        (DrawsItsOwn, Suite().test_propose_is_pure),
        (LearnsFromObject, Suite().test_replay_resumes),
        (OutOfRange, Suite().test_proposals_are_valid),
        (NumpyInts, Suite().test_proposals_are_valid),
        (NeedsScores, partial(Suite().test_survives_bad_trials, state=TrialState.FAILED)),
        (Waits, Suite().test_proposals_are_valid),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_suite_catches(cls: type[Broken], test: Callable[..., None]) -> None:
    """What answers by its own state may pass when hypothesis asks again, which then calls it flaky."""
    space = Toy(layers=2)
    with pytest.raises((AssertionError, ConfigError, Flaky)):
        test(space=space, make=lambda seed: cls(space, seed))


def test_suite_must_be_filled_in() -> None:
    with pytest.raises(TypeError):
        type("Empty", (ControllerSuite,), {})()


def test_simulate_keeps_workers_busy_and_observes_out_of_order() -> None:
    run = simulate(Random(Toy(), 0), mixed(0), trials=50, workers=4)
    assert [asked.number for asked in run.asked] == list(range(50))
    assert max(len(asked.pending) for asked in run.asked) == 3
    order = [number for number, _ in run.history]
    assert order != sorted(order) == list(range(50))


def test_simulate_records_what_needs_no_worker() -> None:
    class Script(Broken):
        def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Any:
            architecture = self.space.decode("0.0.0.0")
            return [Evaluate(architecture), Reuse(architecture, 0), Reject(architecture, "too big")][number]

    run = simulate(Script(Toy(layers=1), 0), completed(lambda _: 0.5), trials=3)
    states = [outcome.state for _, outcome in run.history]
    assert states == [TrialState.COMPLETED, TrialState.REUSED, TrialState.INFEASIBLE]
    assert run.history[1][1].reused == 0
    assert run.history[1][1].score == run.history[0][1].score
    assert run.history[2][1].error == "too big"


# Random and fixed


def test_random_is_uniform_over_encodings() -> None:
    space = Toy(layers=1)
    draws = [Random(space, 0).propose(n, (), generator(0, n)).architecture for n in range(8000)]
    counts = np.array(
        [draws.count(a) for a in map(partial(Architecture, "toy"), product([0], range(4), range(2), [0]))]
    )
    assert counts.sum() == 8000
    chi2 = ((counts - 1000) ** 2 / 1000).sum()
    assert chi2 < 24.3  # 99.9 % quantile at 7 degrees of freedom


class Named(BackboneSpace):
    name = "named"
    decisions = (Decision("a", (1, 2)), Decision("b", (3, 4)))

    @property
    def named(self) -> Mapping[str, Architecture]:
        return {"conv4": Architecture(self.name, (1, 0))}

    def build(self, architecture: Architecture, shape: TaskShape) -> torch.nn.Module:
        raise Infeasible("never built")

    def canonical(self, architecture: Architecture) -> str:
        return self.encode(architecture)


def test_fixed_takes_texts_and_names_in_turn() -> None:
    controller = Fixed(Named(), 0, architectures=("conv4", "0.1"))
    proposals = [controller.propose(n, (), generator(0, n)) for n in range(5)]
    assert [p.architecture.choices for p in proposals] == [(1, 0), (0, 1), (1, 0), (0, 1), (1, 0)]


def test_fixed_names_the_setting_of_an_unknown_architecture() -> None:
    with refusal(ConfigError, "controller.architectures", "'conv5'", "'conv4'"):
        Fixed(Named(), 0, architectures=("conv5",))
    with refusal(ConfigError, "controller.architectures", 2, "'b'"):
        Fixed(Named(), 0, architectures=("0.2",))


def test_settings_are_checked() -> None:
    assert resolve(Random, {}, "controller") == {}
    with refusal(ConfigError, "controller.architectures"):
        resolve(Fixed, {}, "controller")
    with refusal(ConfigError, "controller.architectures", 1):
        resolve(Fixed, {"architectures": []}, "controller")
    with refusal(UnknownName, "'architecture'", "'architectures'"):
        resolve(Fixed, {"architecture": ["conv4"]}, "controller")


# The toy space


def test_toy_builds_what_it_canonically_is() -> None:
    space, shape, rng = Toy(layers=4), TaskShape((1, 4, 4), 5), np.random.default_rng(0)
    for _ in range(20):
        architecture = space.sample(rng)
        *widths, activation = space.canonical(architecture).split("-")
        backbone = space.build(architecture, shape)
        linear = [m for m in backbone.modules() if isinstance(m, torch.nn.Linear)]
        assert [m.out_features for m in linear] == [int(w) for w in widths]
        assert backbone(torch.zeros(3, 1, 4, 4)).shape == (3, backbone.out_features) == (3, int(widths[-1]))
        assert any(type(m).__name__.lower() == activation for m in backbone.modules())
        pairs = list(
            zip([16, *(m.out_features for m in linear)], (m.out_features for m in linear), strict=False)
        )
        assert space.cost(architecture, shape)[:2] == (
            sum((i + 1) * o for i, o in pairs),
            sum(i * o for i, o in pairs),
        )


def test_toy_folds_dead_widths_and_scores_isomorphs_alike() -> None:
    space = Toy(layers=2)
    every = [Architecture("toy", c) for c in product(*(range(len(d.choices)) for d in space.decisions))]
    scores: dict[str, set[float]] = {}
    for architecture in every:
        scores.setdefault(space.canonical(architecture), set()).add(space.score(architecture))
    assert len(every) == space.size == 64
    assert len(scores) == 2 * (4 + 16)
    assert all(len(values) == 1 for values in scores.values())
    assert {key for key, values in scores.items() if values == {1.0}} == {"2-4-relu", "2-4-tanh"}
    assert max(map(max, scores.values())) == 1.0
    assert min(map(min, scores.values())) == 0.0


def test_toy_is_infeasible_on_narrow_inputs() -> None:
    space = Toy(layers=1)
    for index, width in enumerate(WIDTHS):
        architecture = Architecture("toy", (0, index, 0, 0))
        if width > 4:
            with refusal(Infeasible, width, 4):
                space.cost(architecture, TaskShape((4,), 5))
        else:
            assert space.cost(architecture, TaskShape((4,), 5)).macs == 4 * width
