"""The driver dies at random moments; `nas resume` finishes the search, and no result is lost or doubled."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import living

pytestmark = pytest.mark.slow

TRIALS = 30
KILLS = 3
SCRIPTED = [
    "--space=nas.testing.toys:Toy",
    "--controller=evolution",
    "--tasks=sinusoid",
    "--learner=maml",
    "--evaluator=nas.testing.evaluators:Scripted",
]
SLOTS = [
    "--slot=learner.lr=[0.001,0.01,0.1]",
    "--slot=learner.inner_steps=[1,2]",
    "--slot=tasks.train_shots=[5,10,20]",
]


def nas(*arguments: str, db: Path, detached: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nas", *arguments, "--db", f"sqlite:///{db}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=detached,
    )


def finished(db: Path) -> dict[int, tuple[object, ...]]:
    if not db.exists():
        return {}
    with sqlite3.connect(db, timeout=10) as connection:
        try:
            rows = connection.execute(
                "SELECT number, state, architecture, score, seed, observed FROM trials "
                "WHERE state NOT IN ('running', 'interrupted')"
            ).fetchall()
        except sqlite3.OperationalError:  # killed before the tables were there
            return {}
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: row for row in rows}


def searches(db: Path) -> int:
    if not db.exists():
        return 0
    with sqlite3.connect(db, timeout=10) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM searches").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def wait_for_progress(process: subprocess.Popen[str], db: Path, trials: int) -> None:
    deadline = time.monotonic() + 120
    while len(finished(db)) < trials and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def end(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


@pytest.mark.parametrize("slots", [[], SLOTS], ids=["networks", "three slots"])
def test_killed_at_random_moments(tmp_path: Path, slots: list[str]) -> None:
    chance = random.Random(2019)
    db = tmp_path / "nas.db"
    start = ["run", *SCRIPTED, *slots, "--executor=inline", f"--trials={TRIALS}", "--seed=5", "--name=s"]
    pace = "--set=evaluator.seconds=0.03"
    process = nas(*start, pace, db=db)
    for _ in range(KILLS):
        before = finished(db)
        if searches(db) == 0:
            wait_for_progress(process, db, 1)
        else:
            wait_for_progress(process, db, min(len(before) + 1, TRIALS))
        time.sleep(chance.uniform(0, 0.12))
        process.kill()
        process.communicate()
        after = finished(db)
        assert {number: after[number] for number in before} == before
        process = nas("resume", "s", db=db)
    end(process)
    rows = finished(db)
    assert sorted(rows) == list(range(TRIALS))
    assert sorted(row[-1] for row in rows.values()) == list(range(1, TRIALS + 1))

    whole = tmp_path / "whole.db"
    end(nas(*start, pace.replace("0.03", "0"), db=whole))
    assert {n: row[:5] for n, row in rows.items()} == {n: row[:5] for n, row in finished(whole).items()}


@pytest.mark.parametrize(
    ("number", "executor"),
    [
        (signal.SIGINT, "inline"),
        (signal.SIGTERM, "inline"),
        (signal.SIGHUP, "inline"),
        (signal.SIGTERM, "process"),
    ],
)
def test_an_interrupt_saves_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, executor: str
) -> None:
    db = tmp_path / "nas.db"
    pace = "--set=evaluator.seconds=0.05"
    asked = [*SCRIPTED, f"--executor={executor}", "--workers=1", "--trials=200", "--name=s", pace]
    process = nas("run", *asked, db=db)
    wait_for_progress(process, db, 3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "nas resume s" in errors
    assert "Traceback" not in errors
    with sqlite3.connect(db) as connection:
        states = {state for (state,) in connection.execute("SELECT DISTINCT state FROM trials")}
        assert connection.execute("SELECT state FROM searches").fetchone() == ("interrupted",)
    assert states <= {"completed", "reused", "interrupted"}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("signaled", [os.killpg, os.kill], ids=["all", "the driver"])
def test_an_interrupt_on_ray(tmp_path: Path, signaled: Callable[[int, int], None]) -> None:
    db = tmp_path / "nas.db"
    pace = "--set=evaluator.seconds=0.1"
    process = nas("run", *SCRIPTED, "--workers=2", "--trials=500", "--name=s", pace, db=db, detached=True)
    wait_for_progress(process, db, 3)
    signaled(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "nas resume s" in errors
    assert "Traceback" not in errors
    with sqlite3.connect(db) as connection:
        assert connection.execute("SELECT state FROM searches").fetchone() == ("interrupted",)
    deadline = time.monotonic() + 10
    while living(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert living(process.pid) == []


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("victims", ["driver", "driver and Ray"])
def test_killed_on_ray(tmp_path: Path, victims: str) -> None:
    db = tmp_path / "nas.db"
    process = nas(
        "run",
        *SCRIPTED,
        "--workers=2",
        "--trials=30",
        "--name=s",
        "--set=evaluator.seconds=0.1",
        db=db,
        detached=True,
    )
    wait_for_progress(process, db, 5)
    if victims == "driver":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stderr is not None
    process.stderr.close()  # what is left of Ray may hold the other end for a while
    before = finished(db)
    assert before
    end(nas("resume", "s", db=db))
    rows = finished(db)
    assert sorted(rows) == list(range(30))
    assert {number: rows[number] for number in before} == before
