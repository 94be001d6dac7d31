"""Settings that change while a network trains, as a search or an evaluation is given them."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from facts import refusal
from test_lineage import configure

from nas.driver.trials import Trials
from nas.errors import ConfigError, UnknownName
from nas.evaluation.work import EvaluationJob, Trainings, Validated
from nas.evaluator import Job, Leg, ends
from nas.executors.worker import reports
from nas.settings import evaluation
from nas.storage.evaluations import Trained
from nas.training.loop import Training, Turn, start
from nas.training.scoring import score

pytestmark = pytest.mark.usefixtures("one_thread")

PHASES: list[dict[str, Any]] = [
    {"episodes": 1, "learner": {"lr": 0.03}},
    {"episodes": 2, "learner": {"lr": 0.003, "inner_steps": 2}, "tasks": {"train_shots": 5}},
]
WHOLE = 12


def searched(**changes: Any) -> Any:
    budget = {"train_episodes": WHOLE, "validation_episodes": 5}
    return configure(**{"controller": "random", "slots": {}, "budget": budget, "phases": PHASES} | changes)


def by_hand(seed: int, *, whole: int = WHOLE) -> Training:
    """Train as the phases say, without them."""
    first, second = (
        configure(
            controller="random",
            slots={},
            learner={"name": "maml", "inner_lr": 0.01, "meta_batch": 2, **phase["learner"]},
            tasks={"name": "sinusoid", "shots": 2, "queries": 3, **phase.get("tasks", {})},
        )
        for phase in PHASES
    )
    space, tasks = first.make_space(), second.make_tasks()

    def later() -> Any:
        return second.make_learner()(space.build(space.default, tasks.shape), tasks.shape), tasks

    begin = first.make_learner(), "float32", whole, seed, [Turn(whole // 3, later)]
    training = start(space, space.default, first.make_tasks(), *begin)
    list(training.until(whole))
    return training


def test_stages_are_stretched_to_the_budget() -> None:
    lengths = [3, 1, 4]
    spans = [Leg(length, {}) for length in lengths]
    assert ends(spans, 8) == [*accumulate(lengths)]
    assert ends(spans, 80) == [30, 40, 80]
    assert ends(spans, 7) == [2, 3, 7]


def test_a_trial_goes_through_the_phases() -> None:
    config = searched()
    tasks = config.make_source()
    *_, outcome = reports(Trials(config, tasks), Job(0, 0, config.make_space().default, 7))
    training = by_hand(7)
    assert outcome.score == score(training.learner, tasks, "validation", 5, training.arithmetic)
    constant = searched(phases=None)
    *_, other = reports(Trials(constant, tasks), Job(0, 0, config.make_space().default, 7))
    assert other.score != outcome.score


def test_an_evaluation_goes_through_the_phases_and_validates_in_the_last(tmp_path: Path) -> None:
    values = searched().model_dump(mode="json", include={"space", "tasks", "learner", "phases"})
    budget = {"train_episodes": WHOLE, "validate_every": 2, "validation_episodes": 5, "patience": 0}
    config = evaluation.validate({**values, "budget": budget})
    few = config.budget.model_copy(update={"test_episodes": 5})
    space, own = config.make_space(), config.model_copy(update={"budget": few})
    job = EvaluationJob(1, "e", own, space.encode(space.default), 7, tmp_path)
    found = list(reports(Trainings(), job))
    assert isinstance(found[-1], Trained), found[-1]
    curve = [m for report in found if isinstance(report, Validated) for m in report.measurements]
    assert {m.step for m in curve} == {6, 8, 10, 12}
    training = by_hand(7)
    measured = score(training.learner, config.make_tasks(), "validation", 5, training.arithmetic)
    assert measured.value in [m.value for m in curve if m.step == WHOLE]
    assert config.learner["inner_steps"] == 2  # what the weights are used with


def test_phases_are_part_of_what_makes_scores_comparable() -> None:
    assert searched().settings != searched(phases=None).settings
    assert (
        searched(phases=None).settings
        == configure(
            controller="random", slots={}, budget={"train_episodes": WHOLE, "validation_episodes": 5}
        ).settings
    )


@pytest.mark.parametrize(
    ("error", "phases", "changes", "facts"),
    [
        (ConfigError, [], {}, ("phases",)),
        (ConfigError, [{"episodes": 0}], {}, ("phases.0.episodes",)),
        (UnknownName, [{"episodes": 1, "learner": {"speed": 1}}], {}, ("speed", "learner")),
        (ConfigError, [{"episodes": 1, "learner": {"lr": -1}}], {}, ("phases.0.learner.lr",)),
        (
            ConfigError,
            [{"episodes": 1, "learner": {"normalization": "support"}}],
            {},
            ("phases.0.learner.normalization",),
        ),
        (ConfigError, [{"episodes": 1, "tasks": {"shots": 3}}], {}, ("phases.0.tasks.shots",)),
        (
            ConfigError,
            [{"episodes": 1, "learner": {"lr": 0.1}}],
            {"slots": {"learner": {"lr": [0.1, 0.2]}}},
            ("phases.0.learner.lr", "slots.learner"),
        ),
        (ConfigError, PHASES, {"controller": "darts"}, ("phases", "'darts'", "supernet")),
        (
            ConfigError,
            PHASES,
            {"prescreen": {"supernet": "random_sharing"}},
            ("phases", "prescreen.supernet"),
        ),
    ],
)
def test_refusals(error: type[ConfigError], phases: list[Any], changes: Any, facts: tuple[str, ...]) -> None:
    with refusal(error, *facts):
        searched(phases=phases, **changes)
