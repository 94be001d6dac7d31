"""The best of a few candidates by what they promise: the wrapper, and searches with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small_table
from facts import Facts, refusal
from scripted_searches import Script, Silent, images, reopen, results, run, start

from controllers.evolution import Evolution
from controllers.fixed import Fixed
from controllers.random import Random
from nas.backbone import BackboneSpace
from nas.controller import (
    Controller,
    Derived,
    Evaluate,
    Outcome,
    Proposal,
    Reuse,
    Score,
    SupernetBudget,
    TrainSupernet,
)
from nas.driver.trials import executor
from nas.errors import ConfigError, Infeasible, PluginError, UnknownName
from nas.plugins import load
from nas.prediction import Prediction
from nas.prescreening import Guided, Prescreened
from nas.schedulers.promotion import Promotion
from nas.settings.search import SearchConfig
from nas.space import Architecture, TaskShape
from nas.states import TrialState
from nas.storage.store import Store
from nas.testing.controllers import ControllerSuite, Make, completed, generator, simulate
from nas.testing.toys import Toy
from nas.training.provenance import proposal_rng, training_seed
from nas.training.proxies import proxies
from nas.wrappers import Deduplicated

pytestmark = pytest.mark.usefixtures("one_thread")

SPACE, SHAPE = Toy(layers=4), TaskShape((16,), 5)


class TestPrescreened(ControllerSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return SPACE

    @pytest.fixture(params=["random", "evolution"])
    def make(self, request: pytest.FixtureRequest, space: BackboneSpace) -> Make:
        inner = {"random": Random, "evolution": lambda s, n: Evolution(s, n, population=4, sample=2)}
        return lambda seed: Prescreened(
            Deduplicated(inner[request.param](space, seed), space), space, SPACE.score, 5, 30
        )


class Listed(Controller):
    """Draws from a list, one after the other, from a place that the generator says."""

    def __init__(self, *proposals: Proposal | None) -> None:
        self.proposals = proposals
        self.asked = 0

    def propose(self, number: int, pending: Sequence[Any], rng: np.random.Generator) -> Proposal | None:
        self.asked += 1
        return self.proposals[self.asked - 1]

    def observe(self, number: int, outcome: Outcome) -> None:
        pass


def network(*widths: int) -> Architecture:
    return Architecture("toy", (len(widths) - 1, *widths, *(0,) * (4 - len(widths)), 0, 0))


def test_of_the_candidates_the_most_promising_is_sent_on() -> None:
    weak, strong, other = network(3), network(0, 1, 2), network(0, 1)
    inner = Listed(Evaluate(weak), Evaluate(strong), Evaluate(other))
    assert Prescreened(inner, SPACE, SPACE.score, 3).propose(0, (), generator(0, 0)) == Evaluate(strong)
    assert inner.asked == 3


def test_what_was_tried_or_runs_is_no_candidate() -> None:
    weak, strong = network(3), network(0, 1, 2)
    tried = Prescreened(Listed(*map(Evaluate, (weak, strong, weak))), SPACE, SPACE.score, 2)
    tried.observe(0, Outcome(TrialState.FAILED, strong))
    assert tried.propose(1, (), generator(0, 1)) == Evaluate(weak)


def test_what_the_controller_wants_known_is_passed_on() -> None:
    """To train again what was tried may be its purpose; to wait is its right."""
    weak, strong = network(3), network(0, 1, 2)
    for first in (Evaluate(weak), None):
        inner = Listed(first, Evaluate(strong))
        screened = Prescreened(inner, SPACE, SPACE.score, 2)
        screened.observe(0, Outcome(TrialState.COMPLETED, weak))
        assert screened.propose(1, (), generator(0, 1)) == first
        assert inner.asked == 1


def test_of_equals_and_of_those_without_a_promise_the_first_is_taken() -> None:
    inner = Listed(*(Evaluate(network(i)) for i in range(3)))
    assert Prescreened(inner, SPACE, lambda _: -math.inf, 3).propose(0, (), generator(0, 0)) == Evaluate(
        network(0)
    )


def test_a_promise_is_asked_for_once_and_only_where_there_is_a_choice() -> None:
    asked: list[Architecture] = []

    def promise(architecture: Architecture) -> float:
        asked.append(architecture)
        return 0.0

    pair = [Evaluate(network(0)), Evaluate(network(1))]
    screened = Prescreened(Listed(*pair, *pair, pair[0], pair[0]), SPACE, promise, 2)
    for number in range(3):
        screened.propose(number, (), generator(0, number))
    assert asked == [network(0), network(1)]


def test_later_trials_are_the_controllers_own() -> None:
    """The first ten are the best of eight draws each; those after them are random search's."""
    plain = simulate(Random(SPACE, 0), completed(SPACE.score), trials=40)
    some = simulate(
        Prescreened(Random(SPACE, 0), SPACE, SPACE.score, 8, 10), completed(SPACE.score), trials=40
    )
    assert some.proposals[10:] == plain.proposals[10:]
    for number, proposal in enumerate(some.proposals[:10]):
        rng = generator(0, number)
        draws = [SPACE.sample(rng) for _ in range(8)]
        assert SPACE.score(proposal.architecture) == max(map(SPACE.score, draws))


