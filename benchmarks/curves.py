"""Anytime curves as a benchmark records them, so that its picture can be drawn again from its JSON alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.comparison.curves import Floats, curves
from nas.comparison.draw import draw
from nas.comparison.groups import find, grouped
from nas.comparison.panels import Line, Panel, caption
from nas.comparison.series import anytime
from nas.comparison.summary import scored, shortest
from nas.storage.store import Store

DIGITS = 5
"""Significant digits of what is recorded."""


def recorded(db: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the panels that `nas plot` draws of these searches, as JSON."""
    with Store(db) as store:
        groups, _ = grouped(find(store, names))
        kept, theirs, _ = scored(groups, [curves(store, group.searches) for group in groups])
        panels = anytime(kept, theirs, shortest(kept, theirs).cost)
    return {"task": groups[0].searches[0].task_label, "panels": [_written(panel) for panel in panels]}


def drawn(found: dict[str, Any], file: Path) -> None:
    """Draw what was recorded."""
    panels = [_read(panel) for panel in found["panels"]]
    lines = [line for panel in panels for line in panel.lines]
    draw(panels, f"{found['task']} · {caption(lines)}", file)


def _written(panel: Panel) -> dict[str, Any]:
    return {
        "x_label": panel.x_label,
        "y_label": panel.y_label,
        "lines": [
            {
                "label": line.label,
                "count": line.count,
                "baseline": line.baseline,
                **_points(line.x, {"mean": line.mean, "half": line.half}),
                "single": [_points(x, {"y": y}) for x, y in line.single],
            }
            for line in panel.lines
        ],
    }


def _points(x: Floats, values: dict[str, Floats]) -> dict[str, str]:
    """Return the places of a staircase where a value changes, and the values there, in a line each."""
    stacked = np.stack(list(values.values()))
    changes = (np.nan_to_num(stacked[:, 1:]) != np.nan_to_num(stacked[:, :-1])).any(0)
    kept = np.concatenate([[True], changes])
    kept[-1] = True
    every = {"x": x, **values}
    return {key: " ".join(f"{v:.{DIGITS}g}" for v in column[kept]) for key, column in every.items()}


def _read(panel: dict[str, Any]) -> Panel:
    lines = tuple(
        Line(
            line["label"],
            line["count"],
            line["baseline"],
            *(_numbers(line[key]) for key in ("x", "mean", "half")),
            tuple((_numbers(one["x"]), _numbers(one["y"])) for one in line["single"]),
        )
        for line in panel["lines"]
    )
    return Panel(panel["x_label"], panel["y_label"], True, lines)


def _numbers(text: str) -> Floats:
    return np.array(text.split(), dtype=np.float64)
