"""Supernets whose driver or worker is killed: they go on from the last epoch to the same bits."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import nas, process

pytestmark = pytest.mark.slow


def asked(kill: Path, executor: str) -> list[str]:
    return [
        "run", "--space=nas.testing.toy_supernet:ToyCurves", "--controller=nas.testing.oneshot:ToyOneShot",
        "--tasks=sinusoid", "--learner=maml", "--set=learner.inner_lr=0.01", f"--executor={executor}",
        "--workers=1", "--name=s", "--trials=9", "--set=budget.train_episodes=4",
        "--set=budget.validation_episodes=4", "--set=controller.budget.epochs=4",
        f"--set=controller.kill={kill}", "--derive=3",
    ]  # fmt: skip


def ran(*arguments: str, folder: Path) -> str:
    """Run the app in this process, on the database of a folder; return its output."""
    code, out, err = nas(*arguments, f"--db=sqlite:///{folder}/nas.db")
    assert code == 0, err
    return out


def shown(folder: Path, trial: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ran("show", f"s/{trial}", "-f", "json", folder=folder))
    return found


def same(killed: dict[str, Any], whole: dict[str, Any]) -> set[float]:
    """Assert that two supernet trials agree in every bit; return the processes of the first."""
    assert (killed["derived"], killed["derived_epochs"]) == (whole["derived"], whole["derived_epochs"])
    curves = [[m for m in trial["measurements"] if m["metric"] != "process"] for trial in (killed, whole)]
    assert curves[0] == curves[1]
    assert len(whole["derived_epochs"]) == 4
    return {m["value"] for m in killed["measurements"] if m["metric"] == "process"}


@pytest.mark.ray
def test_killed_supernets_go_on_with_the_same_alpha(tmp_path: Path) -> None:
    """kill -9 of the driver, and of a worker on Ray, against a training that nothing interrupts."""
    folders = [tmp_path / name for name in ("whole", "driver", "worker")]
    flag = tmp_path / "flag"
    for folder in folders:
        folder.mkdir()
    ran(*asked(flag, "inline"), folder=folders[0])
    whole = shown(folders[0], 0)
    assert [shown(folders[0], n)["state"] for n in range(4)] == ["completed"] * 4

    flag.touch()
    assert process(*asked(flag, "inline"), folder=folders[1])[0] == -signal.SIGKILL
    [checkpoint] = folders[1].rglob("*.pt")
    saved = torch.load(checkpoint, weights_only=True)["content"]
    assert len(saved["epochs"]) == 2
    ran("resume", "s", folder=folders[1])
    assert len(same(shown(folders[1], 0), whole)) == 2

    flag.touch()
    code, _, err = process(*asked(flag, "ray"), folder=folders[2])
    assert code == 0, err
    killed = shown(folders[2], 0)
    assert killed["attempt"] == 1
    assert len(same(killed, whole)) == 2
    assert not list(tmp_path.rglob("*.pt"))