# Guided by a supernet


def supernet(derive: int = 30) -> TrainSupernet:
    return TrainSupernet("any", derive=derive, whole=False)


@pytest.mark.slow
class TestGuided(ControllerSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return SPACE

    @pytest.fixture
    def make(self, space: BackboneSpace) -> Make:
        return lambda seed: Guided(Deduplicated(Random(space, seed), space), space, SHAPE, supernet(), 4)


def derived(number: int, score: Callable[[Architecture], float]) -> Outcome:
    drawn = [SPACE.sample(np.random.default_rng([7, i])) for i in range(number)]
    found = tuple(Derived(architecture, score(architecture)) for architecture in drawn)
    return Outcome(TrialState.COMPLETED, None, derived=found)


def test_a_supernet_comes_first_and_the_rest_waits_for_it() -> None:
    guided = Guided(Random(SPACE, 0), SPACE, SHAPE, supernet(), 4)
    assert guided.propose(0, (), generator(0, 0)) == supernet()
    assert guided.propose(1, (), generator(0, 1)) is None


def test_what_may_be_promoted_is_told() -> None:
    """By a scheduler within: so that `keep` knows which states may go."""
    inner = Promotion(Random(SPACE, 0), SPACE, (10, 20), 2)
    guided = Guided(inner, SPACE, SHAPE, supernet(), 4)
    guided.observe(0, derived(4, SPACE.score))
    architecture = SPACE.sample(generator(0, 1))
    outcome = Outcome(
        TrialState.PAUSED, architecture, Score(0.5, 0.1, 9), train_episodes=10, seconds=1.0, episodes=10
    )
    guided.observe(1, outcome)
    assert guided.promotable(5) == {SPACE.canonical(architecture)}


def test_what_shared_weights_say_chooses_among_candidates() -> None:
    """Candidates of the other controller, the best of which by its predicted score is trained."""
    guided, told = Guided(Random(SPACE, 0), SPACE, SHAPE, supernet(), 8), derived(200, SPACE.score)
    guided.observe(0, told)
    choices, scores = [d.architecture.choices for d in told.derived], [d.score for d in told.derived]
    predict, chosen, drawn = Prediction(choices, scores), [], []
    for number in range(1, 21):
        rng = generator(0, number)
        candidates = [SPACE.sample(rng) for _ in range(8)]
        proposal = guided.propose(number, (), generator(0, number))
        assert proposal == Evaluate(max(candidates, key=lambda a: predict(a.choices)))
        chosen.append(SPACE.score(proposal.architecture))
        drawn += map(SPACE.score, candidates)
    assert np.mean(chosen) > np.mean(drawn) + np.std(drawn)


def test_to_the_other_controller_the_supernet_is_no_trial() -> None:
    """Its numbers, and those of the trials whose scores it takes over, count what comes after."""
    tiny = Toy(layers=1)
    inner = Deduplicated(Fixed(tiny, 0, architectures=("0.0.0.0", "0.1.0.0")), tiny)
    guided = Guided(inner, tiny, SHAPE, supernet(), 2)
    run = simulate(
        guided,
        completed(tiny.score),
        trials=5,
        share=lambda *_: Outcome(TrialState.COMPLETED, None),
    )
    first, second = (Architecture("toy", (0, width, 0, 0)) for width in range(2))
    assert run.proposals[1:] == [Evaluate(first), Evaluate(second), Reuse(first, 1), Reuse(second, 2)]


def test_what_has_no_network_promises_nothing() -> None:
    """A first layer of 16 does not fit 8 features, however well it scores with shared weights."""
    wide, narrow = network(3, 1, 2, 3), network(0)
    guided = Guided(Listed(Evaluate(wide), Evaluate(narrow)), SPACE, TaskShape((8,), 5), supernet(), 2)
    guided.observe(0, Outcome(TrialState.COMPLETED, None, derived=(Derived(wide, 0.9), Derived(narrow, 0.1))))
    assert guided.propose(1, (), generator(0, 1)) == Evaluate(narrow)


@pytest.mark.parametrize("score", [lambda _: 0.5, lambda _: math.nan])
def test_where_shared_weights_tell_nothing_the_controllers_own_proposals_are_trained(score: Any) -> None:
    guided = Guided(Random(SPACE, 0), SPACE, SHAPE, supernet(), 8)
    guided.observe(0, derived(20, score))
    assert guided.propose(1, (), generator(0, 1)) == Evaluate(SPACE.sample(generator(0, 1)))


# In a search


def configure(**changes: Any) -> SearchConfig:
    return images(**{"prescreen": {"proxy": "synflow", "candidates": 3}, "trials": 4} | changes)


def test_a_search_trains_the_best_of_its_candidates(store: Store) -> None:
    """By the weights that a training of each would begin with; equal on a second run."""
    config = configure()
    first = run(store, config)
    context = config.make_context(space := config.make_space(), config.make_tasks())
    for number, _, text, _, seed in first[:2]:
        rng, values = proposal_rng(5, number), {}
        for architecture in (space.sample(rng) for _ in range(3)):
            own = training_seed(5, space.canonical(architecture), 0)
            try:
                found = proxies(context.trainee(architecture), own, {"it": load("proxy", "synflow")()})["it"]
            except Infeasible:
                found = None
            values[space.encode(architecture)] = -math.inf if found is None else found
        assert values[text] == max(values.values())
        assert seed == training_seed(5, space.canonical(space.decode(text)), 0)
    assert run(store, config.model_copy(update={"name": "again"})) == first


def test_a_resumed_search_makes_the_same_trials(store: Store) -> None:
    whole = run(store, configure(name="whole"))
    search = start(store, configure(name="cut"))
    ended = Outcome(TrialState.COMPLETED, None, Score(0.5, 0.1, 2), seconds=1.0)
    scored = {text: score for _, _, text, score, _ in whole}
    try:
        search.run(Script([ended, ended]))
    finally:
        search = reopen(store, "cut", Silent())
    search.run(executor(configure(), configure().make_tasks()))
    assert [text for _, _, text, *_ in results(store, "cut")] == list(scored)


def test_choosing_counts_as_time_of_the_trial(store: Store) -> None:
    run(store, configure(name="chosen", trials=2))
    run(store, configure(name="drawn", trials=2, prescreen=None))
    chosen, drawn = (store.trials(store.search(name).id) for name in ("chosen", "drawn"))
    assert all(trial.seconds > 0 for trial in chosen)
    assert all(trial.seconds == 0 for trial in drawn)


def guided_by(store: Store, **changes: Any) -> Any:
    """Run a search of a toy space that trains a toy supernet first."""
    budget = {"epochs": 2, "steps": 2, "batch": 2, "validation_episodes": 2}
    config = configure(
        space="nas.testing.toy_supernet:ToyCurves",
        prescreen={"supernet": {"name": "random_sharing", "derive": 12, "budget": budget}, "candidates": 3},
        **changes,
    )
    run(store, config)
    return store.search("@last"), config


def test_a_supernet_is_trained_first_and_its_time_counts(store: Store) -> None:
    row, config = guided_by(store, trials=5, controller={"name": "evolution", "population": 3, "sample": 2})
    first, *rest = store.trials(row.id)
    assert (row.state, row.trials, len(rest)) == ("completed", 5, 4)
    assert (first.kind, first.state, len(first.derived)) == ("supernet", "completed", 12)
    assert first.seconds > 0
    assert {trial.kind for trial in rest} == {"evaluate"}
    choices = [config.make_space().decode(entry["architecture"]).choices for entry in first.derived]
    predict = Prediction(choices, [entry["score"] for entry in first.derived])
    rng, space = proposal_rng(5, 1), config.make_space()
    candidates = [space.sample(rng) for _ in range(3)]
    assert rest[0].architecture == space.text(max(candidates, key=lambda a: predict(a.choices)))


def test_a_guided_search_goes_on_to_more_trials(store: Store) -> None:
    """As one that was as long from the start: what the supernet told is in the database."""
    row, config = guided_by(store, name="short", trials=3)
    search = reopen(store, "short", more=3)
    search.run(executor(config, config.make_tasks()))
    later = [trial.architecture for trial in store.trials(row.id)]
    with Store("sqlite://", create=True) as other:
        whole, _ = guided_by(other, name="short", trials=6)
        assert later == [trial.architecture for trial in other.trials(whole.id)]
    assert len(later) == 6


def test_where_scores_are_looked_up_what_is_counted_chooses(store: Store, tmp_path: Path) -> None:
    """The largest of each trial's new candidates, and no second of real time on the simulated clock."""
    table = small_table.write(small_table.eight_rows(), tmp_path / "table.csv")
    settings = {"cost": "cost", "input": [16]}
    screened = {"prescreen": {"proxy": "macs", "candidates": 3}, "deduplicate": False, "trials": 6, "seed": 5}
    config = small_table.configure(table, settings=settings, **screened)
    trials, space, known = run(store, config), config.make_space(), set[str]()
    shape, whole = TaskShape((16,), 1), pd.read_csv(table).set_index("arch")
    for number, _, text, *_ in trials:
        rng, drawn = proposal_rng(5, number), list[Architecture]()
        for architecture in (space.sample(rng) for _ in range(3)):
            if space.canonical(architecture) in known and not drawn:
                break  # what the controller wants known again is passed on
            if space.canonical(architecture) not in known:
                drawn.append(architecture)
        if drawn:
            best = max(drawn, key=lambda own: small_table.TOY.cost(own, shape).macs)
            assert space.canonical(space.decode(text)) == space.canonical(best)
        known.add(space.canonical(space.decode(text)))
    assert [trial.seconds for trial in store.trials(store.search("@last").id)] == [
        whole.loc[text, "cost"] for _, _, text, *_ in trials
    ]


@pytest.mark.parametrize(
    ("prescreen", "facts"),
    [
        ({"proxy": "synflow"}, ("prescreen.proxy", "'synflow'", "macs")),
        ({"proxy": "macs"}, ("prescreen.proxy", "evaluator.input")),
        ({"supernet": "random_sharing"}, ("prescreen.supernet", "'tabular'")),
    ],
)
def test_where_scores_are_looked_up_no_network_is_looked_at(prescreen: Any, facts: Facts) -> None:
    with refusal(ConfigError, *facts):
        small_table.configure(Path("x.csv"), prescreen=prescreen)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"prescreen": {"candidates": 4}}, ConfigError),
        ({"prescreen": {"proxy": "synflow", "candidates": 1}}, ConfigError),
        ({"prescreen": {"proxy": "synflow", "supernet": "random_sharing"}}, ConfigError),
        ({"prescreen": {"supernet": "evolution"}}, ConfigError),
        ({"prescreen": {"proxy": "synflow", "best": 1}}, UnknownName),
        ({"objective": ["score", "macs"]}, ConfigError),
        ({"controller": "random_sharing"}, ConfigError),
        ({"controller": {"name": "fixed", "architectures": ["residual"]}}, ConfigError),
    ],
)
def test_what_cannot_be_chosen_by_is_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        configure(**changes)


