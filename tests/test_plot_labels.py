"""What the horizontal axes of pictures say: whose seconds, and what a metric's steps are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from command_line import nas
from recorded import LOOKED_UP, MIXED, close, record, search

from nas.controller import Measurement, Outcome
from nas.states import TrialState
from nas.storage.store import Store
from nas.storage.trials import NewTrial

FEW_SHOT: dict[str, Any] = {"tasks": "sinusoid", "learner": "maml"}
ORDINARY: dict[str, Any] = {"tasks": {"name": "supervised", "path": "data.npz"}, "learner": "classifier"}


def drawn(picture: Path, text: str) -> tuple[list[str], list[str]]:
    """Return the labels of horizontal axes in an SVG file and in a terminal."""
    words = re.findall(r">([^<>]*(?:time|training)[^<>]*)</text>", picture.read_text())
    rows = text.splitlines()
    return words, [rows[place + 2].strip() for place, row in enumerate(rows) if "└" in row]


@pytest.mark.parametrize(
    ("changes", "label"), [(FEW_SHOT, "worker time (s)"), (LOOKED_UP, "simulated time (s)")]
)
def test_the_clock_of_a_search(
    store: Store, changes: dict[str, Any], label: str, db: Path, tmp_path: Path
) -> None:
    record(store, MIXED, name="s", **changes)
    code, out, _ = nas("plot", "s", "-o", "curves.svg", "--text")
    both = [label, label]  # of validation and of test scores
    assert (code, drawn(tmp_path / "curves.svg", out)) == (0, (both, both))


@pytest.mark.parametrize(("changes", "episodes"), [(FEW_SHOT, "episodes"), (ORDINARY, "minibatches")])
def test_the_steps_of_a_metric(
    store: Store, changes: dict[str, Any], episodes: str, db: Path, tmp_path: Path
) -> None:
    """Of supernets alone they are theirs; beside those of other trials it is the line that says so."""
    row = search(store, name="s", **changes)
    for number, (architecture, supernet, metric) in enumerate(
        [(None, {"strategy": "darts"}, "skips"), ("0.0.0.0", None, "score")]
    ):
        trial = store.begin(
            row.id,
            NewTrial(
                number,
                architecture=architecture,
                key=architecture,
                space="toy",
                seed=0,
                attempt=0,
                supernet=supernet,
            ),
        )
        seen = Measurement(10, "loss", 0.5), Measurement(10, metric, 2.0)
        store.finish(trial, Outcome(TrialState.COMPLETED, None, seconds=1.0, measurements=seen))
    close(store, row)
    code, out, _ = nas(
        "plot", "s", "--metric=skips", "--metric=loss", "--metric=score", "-o", "a.svg", "--text"
    )
    expected = [f"training {episodes}{whose}" for whose in (" of the supernet", "", "")]
    assert (code, drawn(tmp_path / "a.svg", out)) == (0, (expected, expected))
