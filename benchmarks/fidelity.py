"""What schedulers save on real trainings: a part of NAS-Bench-101, trained for 4, 12, 36 and 108 epochs.

    NAS_DATA=… python benchmarks/fidelity.py -o docs/results/fidelity

Random search over 30,001 cells under each scheduler, in simulated time: first at equal cost, then over the
same 150 candidates, of which schedulers that stop trials see fewer to the end. Regret is the best validation
accuracy at 108 epochs less that of the best network that was trained so long. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from arguments import at_least, data
from torch import nn

from nas.backbone import BackboneSpace
from nas.driver.search import SearchDriver, create
from nas.driver.trials import executor
from nas.intervals import half_width_over_seeds
from nas.plugins import FilePath
from nas.settings.search import validate
from nas.space import Architecture, Decision, TaskShape
from nas.storage.store import Store

LENGTHS = (4, 12, 36, 108)
WHOLE = 40
"""Whole trainings, of the table's mean cost, that a search may spend."""

SCHEDULERS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "asha": {"name": "asha", "minimum": 4, "eta": 3},
    "curves, 0.05": {"name": "curves", "minimum": 4, "threshold": 0.05},
    "promotion": {"name": "promotion", "minimum": 4, "eta": 3},
    "halving": {"name": "halving", "minimum": 4, "eta": 3},
    "hyperband": {"name": "hyperband", "minimum": 4, "eta": 3},
}
STOPPING: dict[str, dict[str, Any] | None] = {
    "none": None,
    "curves, 0.01": {"name": "curves", "minimum": 4, "threshold": 0.01},
    "curves, 0.05": {"name": "curves", "minimum": 4, "threshold": 0.05},
    "curves, 0.1": {"name": "curves", "minimum": 4, "threshold": 0.1},
    "asha": {"name": "asha", "minimum": 4, "eta": 3},
}
TRIALS = 150


class Cells(BackboneSpace):
    """The cells of a part of NAS-Bench-101, by their published hashes."""

    name = "cells"

    def __init__(self, *, table: FilePath) -> None:
        self.decisions, self._places = _cells(table)

    def encode(self, architecture: Architecture) -> str:
        """Return the hash of a cell."""
        return str(self.decisions[0].choices[architecture.choices[0]])

    def decode(self, text: str) -> Architecture:
        """Return the cell of a hash."""
        return Architecture(self.name, (self._places[text],))

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Refuse: the table's scores stand for trainings."""
        raise NotImplementedError

    canonical = encode


@cache
def _cells(table: Path) -> tuple[tuple[Decision, ...], dict[str, int]]:
    """Return the decision among the cells of a table, and the place of each hash."""
    hashes = pd.read_csv(table, usecols=["hash"], dtype=str)["hash"]
    return (Decision("hash", tuple(hashes)),), {text: place for place, text in enumerate(hashes)}


class Silent:
    """An observer without a word."""

    started = reported = recorded = retried = lambda self, *_: None


def searched(path: Path, seed: int, scheduler: dict[str, Any] | None, **limits: Any) -> dict[str, float]:
    """Run one search; return what it spent, and the best that it trained to the end."""
    config = validate(
        {
            "space": {"name": "fidelity:Cells", "table": str(path)},
            "controller": "random",
            "evaluator": {
                "name": "tabular",
                "table": str(path),
                "arch": "hash",
                "metric": {length: f"valid_{length}" for length in LENGTHS},
                "cost": "train_time_108_s",
            },
            "scheduler": scheduler,
            "seed": seed,
            **limits,
        }
    )
    with tempfile.TemporaryDirectory() as folder, Store(f"sqlite:///{folder}/nas.db", create=True) as store:
        tasks = config.make_source()
        row = create(store, config, tasks)
        SearchDriver(store, row, config, config.make_space(), tasks, Silent()).run(executor(config, tasks))
        trials = store.trials(row.id)
    completed = [trial.score for trial in trials if trial.state == "completed" and trial.score is not None]
    return {
        "best": max(completed, default=0.0),
        "seconds": sum(trial.seconds or 0.0 for trial in trials),
        "candidates": len({trial.architecture for trial in trials}),
        "completed": len(completed),
    }


def summarized(rows: list[dict[str, float]], top: float) -> dict[str, float]:
    """Return means over seeds; regret in points with half of its 95 % interval."""
    regrets = [100 * (top - row["best"]) for row in rows]
    means = {key: fmean(row[key] for row in rows) for key in ("seconds", "candidates", "completed")}
    return {"regret": fmean(regrets), "ci95": half_width_over_seeds(regrets) or 0.0, **means}


def page(report: dict[str, Any]) -> str:
    """Return the page of a report."""
    whole = report["whole_s"]

    def table(rows: dict[str, dict[str, float]], least: float) -> list[str]:
        lines = [
            "| scheduler | candidates | trained to the end | cost, in whole trainings | regret, points |",
            "|---|---|---|---|---|",
        ]
        return lines + [
            f"| {name} | {row['candidates']:.0f} | {row['completed']:.1f} | {row['seconds'] / whole:.1f} | "
            f"{row['regret'] - least:.3f} ± {row['ci95']:.3f} |"
            for name, row in rows.items()
        ]

    stopping = report["stopping"]
    text = [
        "# Schedulers on real trainings",
        "",
        f"`{report['command']}`",
        "",
        textwrap.fill(
            f"Random search over the {report['cells']:,} cells of a part of NAS-Bench-101 (Ying et al. "
            f"2019), {report['seeds']} seeds, simulated time. A training of 108 epochs takes {whole:,.0f} s "
            "on average, one of fewer that share of it. The table's trainings of each length began from "
            "scratch, so that a promoted network pays for every length. Regret: the best validation accuracy "
            "at 108 epochs of all cells less that of the best network that a search trained so long; ± is "
            "half of the 95 % interval over seeds (Student's t).",
            100,
        ),
        "",
        f"## At equal cost, that of {report['budget']} whole trainings",
        "",
        *table(report["equal"], 0.0),
        "",
        f"## Over the same {report['trials']} candidates",
        "",
        "What schedulers that stop trials save, and lose: regret is against the best of these candidates.",
        "",
        *table(stopping, stopping["none"]["regret"]),
        "",
    ]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=at_least(2), default=60)
    parser.add_argument("-o", "--output", type=Path, default=Path("fidelity"))
    given = parser.parse_args()
    path = data(parser, "nasbench101_part/nasbench101_part.csv.gz")
    table = pd.read_csv(path)
    whole, top = float(table["train_time_108_s"].mean()), float(table["valid_108"].max())
    equal: dict[str, list[dict[str, float]]] = {name: [] for name in SCHEDULERS}
    stopping: dict[str, list[dict[str, float]]] = {name: [] for name in STOPPING}
    for seed in range(given.seeds):
        limits = {"max_seconds": WHOLE * whole, "trials": 10_000}
        for name, scheduler in SCHEDULERS.items():
            equal[name].append(searched(path, seed, scheduler, **limits))
        for name, scheduler in STOPPING.items():
            stopping[name].append(searched(path, seed, scheduler, trials=TRIALS))
    report = {
        "command": f"python benchmarks/fidelity.py --seeds {given.seeds}",
        "seeds": given.seeds,
        "cells": len(table),
        "whole_s": whole,
        "budget": WHOLE,
        "trials": TRIALS,
        "equal": {name: summarized(rows, top) for name, rows in equal.items()},
        "stopping": {name: summarized(rows, top) for name, rows in stopping.items()},
        "runs": {"equal": equal, "stopping": stopping},
    }
    given.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    given.output.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
