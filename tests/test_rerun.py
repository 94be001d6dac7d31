"""`nas rerun`: the same trial by itself, and whether it agrees."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from command_line import SCRIPTED, nas

REAL = [
    *("--space=mlp", "--controller=random", "--tasks=sinusoid", "--learner=maml", "--executor=inline"),
    *("--set=learner.inner_lr=0.01", "--set=budget.train_episodes=16", "--set=budget.validation_episodes=4"),
]


@pytest.fixture
def trained(db: Path, one_thread: None) -> Path:
    assert nas("run", *REAL, "--name=s", "--trials=2", "--scheduler=asha")[0] == 0
    return db


def change(db: Path, statement: str) -> None:
    with sqlite3.connect(db) as connection:
        connection.execute(statement)


def test_a_trial_comes_out_the_same(trained: Path) -> None:
    before = trained.read_bytes()
    code, out, err = nas("rerun", "s/1", "-f", "json")
    assert code == 0, err
    [row] = json.loads(out)
    assert (row["trial"], row["difference"], row["agrees"], row["tolerance"]) == ("s/1", 0, True, 1e-6)
    assert trained.read_bytes() == before


def test_another_score_is_told_by_the_exit_code(trained: Path) -> None:
    change(trained, "UPDATE trials SET score = score + 0.001")
    code, out, _ = nas("rerun", "s/1", "-f", "json")
    [row] = json.loads(out)
    assert (code, row["agrees"]) == (1, False)
    assert row["difference"] == pytest.approx(-0.001)
    assert nas("rerun", "s/1", "--tolerance=0.01")[0] == 0


def test_a_search_that_was_resumed_elsewhere_is_compared_by_the_interval(trained: Path) -> None:
    given = "UPDATE searches SET environment = json_set(environment, '$.{}', json('[\"x\"]'))"
    change(trained, given.format("remarks"))
    [row] = json.loads(nas("rerun", "s/1", "-f", "json")[1])
    assert row["tolerance"] == 1e-6
    change(
        trained, "UPDATE searches SET environment = json_set(environment, '$.resumed_on', json('[\"x\"]'))"
    )
    change(trained, "UPDATE trials SET ci95 = 0.01")
    [row] = json.loads(nas("rerun", "s/1", "-f", "json")[1])
    assert row["tolerance"] == 0.01


def test_elsewhere_the_interval_is_the_tolerance(trained: Path) -> None:
    change(trained, "UPDATE searches SET environment = json_set(environment, '$.torch', '1.0')")
    change(trained, "UPDATE trials SET score = score + 0.001, ci95 = 0.01")
    code, out, err = nas("rerun", "s/1", "-f", "json")
    [row] = json.loads(out)
    assert (code, row["tolerance"]) == (0, 0.01)
    assert "torch: 1.0 then" in err
    change(trained, "UPDATE trials SET ci95 = 0.0001")
    assert nas("rerun", "s/1")[0] == 1


def test_a_trial_that_was_stopped_runs_to_where_it_was(db: Path) -> None:
    assert nas("run", *SCRIPTED, "--name=s", "--trials=8", "--scheduler=asha")[0] == 0
    rows = json.loads(nas("show", "s", "-f", "json")[1])["trial_rows"]
    stopped = next(row for row in rows if row["state"] == "stopped")
    [again] = json.loads(nas("rerun", f"s/{stopped['trial']}", "-f", "json")[1])
    assert (again["score"], again["agrees"]) == (stopped["score"], True)


def test_what_has_no_score_is_refused(db: Path) -> None:
    failing = ["--set=evaluator.faults={0='raise'}", "--set=retries=0", "--set=max_failed=1.0"]
    assert nas("run", *SCRIPTED, "--name=s", "--trials=2", *failing)[0] == 0
    assert nas("rerun", "s/0")[0] == 2
    assert nas("rerun", "s/9")[0] == 3
    assert nas("rerun", "s")[0] == 2
    change(db, "UPDATE searches SET environment = json_set(environment, '$.classes', json('{\"a\": \"b\"}'))")
    assert nas("rerun", "s/1")[0] == 2
