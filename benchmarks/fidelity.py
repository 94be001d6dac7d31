"""What schedulers save on real trainings: a part of NAS-Bench-101, trained for 4, 12, 36 and 108 epochs.

    NAS_DATA=… python benchmarks/fidelity.py -o docs/results/fidelity

Random search over 30,001 cells under each scheduler, in simulated time: first at equal cost, then over the
same 150 candidates, of which schedulers that stop trials see fewer to the end. Regret is the best validation
accuracy at 108 epochs less that of the best network that was trained so long. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from arguments import at_least, data

from controllers.random import Random
from nas.controller import Controller, Evaluate, Outcome, Reuse, Score
from nas.intervals import half_width_over_seeds
from nas.schedulers.asha import Asha
from nas.schedulers.curves import Curves
from nas.schedulers.halving import Halving
from nas.schedulers.promotion import Promotion
from nas.schedulers.settings import Scheduler
from nas.schedulers.stopping import Stopper
from nas.settings_space import Settings
from nas.states import TrialState
from nas.training.provenance import proposal_rng
from nas.wrappers import Deduplicated

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


def cells(many: int) -> Settings:
    """Return the cells of a part of NAS-Bench-101 as the values of one setting: their places in the table."""
    return Settings("cell", {"place": tuple(range(many))}, {"place": 0})


def searched(
    table: pd.DataFrame,
    space: Settings,
    seed: int,
    scheduler: dict[str, Any] | None,
    *,
    seconds: float = math.inf,
    trials: int = 100_000,
) -> dict[str, float]:
    """Run one search in memory, a trial after another; return what it spent, and the best it trained."""
    settings = None if scheduler is None else Scheduler(**scheduler)
    controller: Controller = Random(space, seed)
    stopper: Stopper | None = None
    if settings is not None and settings.name == "promotion":
        controller = Promotion(controller, space, LENGTHS, settings.eta)
    elif settings is not None and settings.promotes:
        hyperband = settings.name == "hyperband"
        controller = Halving(controller, space, LENGTHS, settings.eta, hyperband=hyperband)
    elif settings is not None and settings.name == "curves":
        stopper = Curves(settings.threshold, LENGTHS[-1], LENGTHS[:-1])
    elif settings is not None:
        stopper = Asha(settings.eta, LENGTHS[-1], LENGTHS[:-1])
    controller = Deduplicated(controller, space)
    scores = table[[f"valid_{length}" for length in LENGTHS]].to_numpy()
    whole = table["train_time_108_s"].to_numpy()
    spent, candidates, completed = 0.0, set[int](), list[float]()
    known: dict[int, Outcome] = {}
    for number in range(trials):
        proposal = controller.propose(number, (), proposal_rng(seed, number))
        if isinstance(proposal, Reuse):
            known[number] = replace(known[proposal.trial], state=TrialState.REUSED, reused=proposal.trial)
            controller.observe(number, known[number])
            continue
        assert isinstance(proposal, Evaluate)
        cell = proposal.architecture.choices[0]
        curve = dict(zip(LENGTHS, map(float, scores[cell]), strict=True))
        length = proposal.episodes or LENGTHS[-1]
        if stopper is not None:
            stops = (rung for rung in LENGTHS[:-1] if not stopper.report(number, rung, curve[rung]))
            length = next(stops, length)
        candidates.add(cell)
        spent += float(whole[cell]) * length / LENGTHS[-1]
        state = TrialState.PAUSED if proposal.episodes else TrialState.COMPLETED
        if length == LENGTHS[-1]:
            completed.append(curve[length])
            if stopper is not None:
                stopper.complete(number, curve[length])
        elif proposal.episodes is None:
            state = TrialState.STOPPED
        score = Score(curve[length], math.nan, 0)
        known[number] = Outcome(state, proposal.architecture, score, length, episodes=proposal.episodes)
        controller.observe(number, known[number])
        if spent >= seconds:
            break
    return {
        "best": max(completed, default=0.0),
        "seconds": spent,
        "candidates": len(candidates),
        "completed": len(completed),
    }


def summarized(rows: list[dict[str, float]], tops: list[float]) -> dict[str, float]:
    """Return means over seeds; regret, against a best of each seed, in points with half of its interval."""
    regrets = [100 * (top - row["best"]) for row, top in zip(rows, tops, strict=True)]
    means = {key: fmean(row[key] for row in rows) for key in ("seconds", "candidates", "completed")}
    return {"regret": fmean(regrets), "ci95": half_width_over_seeds(regrets) or 0.0, **means}


def page(report: dict[str, Any]) -> str:
    """Return the page of a report."""
    whole = report["whole_s"]

    def table(rows: dict[str, dict[str, float]]) -> list[str]:
        lines = [
            "| scheduler | candidates | trained to the end | cost, in whole trainings | regret, points |",
            "|---|---|---|---|---|",
        ]
        return lines + [
            f"| {name} | {row['candidates']:.0f} | {row['completed']:.1f} | {row['seconds'] / whole:.1f} | "
            f"{row['regret']:.3f} ± {row['ci95']:.3f} |"
            for name, row in rows.items()
        ]

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
        *table(report["equal"]),
        "",
        f"## Over the same {report['trials']} candidates",
        "",
        "What schedulers that stop trials save, and lose: regret is against the best of these candidates.",
        "",
        *table(report["stopping"]),
        "",
    ]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=at_least(2), default=200)
    parser.add_argument("-o", "--output", type=Path, default=Path("fidelity"))
    given = parser.parse_args()
    path = data(parser, "nasbench101_part/nasbench101_part.csv.gz")
    table = pd.read_csv(path)
    space = cells(len(table))
    whole, top = float(table["train_time_108_s"].mean()), float(table["valid_108"].max())
    equal: dict[str, list[dict[str, float]]] = {name: [] for name in SCHEDULERS}
    stopping: dict[str, list[dict[str, float]]] = {name: [] for name in STOPPING}
    for seed in range(given.seeds):
        for name, scheduler in SCHEDULERS.items():
            equal[name].append(searched(table, space, seed, scheduler, seconds=WHOLE * whole))
        for name, scheduler in STOPPING.items():
            stopping[name].append(searched(table, space, seed, scheduler, trials=TRIALS))
    tops = [row["best"] for row in stopping["none"]]
    report = {
        "command": f"python benchmarks/fidelity.py --seeds {given.seeds}",
        "seeds": given.seeds,
        "cells": len(table),
        "whole_s": whole,
        "budget": WHOLE,
        "trials": TRIALS,
        "equal": {name: summarized(rows, [top] * given.seeds) for name, rows in equal.items()},
        "stopping": {name: summarized(rows, tops) for name, rows in stopping.items()},
        "runs": {"equal": equal, "stopping": stopping},
    }
    given.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    given.output.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
