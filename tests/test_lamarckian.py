"""Evolution whose children begin with the weights of their parents: who inherits what, and what counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from facts import refusal
from scripted_searches import Silent, begin
from torch import nn

from controllers.lamarckian import Lamarckian
from nas.backbone import BackboneSpace
from nas.controller import Evaluate, Outcome, Score
from nas.driver import trials
from nas.driver.creation import check
from nas.driver.records import configuration
from nas.driver.rerun import Rerun
from nas.driver.search import SearchDriver
from nas.errors import ConfigError
from nas.learners.maml import Maml
from nas.learners.meta_sgd import MetaSgd
from nas.learners.prototypical import Prototypical
from nas.queries.answer import answer
from nas.settings.search import SearchConfig, validate
from nas.space import Architecture, TaskShape
from nas.states import TrialState
from nas.storage.store import Store
from nas.testing.controllers import ControllerSuite, Make, completed, generator, simulate
from nas.testing.toys import Toy
from nas.training.checkpoint import CHECKPOINTS
from nas.training.kinship import Inheritance
from search_spaces.few_shot import FewShot

pytestmark = pytest.mark.usefixtures("one_thread")

SPACE, SHAPE = FewShot(channels=4), TaskShape((1, 28, 28), 5)
REST = "/max_pool|conv_3x3~0|+|conv_1x1~0|none~1|"


class TestLamarckian(ControllerSuite):
    @pytest.fixture
    def space(self) -> BackboneSpace:
        return Toy(layers=4)

    @pytest.fixture
    def make(self, space: BackboneSpace) -> Make:
        return lambda seed: Lamarckian(space, seed, population=4, sample=3, passes_on=2)


# The controller

TOY = Toy(layers=4)


def ended(architecture: Architecture, score: float | None, **asked: Any) -> Outcome:
    short = asked.get("episodes") is not None
    state = TrialState.FAILED if score is None else TrialState.PAUSED if short else TrialState.COMPLETED
    known = None if score is None else Score(score, 0.1, 10)
    return Outcome(state, architecture, known, train_episodes=asked.get("episodes") or 8, **asked)


def grown(scores: tuple[float, ...] = (0.1, 0.9)) -> tuple[Lamarckian, list[Architecture], int]:
    """Return a controller whose first population has ended, its networks, and the next trial's number."""
    controller, networks = Lamarckian(TOY, 0, population=len(scores), sample=len(scores), passes_on=6), []
    for place, score in enumerate(scores):
        first = controller.propose(2 * place, (), generator(0, 2 * place))
        assert (first.episodes, first.parent) == (6, None)
        controller.observe(2 * place, ended(first.architecture, 0.5, episodes=6))
        second = controller.propose(2 * place + 1, (), generator(0, 2 * place + 1))
        assert second == Evaluate(first.architecture, parent=2 * place)
        controller.observe(2 * place + 1, ended(first.architecture, score, parent=2 * place))
        networks.append(first.architecture)
    return controller, networks, 2 * len(scores)


def test_children_inherit_from_who_was_trained_from_scratch_alone() -> None:
    """A child that wins is trained from scratch, in two parts, before it has children of its own."""
    controller, networks, number = grown((0.1, 0.9, 0.2))
    assert controller.continuable() == {0, 2, 4}
    child = next(
        proposal
        for seed in range(99)
        if (proposal := controller.propose(number, (), generator(seed, number))).parent == 2
    )
    assert child.episodes is None
    assert sum(a != b for a, b in zip(child.architecture.choices, networks[1].choices, strict=True)) == 1
    controller.observe(number, ended(child.architecture, 0.99, parent=2))
    assert controller.continuable() == {2, 4}  # the oldest has died
    scratch = controller.propose(number + 1, (), generator(0, number + 1))
    assert scratch == Evaluate(child.architecture, episodes=6)
    other = controller.propose(number + 2, [scratch], generator(0, number + 2))
    assert other.architecture != child.architecture  # it is trained from scratch already
    controller.observe(number + 1, ended(child.architecture, 0.5, episodes=6))
    assert number + 1 in controller.continuable()
    second = Evaluate(child.architecture, parent=number + 1)
    assert controller.propose(number + 2, (), generator(0, number + 2)) == second
    controller.observe(number + 2, ended(child.architecture, 0.95, parent=number + 1))
    parents = {controller.propose(number + 3, (), generator(seed, number + 3)).parent for seed in range(40)}
    assert parents - {4} == {2, number + 1}


def test_a_state_is_left_after_three_quarters_by_default() -> None:
    controller = Lamarckian(TOY, 0)
    controller.plan(400)
    assert controller.propose(0, (), generator(0, 0)).episodes == 300


