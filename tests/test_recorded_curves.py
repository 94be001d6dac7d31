"""Curves that a benchmark records: what is drawn from its JSON is what was drawn from the database."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
from recorded import MIXED, record

from nas.comparison.curves import curves
from nas.comparison.groups import find, grouped
from nas.comparison.panels import FEW
from nas.comparison.series import anytime
from nas.storage.store import Store

MODULE = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "curves.py"))


def test_curves_come_back(db: Path, store: Store, tmp_path: Path) -> None:
    """A staircase has the same height everywhere, though only its steps are written."""
    for seed in range(FEW):
        trials = [(state, score, seconds + seed, test) for state, score, seconds, test in MIXED]
        record(store, trials, name=f"r{seed}", seed=seed)
    record(store, MIXED, name="e0", controller="evolution")
    record(store, MIXED, name="e1", controller="evolution", seed=1)
    groups, _ = grouped(find(store, ["r", "e"]))
    before = anytime(groups, [curves(store, group.searches) for group in groups], 30.0)
    written = json.loads(json.dumps(MODULE["recorded"](f"sqlite:///{db}", ["r", "e"])))
    after = [MODULE["_read"](panel) for panel in written["panels"]]
    assert [panel.y_label for panel in after] == [panel.y_label for panel in before]
    for one, other in zip(before, after, strict=True):
        assert [line.name for line in other.lines] == [line.name for line in one.lines]
        for line, again in zip(one.lines, other.lines, strict=True):
            assert len(again.x) < 20 < len(line.x)
            at = np.linspace(line.x[0] + 0.01, line.x[-1], 50)
            for name in ("mean", "half"):
                heights = [
                    getattr(part, name)[np.searchsorted(part.x, at, side="right") - 1]
                    for part in (line, again)
                ]
                np.testing.assert_allclose(*heights, rtol=1e-4)
            assert len(again.single) == len(line.single)
    MODULE["drawn"](written, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes().startswith(b"\x89PNG")
