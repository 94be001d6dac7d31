"""A longer training goes on from a shorter one, to the bits of one long run; or says why not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nas.evaluation.driver import EvaluationDriver
from nas.evaluation.targets import Targets
from nas.evaluation.work import Begin, EvaluationJob, Report, Trainings
from nas.executors.inline import InlineExecutor
from nas.executors.worker import reports
from nas.learners.schedule import constant, decay
from nas.progress import evaluations as bars
from nas.settings.evaluation import EvaluationConfig, validate
from nas.storage.evaluations import Trained
from nas.storage.store import Store
from nas.testing.evaluations import claim

pytestmark = pytest.mark.usefixtures("one_thread")


def configure(episodes: int, **learner: Any) -> EvaluationConfig:
    config = validate(
        {
            "space": "mlp",
            "tasks": {"name": "sinusoid", "shots": 2, "queries": 2},
            "learner": {"name": "maml", "inner_lr": 0.01, "meta_batch": 2, **learner},
            "budget": {
                "train_episodes": episodes,
                "validate_every": 3,
                "patience": 0,
                "validation_episodes": 5,
            },
        }
    )
    few = config.budget.model_copy(update={"test_episodes": 10})  # fewer than a user may ask for
    return config.model_copy(update={"budget": few})


def run(
    folder: Path, episodes: int, earlier: int = 0, lineage: str | None = "l", **learner: Any
) -> list[Report]:
    config = configure(episodes, **learner)
    job = EvaluationJob(1, f"of-{episodes}", config, "maml", 0, folder, lineage, earlier)
    return list(reports(Trainings(), job))


def result(found: Sequence[Report]) -> tuple[Any, ...]:
    trained = found[-1]
    assert isinstance(trained, Trained), trained
    kept = trained.scores, trained.validation, trained.best_episodes, trained.train_episodes
    return *kept, trained.weights.sha256


@pytest.mark.parametrize(
    ("shorter", "done"),
    [
        (6, 6),
        (9, 6),  # its last step was cut to one task
        (8, 6),  # its last validation is none of a longer training's
        (2, None),  # it has nothing in common with one
    ],
)
def test_a_longer_training_goes_on_to_the_same_bits(tmp_path: Path, shorter: int, done: int | None) -> None:
    run(tmp_path / "parts", shorter)
    first, *rest = run(tmp_path / "parts", 15, earlier=shorter)
    whole = run(tmp_path / "whole", 15, lineage=None)
    assert isinstance(first, Begin)
    assert first.done == (done or 0)
    assert result(rest) == result(whole)


def test_what_it_goes_on_from_is_never_beyond_its_length(tmp_path: Path) -> None:
    run(tmp_path / "parts", 15)
    assert result(run(tmp_path / "parts", 6)) == result(run(tmp_path / "whole", 6, lineage=None))


def test_a_rate_that_falls_begins_anew_and_says_so(tmp_path: Path) -> None:
    run(tmp_path, 6, schedule="cosine")
    first, *rest = run(tmp_path, 12, earlier=6, schedule="cosine")
    assert isinstance(first, Begin)
    assert (first.done, first.earlier, bool(first.reason)) == (0, 6, True)
    assert not list(tmp_path.rglob("l.pt"))
    assert result(rest) == result(run(tmp_path / "whole", 12, lineage=None, schedule="cosine"))


def test_other_code_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, 6)
    monkeypatch.setattr("nas.evaluation.work.code", lambda config: "other")
    first = run(tmp_path, 12, earlier=6)[0]
    assert isinstance(first, Begin)
    assert first.done == 0


def test_which_schedules_fall() -> None:
    assert constant(decay("constant"))
    assert not constant(decay("cosine"))
    assert not constant(decay("linear"))


@pytest.mark.slow
def test_the_driver_finds_the_shorter_one(store: Store, tmp_path: Path) -> None:
    """And the row of the longer has the whole curve, and the time of both."""
    said: list[str] = []

    def evaluate(episodes: int, **learner: Any) -> Any:
        values = configure(episodes, **learner).model_dump(
            exclude={"base": True, "course": True, "budget": {"test_episodes"}}
        )
        [target] = Targets(store, lambda given: given.update(values)).choose(["mlp:maml"])
        driver = EvaluationDriver(store, tmp_path / "files", bars._Lines(1, said.append))
        [[row]] = driver.run([target], 1, InlineExecutor(Trainings))
        return row

    evaluate(6)
    long = evaluate(12)
    assert any("goes on after the 6" in line for line in said)
    steps = {step for _, step, _ in store.evaluations.measurements(long.id)}
    assert steps == {4, 6, 10, 12}
    evaluate(12, lr=0.5)
    assert sum("goes on" in line or "anew" in line for line in said) == 1
    claim(store, seed=5)  # one that is not complete is none to go on from
