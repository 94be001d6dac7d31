"""Disks that are full and folders that cannot be written: said in one line, and nothing is lost by it."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SCRIPTED, nas
from facts import lacking, refusal
from sqlalchemy.exc import OperationalError

from nas.errors import StorageError, Unwritable
from nas.storage.engine import parse, translated
from nas.storage.store import Store
from nas.tasks import cache
from nas.training.checkpoint import Checkpoint

SUPERNET = [
    "run", "--space=nas.testing.toy_supernet:ToyCurves", "--controller=nas.testing.oneshot:ToyOneShot",
    "--tasks=sinusoid", "--learner=maml", "--set=learner.inner_lr=0.01", "--workers=1", "--name=s",
    "--trials=3", "--set=budget.train_episodes=4", "--set=budget.validation_episodes=4",
    "--set=controller.budget.epochs=3", "--derive=2", "--artifacts=files",
]  # fmt: skip
EVALUATION = [
    "evaluate", "mlp:maml", "--tasks=sinusoid", "--learner=maml", "--set=learner.inner_lr=0.01",
    "--validate-every=10", "--train-episodes=20", "--validation-episodes=4", "--seeds=1", "--workers=1",
    "--artifacts=files",
]  # fmt: skip


@pytest.fixture(params=[errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def refusing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No file can be written, for one reason or another, until the patch is undone."""
    written = Path.write_bytes

    def refuse(path: Path, content: Any) -> int:
        if path.suffix == ".part":
            raise OSError(request.param, "no", str(path))
        return written(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", refuse)
        yield patch


def shown(trial: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(nas("show", f"s/{trial}", "-f", "json")[1])
    return found


@pytest.mark.slow
def test_a_supernet_that_cannot_be_saved_is_interrupted(db: Path, refusing: pytest.MonkeyPatch) -> None:
    code, _, err = nas(*SUPERNET, "--executor=inline")
    assert code == 4
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert str(db.parent / "files") in last
    assert last.endswith("`nas resume s --artifacts files`")
    assert shown(0)["state"] == "interrupted"
    refusing.undo()
    assert nas("resume", "s", "--artifacts=files")[0] == 0
    assert [shown(n)["state"] for n in range(3)] == ["completed"] * 3


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_on_ray_tells_its_driver(db: Path) -> None:
    (db.parent / "files").write_text("no folder")
    code, _, err = nas(*SUPERNET, "--executor=ray")
    assert (code, "Traceback" in err) == (4, False)
    assert shown(0)["state"] == "interrupted"
    (db.parent / "files").unlink()
    assert nas("resume", "s", "--artifacts=files")[0] == 0
    assert [shown(n)["state"] for n in range(3)] == ["completed"] * 3


@pytest.mark.slow
def test_an_evaluation_that_cannot_be_saved_is_interrupted(db: Path) -> None:
    checkpoints = db.parent / "files" / "checkpoints"
    checkpoints.parent.mkdir()
    checkpoints.write_text("no folder")
    code, _, err = nas(*EVALUATION)
    assert (code, str(checkpoints) in err.splitlines()[-1]) == (4, True)
    with sqlite3.connect(db) as connection:
        assert connection.execute("SELECT state FROM evaluations").fetchall() == [("interrupted",)]
    checkpoints.unlink()
    assert nas(*EVALUATION)[0] == 0


def test_a_full_database_says_how_to_go_on(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise StorageError("Database x: database or disk is full; free some space there.")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", full)
        code, _, err = nas("run", *SCRIPTED, "--trials=4", "--name=s")
    assert (code, err.splitlines()[-1].endswith("`nas resume s`")) == (4, True)
    assert shown(0)["state"] == "interrupted"
    assert nas("resume", "s")[0] == 0
    assert [shown(n)["state"] for n in range(4)] == ["completed"] * 4


@pytest.mark.parametrize("words", ["database or disk is full", "disk I/O error", "No space left on device"])
def test_a_full_disk_is_told_from_other_errors_of_a_database(words: str) -> None:
    failed = OperationalError("INSERT", {}, sqlite3.OperationalError(words))
    with refusal(StorageError, "nas.db", words), translated(parse("sqlite:///nas.db")):
        raise failed


def test_a_checkpoint_that_fails_keeps_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(path: Path, content: memoryview) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoint = Checkpoint(tmp_path, "c")
    checkpoint.save({"epoch": 1})
    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(Unwritable):
        checkpoint.save({"epoch": 2})
    assert checkpoint.load() == {"epoch": 1}
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["c.pt"]


FULL = """
mount -t tmpfs -o size=60m tmpfs "$1"
fill() { dd if=/dev/zero of="$1/fill" bs=64k 2>/dev/null; }
if [ "$2" = before ]; then fill "$1"; exec "${@:3}"; fi
"${@:3}" 2>"$1-said" & driver=$!
until grep -q '"trial": 2' "$1-said"; do sleep 0.1; done
fill "$1"
for process in $(pgrep -f '^ray::_Actor'); do
    if grep -qz "RAY_TMPDIR=$1" /proc/$process/environ; then kill -KILL "$process"; fi
done
wait $driver; code=$?
cat "$1-said" >&2; exit $code
"""
"""Runs a command with RAY_TMPDIR on a disk that is full before it, or from its second trial on."""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "later"])
def test_a_full_disk_of_ray_s_own_is_named(tmp_path: Path, when: str) -> None:
    """Later, workers that run go on; it is when one is to be replaced that the search ends."""
    mounting = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0"', str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system (unshare)")
    db = f"--db=sqlite:///{tmp_path}/nas.db"
    started = ["-m", "nas", "run", *SCRIPTED, "--trials=1000", "--executor=ray", "--workers=2", "--name=s"]
    command = [sys.executable, *started, "--set=evaluator.seconds=0.2", "--log-format=json", db]
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="nas-") as folder:  # a short path, as Ray needs one
        ray = f"{folder}/ray"
        Path(ray).mkdir()
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-c", FULL, "bash", ray, when, *command],
            env={**os.environ, "RAY_TMPDIR": ray},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    last = json.loads(next(line for line in done.stderr.splitlines()[::-1] if line.startswith("{")))
    assert (done.returncode, lacking(last["error"], ray)) == (4, []), done.stderr
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        if when == "before":
            assert store.names() == []
            return
        states = {trial.state for trial in store.trials(store.search("s").id)}
    assert states == {"completed", "interrupted"}
    assert lacking(last["error"], "nas resume s") == []


def test_a_full_cache_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.platformdirs, "user_cache_path", lambda name: tmp_path)
    monkeypatch.setattr(cache.np, "savez", full)
    with caplog.at_level(logging.WARNING):
        found = cache.cached("images", "1", [], lambda: {"x": np.arange(3)})
    assert found["x"].tolist() == [0, 1, 2]
    assert str(tmp_path) in caplog.text
    assert list(tmp_path.iterdir()) == []
