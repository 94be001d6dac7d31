"""The picture of reproduced results: drawn from what is stored, without an evaluation."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results" / "reproduced.json"


@pytest.fixture
def reproduce() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "reproduce.py"), run_name="reproduce")


def test_each_paper_is_drawn_in_the_colour_of_its_curve(reproduce: dict[str, Any]) -> None:
    results = json.loads(RESULTS.read_text())
    [axes] = reproduce["draw"](results).axes
    colours = {line.get_label().partition(" ")[0]: line.get_color() for line in axes.lines}
    papers = [line for line in axes.lines if line.get_marker() == "D" and len(line.get_ydata())]
    assert [(line.get_color(), line.get_ydata()[0]) for line in papers] == [
        (colours[name], reproduce["REPRODUCTIONS"][name].accuracy) for name in results
    ]


def test_the_picture_is_drawn_anew_without_a_name(
    reproduce: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "again"
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "-o", str(output)])
    with pytest.raises(SystemExit):
        reproduce["main"]()
    output.with_suffix(".json").write_text(RESULTS.read_text())
    reproduce["main"]()
    assert output.with_suffix(".json").read_text() == RESULTS.read_text()
    assert output.with_suffix(".md").read_text().startswith("# Published results")
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