def test_a_supernet_that_guides_is_brief_unless_told_otherwise() -> None:
    def supernet(value: Any) -> dict[str, Any]:
        return dict(configure(prescreen={"supernet": value}).prescreen.supernet)

    plain, told = supernet("random_sharing"), supernet({"name": "random_sharing", "budget": {"epochs": 2}})
    assert plain["derive"] == told["derive"] == 100
    brief = {"epochs": 10, "steps": 120, "batch": None, "validation_episodes": 3}
    assert SupernetBudget.model_validate(plain["budget"]).model_dump() == brief
    assert SupernetBudget.model_validate(told["budget"]).model_dump() == brief | {"epochs": 2}
    assert supernet(plain) == plain


BUDGET = {"name": "random_sharing", "budget": {"epochs": "many"}}


@pytest.mark.parametrize(
    ("prescreen", "error", "facts"),
    [
        ({"proxy": "sinflow"}, ConfigError, ("prescreen.proxy", "'sinflow'", "'synflow'")),
        ({"proxy": {"name": "synflow", "x": 1}}, ConfigError, ("prescreen.proxy", "'x'")),
        ({"proxy": {"name": "nowhere:Proxy"}}, PluginError, ("prescreen.proxy", "'nowhere:Proxy'")),
        ({"proxy": {"x": 1}}, ConfigError, ("prescreen.proxy",)),
        ({"proxy": 3}, ConfigError, ("prescreen.proxy", 3)),
        ({"supernet": "dart"}, ConfigError, ("prescreen.supernet", "'dart'", "'darts'")),
        (
            {"supernet": {"name": "random_sharing", "sample": 3}},
            ConfigError,
            ("prescreen.supernet", "'sample'"),
        ),
        ({"supernet": BUDGET}, ConfigError, ("prescreen.supernet.budget.epochs", '"many"')),
    ],
)
def test_a_wrong_name_is_told_with_the_path_of_its_setting(
    prescreen: dict[str, Any], error: type[Exception], facts: Facts
) -> None:
    with refusal(error, *facts):
        configure(prescreen=prescreen)