def test_a_child_that_fails_from_scratch_is_no_promise_any_more() -> None:
    controller, _, number = grown()
    child = controller.propose(number, (), generator(1, number))
    controller.observe(number, ended(child.architecture, 0.99, parent=child.parent))
    scratch = next(
        proposal
        for seed in range(99)
        if (proposal := controller.propose(number + 1, (), generator(seed, number + 1))).parent is None
    )
    assert scratch == Evaluate(child.architecture, episodes=6)
    controller.observe(number + 1, ended(child.architecture, None, episodes=6))
    for seed in range(20):
        proposal = controller.propose(number + 2, (), generator(seed, number + 2))
        assert proposal.architecture != child.architecture


def test_a_promise_that_was_settled_before_is_none_any_more() -> None:
    """In a space that is exhausted a child is a network that was trained from scratch: that is known."""
    controller, networks, number = grown((0.1, 0.9, 0.2))
    child = next(
        proposal
        for seed in range(99)
        if (proposal := controller.propose(number, (), generator(seed, number))).parent == 2
    )
    known = replace(child, architecture=networks[0])
    controller.observe(number, ended(known.architecture, 0.99, parent=2))
    scratch = controller.propose(number + 1, (), generator(0, number + 1))
    assert scratch == Evaluate(known.architecture, episodes=6)
    reused = replace(ended(known.architecture, 0.5, episodes=6), state=TrialState.REUSED, reused=0)
    controller.observe(number + 1, reused)
    assert controller.continuable() == {2, 4}
    for seed in range(20):
        assert controller.propose(number + 2, (), generator(seed, number + 2)).parent in (2, 4)


def test_it_improves_at_less_than_the_cost_of_whole_trainings() -> None:
    run = simulate(
        Lamarckian(TOY, 3, population=5, sample=4, passes_on=6), completed(TOY.score), trials=120, seed=3
    )
    scratch = [o for _, o in run.history if o.parent is not None and o.episodes is None]
    assert max(TOY.score(o.architecture) for o in scratch if o.architecture) > 0.8
    assert len({TOY.canonical(p.architecture) for p in run.proposals if isinstance(p, Evaluate)}) > 40


# What a network takes over


