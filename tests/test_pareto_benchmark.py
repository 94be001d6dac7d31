"""The hypervolume and the fronts of the benchmark of several objectives."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from command_line import nas
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_searches import start
from small_table import configure, eight_rows, write

from nas.driver.trials import executor
from nas.storage.store import Store

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def pareto() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return runpy.run_path(str(BENCHMARKS / "pareto.py"))


@given(points=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
@settings(deadline=None)
def test_a_hypervolume_is_the_cells_that_a_point_dominates(
    pareto: dict[str, Any], points: list[tuple[int, int]]
) -> None:
    """Accuracies and macs are whole; the reference has the accuracy 2 and 8 macs."""
    cells = sum(
        any(accuracy > row and macs <= column for accuracy, macs in points)
        for row in range(2, 9)
        for column in range(8)
    )
    every = [(float(accuracy), float(macs)) for accuracy, macs in points]
    assert pareto["hypervolume"](every, (2.0, 8.0)) == cells


def test_the_leaderboard_has_the_front_of_the_benchmark(
    pareto: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = eight_rows()
    frame["macs"] = [5, 3, 8, 3, 1, 2, 2, 4]
    evaluator = {"name": "tabular", "table": str(write(frame, tmp_path / "t.csv")), "metric": "valid"}
    costs = {"costs": {"macs": "macs"}}
    config = configure(Path(), name="s", evaluator={**evaluator, **costs}, objective="score,macs", trials=40)
    url = f"sqlite:///{tmp_path}/nas.db"
    with Store(url, create=True) as store:
        start(store, config).run(executor(config, config.make_source()))
        trials = store.trials(store.search("s").id)
    points = [(trial.score, float(trial.macs)) for trial in trials if trial.state == "completed"]
    assert len(points) == 8
    monkeypatch.setenv("NAS_DB", url)
    rows = json.loads(nas("leaderboard", "--search", "s", "--pareto", "score,macs", "-f", "json")[1])
    assert sorted((row["score"], row["macs"]) for row in rows) == [(40, 1), (70, 3), (80, 5)]
    assert pareto["front"](points) == [(40, 1), (70, 3), (80, 5)]
