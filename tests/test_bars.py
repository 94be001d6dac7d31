"""The progress of evaluations on a terminal and in a notebook."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from nas.controller import Measurement
from nas.evaluation.work import Failure, Progress, Scoring, Validated
from nas.progress.evaluations import _Bars, _progress, _short, counting, watching
from nas.states import EvaluationState
from nas.storage.schema import Evaluation

CELL = "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|{}~2|"


def row(number: int, **changes: Any) -> Evaluation:
    asked: dict[str, Any] = {
        "id": number,
        "space": "nasbench201",
        "architecture": CELL.format("skip_connect"),
        "seed": number,
        "config": {"space": {"name": "nasbench201"}, "budget": {"train_episodes": 20_000}},
    }
    return Evaluation(**(asked | changes))


@pytest.mark.parametrize("width", [80, 100, 200])
def test_what_tells_trainings_apart_is_not_cut(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    progress = _progress(console)
    bars = _Bars(4, progress)
    rows = [row(0), row(12), row(3, architecture=CELL.format("none")), row(4, seed=0, origin_trial=16)]
    for evaluation in rows:
        bars.started(evaluation)
        points = Measurement(20_000, "train_loss", 1.0), Measurement(20_000, "validation_score", 0.5)
        bars.reported(evaluation, Validated(points))
    with console.capture() as printed:
        console.print(progress.make_tasks_table(progress.tasks))
    head, *lines = printed.get().splitlines()
    assert head.startswith("evaluations ")
    names = ("seed 0 nas", "seed 12 nas", "seed 3 nas", "seed 0 trial 16 nas")
    for line, name in zip(lines, names, strict=True):
        assert line.startswith(f"  {name}")
        assert "20000/20000 validation 0.5000 " in line
    assert ("ip_connect~2|" in lines[0], "|none~2|" in lines[2]) == (width > 80, width > 80)


def test_a_name_that_fits_is_whole() -> None:
    assert _short(row(1), 200) == f"seed 1 nasbench201:{row(1).architecture}"
    assert [len(_short(row(1), width)) for width in (30, 31, 60)] == [30, 31, 60]


def test_published_networks_have_their_names() -> None:
    def named(**settings: str) -> str:
        changes = {
            "space": "chain",
            "architecture": "conv4",
            "config": {"space": {"name": "chain", **settings}},
        }
        return _short(row(1, **changes), 200)

    assert named(downsample="stride", readout="average") == "seed 1 conv4"
    assert named(downsample="pool", readout="flatten") == "seed 1 conv4_pool"
    assert named(downsample="pool", readout="average") == "seed 1 chain:conv4"


def test_episodes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    with counting(3) as scored:
        scored()
        scored()
    assert "2/3" in terminal.getvalue()
    monkeypatch.setattr("sys.stderr", pipe := io.StringIO())
    with counting(3) as scored:
        scored()
    assert pipe.getvalue() == ""


def test_a_notebook_says_how_many_ended(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """And about how long the others take, by those that ran: the first took 60 s, and two are left."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with watching(4, print) as observer:
        observer.reused(row(0, test_score=0.75, test_ci95=0.01), by_other_code=False)
        observer.started(row(1))
        now[0] += 30
        observer.reported(row(1), Progress(10_000))
        now[0] += 30
        observer.reported(row(1), Failure(EvaluationState.FAILED, "no\nmore"))
    first, running, failed, last = shown
    assert first.startswith("1/4 evaluations | seed 0 nas")
    assert running.startswith("1/4 evaluations | seed 1 nas")
    assert running.endswith(": 10000/20000 training episodes")
    assert failed.startswith("2/4 evaluations · 1 without a result · 0:02:00 left | seed 1 nas")
    assert failed.endswith(": failed: no")
    assert last == "2/4 evaluations · 1 without a result"


def test_testing_is_shown() -> None:
    progress = _progress(Console(file=io.StringIO()))
    bars = _Bars(2, progress)

    def shown() -> list[str]:
        return [task.fields["status"] for task in progress.tasks]

    for evaluation in (row(0), row(1)):
        bars.started(evaluation)
    bars.reported(row(0), Progress(20_000))
    assert shown() == ["0/2", "20000/20000", "0/20000"]
    bars.reported(row(0), Scoring(1000))
    assert shown() == ["0/2", "0/20000", "testing on 1000 episodes"]
    assert progress.tasks[-1].total is None
    bars.reported(row(0), Failure(EvaluationState.FAILED, "no"))
    assert shown() == ["1/2", "0/20000"]


def test_the_last_score_stays_while_a_training_goes_on() -> None:
    console = Console(file=io.StringIO(), width=100)
    progress = _progress(console)
    bars = _Bars(3, progress)
    bars.started(row(0))
    seen = {"train_loss": 1.0, "validation_score": 0.5, "weight_mean": 0.9}
    bars.reported(row(0), Validated(tuple(Measurement(100, name, value) for name, value in seen.items())))
    bars.reported(row(0), Progress(150))
    bars.elsewhere(row(1, pid=7, host="here"))
    with console.capture() as printed:
        console.print(progress.make_tasks_table(progress.tasks))
    every, training = printed.get().splitlines()
    assert " 1/3 " in every
    assert " 150/20000 validation 0.5000 " in training
    assert [task.completed for task in progress.tasks] == [1, 150]
