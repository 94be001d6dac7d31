"""`nas run --dry-run`: what a search would be, and nothing of it."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from command_line import nas
from facts import lacking
from small_table import TEXTS, eight_rows, write

from nas.driver import estimates
from nas.settings.search import validate
from nas.storage.store import Store

REAL = [
    *("--controller=random", "--tasks=sinusoid", "--learner=maml", "--executor=inline"),
    *("--set=budget.train_episodes=8", "--set=budget.validation_episodes=4"),
]


@pytest.fixture(autouse=True)
def quickly(db: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "SECONDS", 0.05)


def test_the_settings_are_a_file_and_nothing_is_written(tmp_path: Path) -> None:
    code, out, err = nas("run", "--space=mlp", *REAL, "--trials=3", "--seed=4", "--dry-run")
    assert code == 0, err
    config = validate(tomllib.loads(out))
    assert (config.trials, config.seed, config.budget.train_episodes) == (3, 4, 8)
    assert err.count("parameters,") == 3  # the first trials, which random search knows beforehand
    assert lacking(err, "3 trials") == []
    assert list(tmp_path.iterdir()) == []


def test_its_networks_are_the_first_of_the_search() -> None:
    _, _, err = nas("run", "--space=mlp", *REAL, "--trials=2", "--dry-run")
    nas("run", "--space=mlp", *REAL, "--trials=2", "--name=s")
    shown = nas("show", "s", "-f", "csv")[1].splitlines()[1:]
    texts = {line.rpartition(": ")[2] for line in err.splitlines() if " MACs" in line}
    assert len(texts) == 2
    assert all(any(text in row for row in shown) for text in texts)


def test_a_name_that_is_taken_is_refused_unless_the_search_goes_on() -> None:
    assert nas("run", "--space=mlp", *REAL, "--trials=1", "--name=s")[0] == 0
    code, out, err = nas("run", "--space=mlp", *REAL, "--trials=1", "--name=s", "--dry-run")
    assert (code, out, lacking(err, "name", "nas resume s")) == (2, "", [])
    assert nas("run", "--space=mlp", *REAL, "--trials=1", "--resume-or-start=s", "--dry-run")[0] == 0


PROMOTED = {
    "promotion": ("constant", {10: 16, 30: 5, 90: 3}),
    "halving": ("constant", {10: 18, 30: 5, 90: 1}),
    "hyperband": ("cosine", {10: 11, 30: 8, 90: 5}),
}


@pytest.mark.parametrize(("trials", "short"), [(4, True), (24, False)])
def test_too_few_trials_for_the_whole_budget_are_told(trials: int, short: bool) -> None:
    search = ["--space=mlp", "--tasks=sinusoid", "--learner=maml", "--controller=random"]
    budget = ["--set=budget.train_episodes=90", "--set=budget.validation_episodes=2"]
    small = ["--executor=inline", "--set=learner.meta_batch=1"]
    small += ["--scheduler=promotion", "--set=scheduler.eta=3"]
    code, _, err = nas("run", *search, *budget, *small, f"--trials={trials}", "--dry-run")
    assert (code, lacking(err, "whole budget of 90", "--trials") == []) == (0, short)


@pytest.mark.parametrize("scheduler", PROMOTED)
def test_a_schedule_is_what_the_search_then_trains(scheduler: str) -> None:
    """A longer training goes on from a shorter one where the rate is constant."""
    schedule, expected = PROMOTED[scheduler]
    search = ["--space=mlp", "--tasks=sinusoid", "--learner=maml", "--controller=random"]
    lengths = ["--set=budget.train_episodes=90", "--set=budget.validation_episodes=2"]
    halved = [f"--scheduler={scheduler}", "--set=scheduler.eta=3", f"--set=learner.schedule={schedule}"]
    small = ["--executor=inline", "--trials=24", "--set=learner.meta_batch=1"]
    code, _, err = nas("run", *search, *lengths, *halved, *small, "--dry-run")
    assert code == 0, err
    again = {30: 10, 90: 30} if schedule == "constant" else {}
    episodes = sum(count * (length - again.get(length, 0)) for length, count in expected.items())
    told = [fact for length, count in expected.items() for fact in (count, length)]
    assert lacking(err, *told, f"{episodes:,}") == []
    fast = ["--evaluator=nas.testing.evaluators:Scripted", "--name=s"]
    assert nas("run", *search, *lengths, *halved, *small, *fast)[0] == 0
    with Store("sqlite:///nas.db") as store:
        trained = store.trials(store.search("s").id)
    found = Counter(trial.asked_episodes or 90 for trial in trained)
    order = 2 if scheduler == "promotion" else 0  # who is promoted, and when, is by the order of scores
    assert all(abs(found[length] - count) <= order for length, count in expected.items())
    assert found.total() == 24


POPULATION = [
    *("--controller=pbt", "--set=controller.population=2", "--set=controller.interval=3"),
    *("--slot=learner.lr=[0.001,0.01]", "--set=learner.meta_batch=1"),
]


def test_parts_of_trainings_are_counted_as_they_are_trained() -> None:
    """Two trainings of 8 episodes, in parts of 3, 3 and 2: not the 32 trials of a search by default."""
    code, _, err = nas("run", "--space=mlp", *REAL, *POPULATION, "--dry-run")
    assert code == 0, err
    assert lacking(err, "6 trials", "2 trials of 3", "2 of 6", "2 of 8", "16 training episodes") == []
    assert "32" not in err
    assert nas("run", "--space=mlp", *REAL, *POPULATION, "--name=s")[0] == 0
    with Store("sqlite:///nas.db") as store:
        rows = store.trials(store.search("s").id)
    assert Counter(row.train_episodes for row in rows) == {3: 2, 6: 2, 8: 2}
    assert sum((row.train_episodes or 0) - (row.continued_episodes or 0) for row in rows) == 16


def test_earlier_searches_are_looked_for() -> None:
    search = ["run", "--space=mlp", *REAL, "--trials=2"]
    assert nas(*search, "--warm-start-from=early", "--dry-run")[0] == 3  # there is no database
    assert nas(*search, "--name=earlier")[0] == 0
    code, out, err = nas(*search, "--warm-start-from=earlyer", "--dry-run")
    assert (code, out) == (3, "")
    assert lacking(err, "'earlyer'", "'earlier'") == []
    assert nas(*search, "--warm-start-from=earlier", "--dry-run")[0] == 0
    other = ["run", "--space=nas.testing.toys:Toy", *REAL]
    assert nas(*other, "--warm-start-from=earlier", "--dry-run")[0] == 2


def test_what_a_search_refuses_a_dry_run_refuses() -> None:
    refused = ["run", "--space=nasbench201", *REAL, "--dry-run"]  # no network for vectors
    assert nas(*refused) == nas(*refused[:-1])
    assert nas(*refused)[0] == 2


def test_an_evaluator_of_ones_own_runs_one_trial() -> None:
    search = ["--space=mlp", *REAL, "--evaluator=nas.testing.evaluators:Scripted"]
    code, _, err = nas("run", *search, "--set=evaluator.seconds=0.2", "--trials=5", "--dry-run")
    measured = [float(seconds) for seconds in re.findall(r"\b(\d+\.\d) s", err)]
    assert (code, len(measured)) == (0, 1), err
    assert measured[0] >= 0.2


def test_a_table_tells_simulated_time(tmp_path: Path) -> None:
    table = write(eight_rows(), tmp_path / "table.csv")
    looked_up = [
        f"--set=evaluator.table={table}",
        "--set=evaluator.metric=valid",
        "--set=evaluator.cost=cost",
    ]
    space = ["--space=nas.testing.toys:Toy", "--set=space.layers=1"]
    search = [*space, "--controller=random", "--evaluator=tabular", "--trials=1", *looked_up]
    code, out, err = nas("run", *search, "--set=max_seconds=1000", "--dry-run")
    assert code == 0, err
    assert "tasks" not in tomllib.loads(out)
    assert lacking(err, "simulated time") == []


@pytest.mark.parametrize(("rows", "infeasible"), [(2, 1), (1, 2)])
def test_what_a_table_lacks_takes_no_time(tmp_path: Path, rows: int, infeasible: int) -> None:
    """Of two networks the table has one, or none."""
    kept = eight_rows().sort_values("cost")[-rows:]
    table = write(kept, tmp_path / "table.csv")
    given = [TEXTS[0], TEXTS[-2]]
    search = [
        *("--space=nas.testing.toys:Toy", "--set=space.layers=1", "--controller=fixed"),
        *(f"--set=controller.architectures={json.dumps(given)}", "--evaluator=tabular", "--trials=2"),
        *(f"--set=evaluator.table={table}", "--set=evaluator.metric=valid", "--set=evaluator.cost=cost"),
    ]
    code, _, err = nas("run", *search, "--set=evaluator.partial=true", "--dry-run")
    assert code == 0, err
    assert err.count(": infeasible: ") == infeasible
    assert ("0:01:46" in err) == (infeasible < 2)


def test_a_supernet_is_measured_by_a_few_steps() -> None:
    one_shot = ["--space=nas.testing.toy_supernet:ToyCurves", "--tasks=glyphs", "--learner=prototypical"]
    budget = {"epochs": 50, "steps": 400, "validation_episodes": 300}
    settings = [f"--set=controller.budget.{name}={value}" for name, value in budget.items()]
    small = ["--set=tasks.queries=1", "--set=budget.train_episodes=4", "--set=budget.validation_episodes=2"]
    code, _, err = nas(
        *("run", *one_shot, "--controller=darts", "--derive=2", "--executor=inline", *settings, *small),
        "--dry-run",
    )
    assert code == 0, err
    assert lacking(err, "supernet", "2 trials") == []