def built(text: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return SPACE.build(SPACE.decode(text), SHAPE)


def inherited(heir: str, parent: str, learner: type = Prototypical) -> tuple[Any, Any]:
    """Return the learner of a parent, and that of an heir after it has inherited."""
    before, after = (learner(built(text, seed), SHAPE) for text, seed in ((parent, 1), (heir, 2)))
    taken = Inheritance(SPACE, SPACE.decode(heir), SPACE.decode(parent), SHAPE)(after, before.state_dict())
    after.load_state_dict(taken, strict=False)
    return before, after


@pytest.mark.parametrize("more", ["conv_3x3", "sep_conv_3x3", "conv_1x1"])
def test_a_network_with_a_path_more_begins_as_the_same_function(more: str) -> None:
    """Whatever place the new path takes among the others."""
    before, after = inherited(
        f"max_pool|conv_1x1~0|+|{more}~0|sep_conv_3x3~1|{REST}",
        f"max_pool|conv_1x1~0|+|none~0|sep_conv_3x3~1|{REST}",
    )
    x = torch.rand(6, 1, 28, 28)
    assert len(list(after.parameters())) > len(list(before.parameters()))
    torch.testing.assert_close(after.backbone(x), before.backbone(x))
    loss = after.backbone(x).square().sum()
    loss.backward()
    new = [p for p in after.parameters() if not p.any()]
    assert any(p.grad is not None and p.grad.any() for p in new)  # and learns


def test_another_operation_keeps_the_rest_of_its_path() -> None:
    before, after = inherited(
        f"max_pool|conv_1x1~0|+|none~0|conv_3x3~1|{REST}",
        f"max_pool|conv_1x1~0|+|none~0|sep_conv_3x3~1|{REST}",
    )
    own, other = after.backbone.state_dict(), before.backbone.state_dict()
    equal = {name for name in own if name in other and torch.equal(own[name], other[name])}
    assert {name for name in own if ".paths.0.0." in name or not name.startswith("body.1.")} <= equal
    assert "body.1.paths.0.1.1.weight" not in equal


@pytest.mark.parametrize("learner", [Maml, MetaSgd])
def test_what_a_learner_has_besides_is_taken_over_as_a_whole(learner: type) -> None:
    """The rates of Meta-SGD belong to parameters by number, so that those of fewer parameters say nothing."""
    before, after = inherited(
        f"max_pool|conv_1x1~0|+|conv_3x3~0|sep_conv_3x3~1|{REST}",
        f"max_pool|conv_1x1~0|+|none~0|sep_conv_3x3~1|{REST}",
        learner,
    )
    same = torch.equal(after.network.head.weight, before.network.head.weight)
    assert same == (learner is Maml)
    assert torch.equal(after.network.backbone.body[0][0].weight, before.network.backbone.body[0][0].weight)


# In a search

WHOLE, PASSED = 16, 12


def configure(**changes: Any) -> SearchConfig:
    values: dict[str, Any] = {
        "name": "s",
        "space": {"name": "few_shot", "channels": 2},
        "controller": {"name": "lamarckian", "population": 3, "sample": 2, "passes_on": PASSED},
        "tasks": {"name": "glyphs", "ways": 2, "queries": 1},
        "learner": {"name": "prototypical", "meta_batch": 4, "schedule": "cosine"},
        "budget": {"train_episodes": WHOLE, "validation_episodes": 5},
        "executor": "inline",
        "trials": 14,
        "seed": 4,
    }
    return validate(values | changes)


def told(store: Store) -> list[tuple[Any, ...]]:
    rows = store.trials(store.search("s").id)
    return [(t.number, t.state, t.architecture, t.parent, t.train_episodes, t.score, t.seed) for t in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """What a search records that nobody disturbs."""
    folder, space = tmp_path_factory.mktemp("whole"), SPACE
    with Store(f"sqlite:///{folder}/nas.db", create=True) as store:
        begin(store, configure(), folder)
        rows = {row.number: row for row in store.trials(store.search("s").id)}
        key = {n: space.canonical(space.decode(row.architecture or "")) for n, row in rows.items()}
        heirs = [n for n, row in rows.items() if row.parent is not None and key[n] != key[row.parent]]
        seconds = [n for n, row in rows.items() if row.parent is not None and n not in heirs]
        assert len(heirs) >= 3
        assert {rows[n].state for n in heirs} == {"paused"}  # promised, not found
        assert {rows[n].state for n in seconds} == {"completed"}
        assert {rows[n].train_episodes for n in (*heirs, *seconds)} == {WHOLE}
        assert {rows[n].continued_episodes for n in (*heirs, *seconds)} == {PASSED}
        assert {rows[rows[n].parent or 0].parent for n in heirs} == {None}
        found = answer(store, "s")
        assert found is not None
        assert found.trial in seconds
        for number in (heirs[0], heirs[-1], seconds[-1]):
            again = Rerun(store.search("s"), store.lineage(rows[number])).run()
            assert again.score is not None
            assert again.score.value == rows[number].score
        assert list((folder / CHECKPOINTS).glob("*.pt")) == []
        return told(store)


@pytest.mark.parametrize("jobs", [3, 8, 12])
def test_a_driver_that_dies_changes_nothing(
    tmp_path: Path, store: Store, whole: list[tuple[Any, ...]], jobs: int
) -> None:
    begin(store, configure(), tmp_path, dies_after=jobs)
    if jobs == 12:
        for state in (tmp_path / CHECKPOINTS).glob("*.pt"):
            state.unlink()  # and is trained again
    row = store.search("s")
    config = configuration(row)
    tasks = config.make_source()
    driver = SearchDriver(store, row, config, config.make_space(), tasks, Silent(), tmp_path)
    driver.run(trials.executor(config, tasks))
    assert told(store) == whole


def test_what_cannot_inherit_is_refused() -> None:
    with refusal(ConfigError, "controller.passes_on: 12", 12):
        config = configure(budget={"train_episodes": 12, "validation_episodes": 5})
        check(config, config.make_source())
    with refusal(ConfigError, "controller.passes_on: 0", 1):
        Lamarckian(TOY, 0).plan(1)
    with refusal(ConfigError, "slots", "'lamarckian'"):
        config = configure(slots={"learner": {"lr": [0.01, 0.1]}})
        config.make_controller(config.make_space(), config.make_source())
    with refusal(ConfigError, "controller.sample: 4", 3):
        Lamarckian(TOY, 0, population=3, sample=4)
    with refusal(ConfigError, "racing", "'lamarckian'"):
        configure(racing={})


def test_it_starts_from_an_architecture() -> None:
    space = Toy(layers=4)
    start = space.decode("3.1.1.1.1.0.0")
    controller = Lamarckian(space, 0, population=4, sample=3, passes_on=2, start=space.encode(start))
    first, second = (controller.propose(number, (), generator(0, number)) for number in range(2))
    assert first.architecture == start
    assert sum(a != b for a, b in zip(second.architecture.choices, start.choices, strict=True)) == 1
