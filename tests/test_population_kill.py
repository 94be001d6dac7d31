"""The driver and its workers die of kill -9; the population has the lineage of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import living
from test_kill import finished, nas, searches

from nas.storage.store import Store

pytestmark = pytest.mark.slow

POPULATION, PARTS = 4, 4
SEARCH = [
    "run",
    "--name=s",
    "--space=mlp",
    "--controller=controllers.pbt:PBT",
    f"--set=controller.population={POPULATION}",
    "--set=controller.interval=40",
    "--set=controller.quantile=0.5",
    f"--set=budget.train_episodes={40 * PARTS}",
    "--set=budget.validation_episodes=20",
    "--tasks=sinusoid",
    "--learner=maml",
    "--slot=learner.lr=[0.001,0.003,0.01,0.03]",
    "--executor=process",
    "--workers=1",
    "--seed=3",
]


def end(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors


def lineage(db: Path) -> list[tuple[Any, ...]]:
    with Store(f"sqlite:///{db}") as store:
        rows = store.trials(store.search("s").id)
        told = [(t.number, t.state, t.architecture, t.parent, t.asked_episodes) for t in rows]
        assert all(t.attempt == 0 or t.state != "failed" for t in rows)
        return [(*one, t.train_episodes, t.score, t.seed) for one, t in zip(told, rows, strict=True)]


def test_killed_with_its_workers(tmp_path: Path) -> None:
    chance, trials = random.Random(7), POPULATION * PARTS
    whole = tmp_path / "whole.db"
    end(nas(*SEARCH, db=whole))
    expected = lineage(whole)
    assert len(expected) == trials
    assert len({parent for *_, parent, _, _, _, _ in expected}) < trials - POPULATION  # some copied

    db = tmp_path / "nas.db"
    process = nas(*SEARCH, db=db, detached=True)
    for turn in range(4):
        done = len(finished(db))
        deadline = time.monotonic() + 400
        while len(finished(db)) < min(done + 2, trials) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.2))
        if turn % 2:
            for worker in set(living(process.pid)) - {process.pid}:  # its driver goes on
                os.kill(worker, signal.SIGKILL)
            continue
        process.kill()
        process.communicate()
        assert searches(db) == 1
        process = nas("resume", "s", db=db, detached=True)
    end(process)
    assert lineage(db) == expected
