"""Trainings that go on from one another: to the bits of one, whatever is killed or lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from facts import refusal
from relays import STEP
from scripted_searches import Silent, begin

from nas.driver import trials
from nas.driver.creation import check, create
from nas.driver.records import configuration
from nas.driver.rerun import Rerun
from nas.driver.search import SearchDriver
from nas.errors import ConfigError
from nas.learners.base import Learner
from nas.settings.search import SearchConfig, validate
from nas.storage.store import Store
from nas.tasks.base import TaskSource
from nas.training.checkpoint import CHECKPOINTS
from nas.training.loop import Training, Turn, start

pytestmark = pytest.mark.usefixtures("one_thread")

SLOTS = {"learner": {"lr": [0.001, 0.03, 0.1]}, "tasks": {"train_shots": [2, 3]}}
WHOLE = 4 * STEP


def configure(**changes: Any) -> SearchConfig:
    values: dict[str, Any] = {
        "name": "s",
        "space": "mlp",
        "controller": "relays:Relay",
        "tasks": {"name": "sinusoid", "shots": 2, "queries": 3},
        "learner": {"name": "maml", "inner_lr": 0.01, "meta_batch": 2},
        "slots": SLOTS,
        "budget": {"train_episodes": WHOLE, "validation_episodes": 5},
        "executor": "inline",
        "seed": 4,
    }
    return validate(values | changes)


def go_on(store: Store, folder: Path) -> None:
    row = store.search("s")
    config = configuration(row)
    tasks = config.make_source()
    driver = SearchDriver(store, row, config, config.make_space(), tasks, Silent(), folder)
    driver.run(trials.executor(config, tasks))


def lineages(store: Store) -> list[tuple[Any, ...]]:
    """Return all that a trial came from and came to."""
    rows = store.trials(store.search("s").id)
    return [
        (t.number, t.state, t.architecture, t.parent, t.asked_episodes, t.train_episodes, t.score, t.seed)
        for t in rows
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """What a search records that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    with Store(f"sqlite:///{folder}/nas.db", create=True) as store:
        begin(store, configure(), folder)
        rows = store.trials(store.search("s").id)
        assert len(rows) == store.search("s").trials == 2 * WHOLE // STEP
        for row in rows:
            before = row.number - row.number % 2 - 2
            assert row.parent is None if row.number < 2 else row.parent in (before, before + 1)
            assert row.continued_episodes == (None if row.number < 2 else STEP * (row.number // 2))
            assert row.train_episodes == STEP * (row.number // 2 + 1)
        assert {row.parent for row in rows} != {None, 0, 2, 4}  # the second was better at times
        assert [row.state for row in rows[-2:]] == ["completed", "completed"]
        assert {row.state for row in rows[:-2]} == {"paused"}
        assert list((folder / CHECKPOINTS).glob("*.pt")) == []
        for row in rows[1::3]:
            again = Rerun(store.search("s"), store.lineage(row)).run()
            assert again.score is not None
            assert (again.score.value, again.train_episodes) == (row.score, row.train_episodes)
            assert again.continued == 0
        return lineages(store)


@pytest.mark.parametrize("jobs", [1, 4, 7])
def test_a_driver_that_dies_changes_nothing(
    tmp_path: Path, store: Store, whole: list[tuple[Any, ...]], jobs: int
) -> None:
    begin(store, configure(), tmp_path, dies_after=jobs)
    go_on(store, tmp_path)
    assert lineages(store) == whole


def test_states_that_are_lost_are_trained_again(
    tmp_path: Path, store: Store, whole: list[tuple[Any, ...]]
) -> None:
    """A lost one and a damaged one: from the last that is there, or from the beginning."""
    begin(store, configure(), tmp_path, dies_after=5)
    states = sorted((tmp_path / CHECKPOINTS).glob("*.pt"))
    assert len(states) in (2, 3)  # of those to go on from alone
    for state in states[1:]:
        state.unlink()
    states[0].write_bytes(b"damaged")
    go_on(store, tmp_path)
    assert lineages(store) == whole
    [sixth] = [t for t in store.trials(store.search("s").id) if t.number == 5]
    assert sixth.continued_episodes is None


def test_without_a_folder_it_is_the_same(store: Store, whole: list[tuple[Any, ...]]) -> None:
    config = configure()
    tasks = config.make_source()
    driver = SearchDriver(store, create(store, config, tasks), config, config.make_space(), tasks, Silent())
    driver.run(trials.executor(config, tasks))
    assert lineages(store) == whole


@pytest.mark.parametrize(
    ("learner", "schedule", "boundary"),
    [("maml", "constant", 6), ("reptile", "cosine", 6), ("meta_sgd", "cosine", 7)],
    ids=["even", "falling", "passed by a step"],
)
def test_parts_equal_one_training(learner: str, schedule: str, boundary: int) -> None:
    """Under settings that change at a boundary, to the bits of weights and of what optimizers gathered."""

    def of(lr: float, shots: int) -> SearchConfig:
        section = {"name": learner, "meta_batch": 4, "lr": lr, "schedule": schedule}
        tasks = {"name": "sinusoid", "shots": 2, "queries": 3, "train_shots": shots}
        return configure(slots={}, learner=section, tasks=tasks)

    def made(lr: float, shots: int) -> tuple[Learner, TaskSource]:
        config = of(lr, shots)
        tasks, space = config.make_tasks(), config.make_space()
        return config.make_learner()(space.build(space.default, tasks.shape), tasks.shape), tasks

    def begin() -> Training:
        turns = [Turn(boundary, lambda: made(0.1, 3)), Turn(2 * boundary, lambda: made(0.002, 5))]
        config = of(0.01, 2)
        space, tasks = config.make_space(), config.make_tasks()
        return start(space, space.default, tasks, config.make_learner(), "float32", WHOLE, 3, turns)

    one = begin()
    losses = list(one.until(WHOLE))
    state: Any = None
    parts: list[float] = []
    for mark in (boundary, 2 * boundary, 2 * boundary + 3, WHOLE):
        torch.manual_seed(mark)
        training = begin()
        if state is not None:
            training.restore(state)
        parts += training.until(mark)
        assert training.done >= mark
        state = training.state()
    assert parts == losses
    whole = one.state()
    assert state.pop("episodes") == whole.pop("episodes")
    torch.testing.assert_close(state, whole, rtol=0, atol=0)
    rates = [group["lr"] for group in training._optimizer.param_groups]
    assert rates == [group["lr"] for group in one._optimizer.param_groups]
    assert rates[0] <= 0.002  # that of the last settings, fallen


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"scheduler": {"name": "asha"}}, "scheduler"),
        ({"racing": {}}, "racing"),
        ({"prescreen": {"proxy": "naswot"}}, "prescreen"),
    ],
)
def test_what_does_not_go_with_it_is_refused(changes: dict[str, Any], setting: str) -> None:
    with refusal(ConfigError, setting, "relays:Relay"):
        configure(**changes)


def test_fewer_trials_than_parts_are_refused() -> None:
    config = configure(trials=3)
    with refusal(ConfigError, "trials: 3", 8):
        check(config, config.make_source())


def test_another_setting_that_makes_other_parameters_begins_them_anew() -> None:
    """The rest goes on; what an optimizer has gathered for another shape is let go."""
    config = configure(slots={}, learner={"name": "meta_sgd", "meta_batch": 2})
    tasks, space = config.make_tasks(), config.make_space()

    def maml() -> tuple[Learner, TaskSource]:
        other = configure(slots={})
        return other.make_learner()(space.build(space.default, tasks.shape), tasks.shape), tasks

    turned: Callable[[], Training] = lambda: start(  # noqa: E731
        space, space.default, tasks, config.make_learner(), "float32", 12, 0, [Turn(6, maml)]
    )
    training = turned()
    list(training.until(6))
    before = training.state()["learner"]
    list(training.until(8))
    assert before.keys() > training.state()["learner"].keys()
    again = turned()
    again.restore(training.state())
    assert list(again.until(12)) == list(training.until(12))
