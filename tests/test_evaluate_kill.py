"""`nas evaluate` killed, interrupted, or beside another: it ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import living, nas, process, start

pytestmark = pytest.mark.slow

FATAL = """
import multiprocessing, os, signal
from pathlib import Path
from search_spaces.mlp import Mlp

class Fatal(Mlp):
    '''Kills the process that builds it, but not the driver.'''

    def build(self, architecture, shape):
        if multiprocessing.parent_process() is not None and not Path("mended").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().build(architecture, shape)
"""
DEADLY = """
import contextlib, os, signal
from pathlib import Path
from nas.tasks.sinusoid import Sinusoid

class Deadly(Sinusoid):
    '''Kills at its hundredth training task, once: its parent, all of its group, or itself, as files ask.'''

    drawn = 0

    def sample(self, split, tasks, rng):
        self.drawn += split == "train"
        if self.drawn == 100:
            with contextlib.suppress(FileNotFoundError):
                Path("driver").unlink()
                os.kill(os.getppid(), signal.SIGKILL)
            with contextlib.suppress(FileNotFoundError):
                Path("group").unlink()
                os.killpg(0, signal.SIGKILL)
            with contextlib.suppress(FileNotFoundError):
                Path("worker").unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(split, tasks, rng)
"""
STUCK = """
import multiprocessing, time
from pathlib import Path
from nas.tasks.sinusoid import Sinusoid

class Stuck(Sinusoid):
    '''Has a worker wait longer than anybody would.'''

    def sample(self, split, tasks, rng):
        if multiprocessing.parent_process() is not None:
            Path("waiting").touch()
            time.sleep(1000)
        return super().sample(split, tasks, rng)
"""
LEARNER = ["--learner=maml", "--set=learner.inner_lr=0.01"]
SMALL = ["--validate-every=30", "--validation-episodes=10", "--patience=0", "--seeds=1", "--workers=1"]
ENDLESS = ["mlp:maml", "--tasks=sinusoid", *LEARNER, *SMALL, "--train-episodes=1000000"]


def ask(db: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(db, timeout=60) as connection:
        return connection.execute(query).fetchall()


def outcome(db: Path) -> tuple[list[tuple[Any, ...]], ...]:
    """Return all that must not depend on how often a training was interrupted."""
    return (
        ask(
            db,
            "SELECT architecture, seed, settings, state, validation_score, test_score, test_ci95, "
            "best_episodes, train_episodes FROM evaluations ORDER BY architecture, seed",
        ),
        ask(
            db,
            "SELECT architecture, seed, metric, step, value FROM evaluation_measurements JOIN evaluations "
            "ON id = evaluation_id ORDER BY 1, 2, 3, 4",
        ),
        ask(
            db,
            "SELECT architecture, seed, episode, score FROM evaluation_scores JOIN evaluations "
            "ON id = evaluation_id ORDER BY 1, 2, 3",
        ),
        ask(
            db,
            "SELECT architecture, seed, sha256 FROM artifacts JOIN evaluations "
            "ON evaluations.id = evaluation_id ORDER BY 1, 2",
        ),
    )


@contextlib.contextmanager
def endless(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start a training that does not end by itself; go on once its curve has begun."""
    running = start("evaluate", *ENDLESS, *arguments, folder=folder)
    try:
        wait_for_curve(running, folder / "nas.db")
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()


def wait_for_curve(running: subprocess.Popen[str], db: Path) -> None:
    """Wait for the first point of a training that does not end by itself."""
    while running.poll() is None:
        with contextlib.suppress(sqlite3.OperationalError):  # the tables are not there yet
            if db.exists() and ask(db, "SELECT 1 FROM evaluation_measurements LIMIT 1"):
                return
        time.sleep(0.05)
    raise AssertionError(running.communicate()[1])


def test_killed_three_times_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Its driver, with whom its worker ends; all processes; its worker, after which another goes on."""
    command = ["evaluate", "mlp:maml", "mlp:80-80-0-relu", "--tasks=mine:Deadly", *LEARNER, *SMALL]
    command += ["--train-episodes=300"]
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    for folder in (broken, whole):
        folder.mkdir()
        (folder / "mine.py").write_text(DEADLY)
    for victim in ("driver", "group"):
        (broken / victim).touch()
        assert process(*command, folder=broken)[0] == -signal.SIGKILL
        assert not (broken / victim).exists()
        assert ask(broken / "nas.db", "SELECT DISTINCT state FROM evaluations") == [("running",)]
    (broken / "worker").touch()
    for folder in (broken, whole):
        code, _, err = process(*command, folder=folder)
        assert code == 0, err
        assert "Traceback" not in err
        assert ("killed by SIGKILL" in err) == (folder == broken)
    assert not (broken / "worker").exists()
    assert outcome(broken / "nas.db") == outcome(whole / "nas.db")
    assert len(outcome(whole / "nas.db")[0]) == 2
    assert list((broken / "nas-artifacts" / "checkpoints").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_worker_that_reports_nothing_ends_with_its_driver(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STUCK)
    command = ["mlp:maml", "--tasks=mine:Stuck", *LEARNER, *SMALL, "--train-episodes=30"]
    with start("evaluate", *command, folder=tmp_path) as running:
        try:
            while not (tmp_path / "waiting").exists():
                assert running.poll() is None, running.communicate()[1]
                time.sleep(0.05)
            assert len(living(running.pid)) >= 2
            running.kill()
            running.wait()
            deadline = time.monotonic() + 60
            while living(running.pid) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert living(running.pid) == []
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_keeps_all_and_prints_the_command_that_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    with endless(tmp_path, "--artifacts=files") as running:
        os.killpg(running.pid, number)  # as a terminal and a supervisor do: to the workers, too
        _, err = running.communicate()
        while living(running.pid):
            time.sleep(0.05)
    assert running.returncode == 128 + number
    assert "Traceback" not in err
    assert f"`nas evaluate {' '.join(ENDLESS)} --artifacts=files" in err
    assert ask(tmp_path / "nas.db", "SELECT DISTINCT state FROM evaluations") == [("interrupted",)]
    assert any((tmp_path / "files" / "checkpoints").iterdir())


def test_a_killed_worker_costs_one_evaluation(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FATAL)
    fatal = "mine:Fatal:80-80-0-relu"
    command = ["evaluate", fatal, "maml", "--tasks=sinusoid", *LEARNER, *SMALL, "--train-episodes=30"]
    command += ["-f", "json"]
    code, out, err = process(*command, folder=tmp_path)
    assert code == 1
    assert "1 of 2 evaluations" in err
    assert "killed by SIGKILL" in err
    assert [row["space"] for row in json.loads(out)] == ["mlp"]
    (tmp_path / "mended").touch()
    code, out, err = process(*command, folder=tmp_path)
    assert code == 0, err
    assert err.count("evaluated before") == 1
    assert len(json.loads(out)) == 2


def test_another_process_s_evaluation_is_left_alone(tmp_path: Path) -> None:
    with endless(tmp_path) as first:
        code, out, err = nas("evaluate", *ENDLESS, "-f", "json", f"--db=sqlite:///{tmp_path}/nas.db")
    assert (code, json.loads(out)) == (1, [])
    assert f"pid {first.pid}" in err
