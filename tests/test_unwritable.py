"""Disks that are full and folders that cannot be written: said in one line, and nothing is lost by it."""

from __future__ import annotations

import errno
import json
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SCRIPTED, nas
from facts import refusal
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
