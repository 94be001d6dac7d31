"""A table of the scores of eight architectures, and searches in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from nas.evaluator import Job
from nas.settings.search import SearchConfig, validate
from nas.testing.toys import Toy

SPACE = {"name": "nas.testing.toys:Toy", "layers": 1}
TOY = Toy(layers=1)
TEXTS = [TOY.encode(TOY.decode(f"0.{width}.{activation}.0")) for width in range(4) for activation in range(2)]


def eight_rows() -> pd.DataFrame:
    """Eight rows in no order: scores 10, 20…, test scores 1 % of them, 100 s, 101 s…"""
    rows = [(text, 10.0 * (i + 1), 0.1 * (i + 1), 100.0 + i) for i, text in enumerate(TEXTS)]
    return pd.DataFrame(rows[::-1], columns=["arch", "valid", "test", "cost"])


def write(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path


def configure(table: Path, *, settings: dict[str, Any] | None = None, **changes: Any) -> SearchConfig:
    looked_up = {"test_metric": "test", "cost": "cost"} if settings is None else settings
    values: dict[str, Any] = {
        "space": SPACE,
        "controller": "random",
        "evaluator": {"name": "tabular", "table": str(table), "metric": "valid", **looked_up},
        "trials": 20,
    }
    return validate(values | changes)


def look_up(config: SearchConfig, text: str) -> Any:
    space = config.make_space()
    evaluator = config.make_lookup(space, config.make_source())
    [outcome] = evaluator.evaluate(Job(0, 0, space.decode(text), 1))
    return outcome
