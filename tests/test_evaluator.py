"""Training trials for real, on small budgets."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from facts import refusal
from typer.testing import CliRunner

from nas.cli.main import app
from nas.controller import Outcome
from nas.errors import ConfigError, Diverged, Infeasible
from nas.evaluator import Job
from nas.settings.search import SearchConfig, validate
from nas.states import TrialState
from nas.training.scoring import mean_ci95

BUDGET = {"train_episodes": 12, "validation_episodes": 6}


def configure(**changes: Any) -> SearchConfig:
    values: dict[str, Any] = {
        "space": {"name": "nasbench201", "channels": 4},
        "controller": "random",
        "tasks": "glyphs",
        "learner": "prototypical",
        "executor": "inline",
        "budget": BUDGET,
    }
    return validate(values | changes)


def evaluate(config: SearchConfig, *texts: str, seed: int = 7) -> list[list[Outcome]]:
    space = config.make_space()
    evaluator = config.make_evaluator(config.make_context(space, config.make_tasks()))
    return [list(evaluator.evaluate(Job(0, 0, space.decode(text), seed))) for text in texts]


SKIPS = "|skip_connect~0|+|none~0|nor_conv_1x1~1|+|none~0|none~1|nor_conv_3x3~2|"


def test_a_trial_reports_its_curve_and_ends_with_a_score() -> None:
    *reports, final = evaluate(configure(), "resnet")[0]
    assert [report.state for report in reports] == [TrialState.RUNNING] * len(reports)
    steps = [
        m.step for outcome in (*reports, final) for m in outcome.measurements if m.metric == "train_loss"
    ]
    assert steps == sorted(set(steps))
    assert steps[-1] == 12
    assert final.state is TrialState.COMPLETED
    assert final.score is not None
    assert 0 <= final.score.value <= 1
    assert (final.score.episodes, final.train_episodes) == (6, 12)
    assert final.score.split.startswith("glyphs")
    assert final.score.normalization == "transductive"
    space = configure().make_space()
    cost = space.cost(space.decode("resnet"), configure().make_tasks().shape)
    assert final.costs == cost._asdict()


def test_a_warm_worker_leaves_no_trace() -> None:
    first, _, again = evaluate(configure(), "resnet", SKIPS, "resnet")
    fresh = evaluate(configure(), "resnet")[0]
    assert first[-1].score == again[-1].score == fresh[-1].score
    assert [o.measurements for o in first] == [o.measurements for o in again]


def test_the_seed_matters() -> None:
    one, other = evaluate(configure(), "resnet"), evaluate(configure(), "resnet", seed=8)
    assert one[0][-1].measurements != other[0][-1].measurements


@pytest.mark.slow
def test_training_helps() -> None:
    long = configure(budget={"train_episodes": 150, "validation_episodes": 60})
    short = configure(budget={"train_episodes": 1, "validation_episodes": 60})
    trained, untrained = evaluate(long, "resnet")[0][-1].score, evaluate(short, "resnet")[0][-1].score
    assert trained is not None
    assert untrained is not None
    assert trained.value > untrained.value + untrained.ci95


def test_scores_at_rungs() -> None:
    config = configure(scheduler={"minimum": 3, "eta": 2})
    outcomes = evaluate(config, "resnet")[0]
    assert [o.train_episodes for o in outcomes if o.score is not None] == [3, 6, 12]
    plain = evaluate(configure(), "resnet")[0][-1]
    assert outcomes[-1].score == plain.score  # looking on the way changes nothing


def test_scores_on_the_way_without_a_scheduler() -> None:
    config = configure(budget={**BUDGET, "score_at": [7, 2]})
    outcomes = evaluate(config, "resnet")[0]
    assert [o.train_episodes for o in outcomes if o.score is not None] == [2, 7, 12]
    assert outcomes[-1].score == evaluate(configure(), "resnet")[0][-1].score
    assert config.settings == configure().settings


@pytest.mark.parametrize(
    "wrong",
    [{"budget": {**BUDGET, "score_at": [12]}}, {"budget": {**BUDGET, "score_at": [3]}, "scheduler": {}}],
)
def test_what_says_twice_when_a_trial_is_scored_is_refused(wrong: dict[str, Any]) -> None:
    with refusal(ConfigError, "budget.score_at"):
        configure(**wrong)


def test_a_meta_batch_may_pass_a_rung() -> None:
    learner = {"name": "prototypical", "meta_batch": 5}
    config = configure(scheduler={"minimum": 3, "eta": 2}, learner=learner)
    outcomes = evaluate(config, "resnet")[0]
    assert [o.train_episodes for o in outcomes if o.score is not None] == [5, 10, 12]


def test_a_loss_that_is_no_number_is_an_error() -> None:
    learner = {"name": "maml", "inner_lr": 1e30, "inner_steps": 3, "lr": 1e30}
    config = configure(learner=learner, tasks="sinusoid", space="mlp")
    with refusal(Diverged, "learner.inner_lr", "learner.lr"):
        evaluate(config, "maml")


def test_a_zero_cell_is_infeasible() -> None:
    nothing = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    with pytest.raises(Infeasible):
        evaluate(configure(), nothing)


def test_regression_is_scored_by_its_error() -> None:
    config = configure(space="mlp", tasks="sinusoid", learner={"name": "maml", "inner_lr": 0.01})
    score = evaluate(config, "maml")[0][-1].score
    assert score is not None
    assert score.value < 0


def test_mean_and_interval() -> None:
    mean, ci95 = mean_ci95([0.0, 1.0, 1.0, 1.0])
    assert mean == 0.75
    assert math.isclose(ci95, 1.96 * 0.5 / 2)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_every_executor_gives_the_same_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    command = ["run", "--space=nasbench201", "--controller=evolution", "--tasks=glyphs", "--seed=5"]
    command += ["--learner=prototypical", "--trials=6", "--workers=1", "--set=space.channels=4"]
    command += ["--set=controller.population=3", "--set=controller.sample=2"]
    command += [f"--set=budget.{key}={value}" for key, value in BUDGET.items()]
    for name, executor in (("one", "inline"), ("two", "inline"), ("process", "process"), ("ray", "ray")):
        result = CliRunner().invoke(app, [*command, f"--executor={executor}", f"--name={name}"])
        assert result.exit_code == 0, result.output
    found = []
    for name in ("one", "two", "process", "ray"):
        shown = CliRunner().invoke(app, ["show", name, "-f", "json"]).stdout
        columns = ("trial", "state", "architecture", "score", "ci95", "seed")
        found.append([[trial[column] for column in columns] for trial in json.loads(shown)["trial_rows"]])
    assert found[0] == found[1] == found[2] == found[3]
