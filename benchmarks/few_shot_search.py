"""Searches in `few_shot` whose scores a surrogate predicts: every controller and scheduler.

    python benchmarks/few_shot_search.py -o docs/results/few_shot_search

Each search is one of `nas run --evaluator surrogate`: its scores vary with the training seed as those of real
trainings do, and its clock is simulated. It may spend what 200 trainings cost on average. Regret is the mean
over training seeds, as the surrogate predicts it, of the best network of the space less that of the one
with the best score so far. Searches are recorded in FILE.jsonl, and not made again; what is slow has fewer
seeds. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from arguments import at_least, require
from few_shot_table import LENGTHS, SPACE, stages
from silent import Silent

from nas.comparison.curves import curves
from nas.driver.creation import create
from nas.driver.search import SearchDriver
from nas.driver.trials import executor
from nas.intervals import half_width_over_seeds
from nas.queries.answer import answer
from nas.settings.search import SearchConfig, validate
from nas.storage.store import Store
from nas.tables.regression import Regression
from nas.training.provenance import environment

Floats = npt.NDArray[np.float64]

AT = (50, 100, 200)
"""Mean costs of a training, at which regrets are told; the last ends a search."""

BASE = "random"

VARIANTS: dict[str, dict[str, Any]] = {
    "random": {"controller": "random"},
    "evolution": {"controller": "evolution"},
    "evolution, sample 8": {"controller": {"name": "evolution", "sample": 8}},
    "evolution, sample 8, fresh": {"controller": {"name": "evolution", "sample": 8, "fresh": True}},
    "evolution, sample 8, fresh, the worst dies": {
        "controller": {"name": "evolution", "sample": 8, "fresh": True, "dies": "worst"}
    },
    "random, macs": {"controller": "random", "prescreen": {"proxy": "macs"}},
    "evolution, macs": {"controller": "evolution", "prescreen": {"proxy": "macs"}},
    "evolution, macs at first": {
        "controller": "evolution",
        "prescreen": {"proxy": "macs", "candidates": 64, "trials": 16},
    },
    "local_search": {"controller": "local_search"},
    "nsga2": {"controller": "nsga2"},
    "rnn": {"controller": "rnn"},
    "gp": {"controller": "gp"},
    "bananas": {"controller": "bananas"},
    "optuna": {"controller": "optuna"},
    "random, asha": {"controller": "random", "scheduler": {"name": "asha"}},
    "random, curves": {"controller": "random", "scheduler": {"name": "curves"}},
    "random, promotion": {"controller": "random", "scheduler": {"name": "promotion"}},
    "random, hyperband": {"controller": "random", "scheduler": {"name": "hyperband"}},
    "evolution, promotion": {"controller": "evolution", "scheduler": {"name": "promotion"}},
    "gp, promotion": {"controller": "gp", "scheduler": {"name": "promotion"}},
    "gp, racing": {"controller": "gp", "racing": {}},
}
"""By label: the sections of a search."""

FEWER = {"gp": 100, "bananas": 50, "optuna": 100, "gp, promotion": 50, "gp, racing": 50}
"""Seeds at most."""


@dataclass(frozen=True, slots=True)
class Made:
    """What one search came to.

    Attributes:
        seconds, level: `[changes]` when its best network changed, and the mean over seeds of the new one.
        recommended: that mean of the network which the search recommends in the end; None: it does not.
        trials: how many.
    """

    seconds: list[float]
    level: list[float]
    recommended: float | None
    trials: int

    def at(self, seconds: Floats) -> Floats:
        """Return the level of the best network at ascending times; NaN before the first."""
        places = np.searchsorted(self.seconds, seconds, side="right")
        return np.concatenate([[math.nan], self.level])[places]


def config(table: Path, label: str, seed: int, seconds: float) -> SearchConfig:
    """Return a search whose scores are predicted from the table."""
    columns = {name: {str(length): f"{name}_{length}" for length in LENGTHS} for name in ("score", "cost")}
    evaluator = {
        "name": "surrogate",
        "table": str(table),
        "metric": columns["score"],
        "cost": columns["cost"],
        "input": [1, 28, 28],
    }
    whole = {"name": f"search-{seed}", "seed": seed, "trials": 100_000, "max_seconds": seconds}
    return validate({**whole, "space": SPACE.name, "evaluator": evaluator, **VARIANTS[label]})


def made(store: Store, chosen: SearchConfig, best: Regression) -> Made:
    """Make a search."""
    source, name = chosen.make_source(), str(chosen.name)
    row = create(store, chosen, source, None, lambda words: None)
    driver = SearchDriver(store, row, chosen, chosen.make_space(), source, Silent())
    driver.run(executor(chosen, source))
    (curve,) = curves(store, [store.search(name)])
    changes = np.flatnonzero(np.diff(np.nan_to_num(curve.best, nan=-1.0), prepend=-1.0))
    recommended = None
    if (found := answer(store, name)) is not None:
        recommended = float(best(SPACE.features(SPACE.decode(found.architecture)))[-1])
    return Made(curve.cost[changes].tolist(), curve.test[changes].tolist(), recommended, len(curve.cost))


def searches(
    table: Path, label: str, seconds: float, seeds: int, best: Regression, record: Path
) -> Iterator[Made]:
    """Yield what a search comes to under each seed; what the file of JSON lines has is not made again."""
    lines = record.read_text().splitlines() if record.exists() else []
    known = {row["seed"]: row["made"] for row in map(json.loads, lines) if row["search"] == label}
    with tempfile.TemporaryDirectory() as folder, Store(f"sqlite:///{folder}/nas.db", create=True) as store:
        for seed in range(seeds):
            if seed not in known:
                one = made(store, config(table, label, seed, seconds), best)
                known[seed] = [one.seconds, one.level, one.recommended, one.trials]
                with record.open("a") as file:
                    file.write(json.dumps({"search": label, "seed": seed, "made": known[seed]}) + "\n")
            yield Made(*known[seed])


def levels(best: Regression) -> Floats:
    """Return the predicted mean score of every network of the space, by canonical key."""
    cells = np.stack([SPACE.features(SPACE.decode(f"{text}/{text}")) for text in stages()])
    half = cells.shape[1] // 2
    pairs = (
        np.hstack([np.repeat(cells[i : i + 1, :half], len(cells), 0), cells[:, half:]])
        for i in range(len(cells))
    )
    return np.concatenate([best(pair)[:, -1] for pair in pairs])


def report(table: Path, seeds: int, labels: Sequence[str], record: Path) -> dict[str, Any]:
    """Make every search, and return all that the page shows."""
    frame = pd.read_csv(table)
    rows = frame[frame[f"score_{LENGTHS[-1]}"].notna()]
    x = np.stack([SPACE.features(SPACE.decode(text)) for text in rows["arch"]])
    began = time.process_time()
    best = Regression(x, rows[[f"score_{length}" for length in LENGTHS]].to_numpy())
    fit = time.process_time() - began
    every = levels(best)
    top = float(every.max())
    training = float(frame.loc[frame["episodes"] == 0, f"cost_{LENGTHS[-1]}"].mean())
    times = training * np.arange(1, AT[-1] + 1)
    found: dict[str, Any] = {}
    for label in labels:
        count = min(seeds, FEWER.get(label, seeds))
        several = list(searches(table, label, training * AT[-1], count, best, record))
        regret = 100 * (top - np.stack([one.at(times) for one in several]))
        found[label] = {
            "seeds": count,
            "trials": statistics.fmean(one.trials for one in several),
            "regret": [summary(regret[:, at - 1]) for at in AT],
            "recommended": summary(
                100
                * (
                    top
                    - np.array([math.nan if one.recommended is None else one.recommended for one in several])
                )
            ),
            "curve": [None if math.isnan(value) else round(value, 4) for value in regret.mean(0).tolist()],
        }
    if BASE in found:
        reached = found[BASE]["regret"][-1][0]
        for own in found.values():
            own["needs"] = next(
                (
                    place
                    for place, value in enumerate(own["curve"], 1)
                    if value is not None and value <= reached
                ),
                None,
            )
    return {
        "command": shlex.join(["python", "benchmarks/few_shot_search.py", *sys.argv[1:]]),
        "environment": environment(),
        "trainings": len(rows),
        "networks": int(rows["number"].nunique()),
        "space": len(every),
        "best": top,
        "median": float(np.median(every)),
        "training_s": training,
        "fit_s": fit,
        "searches": found,
    }


def summary(values: Floats) -> tuple[float, float | None]:
    """Return mean and half of its 95 % interval."""
    return float(values.mean()), half_width_over_seeds(values.tolist())


def page(report: dict[str, Any]) -> str:
    words = textwrap.fill(
        f"A surrogate, fitted to {report['trainings']:,} trainings of {report['networks']:,} networks of the "
        f"[table](few_shot_table.md), gives the scores. Of all {report['space']:,} networks the best has "
        f"{100 * report['best']:.2f} by it, the median {100 * report['median']:.2f}. Regret in points: how "
        "far the network with the best score so far is below the best, without the luck of its seed; mean "
        "over seeds ± half of its 95 % interval. Time is worker time, simulated, in mean costs of a training "
        f"({report['training_s']:.1f} s). `recommended`: the regret of the network that the search "
        f"recommends at its end. `needs`: when the mean regret is as low as that of `{BASE}` at the end. To "
        f"fit the surrogate takes a process {report['fit_s']:.1f} s, once.",
        110,
    )
    lines = [
        "# Searches among few-shot networks",
        "",
        f"`{report['command']}`",
        "",
        words,
        "",
        f"| search | seeds | trials | {' | '.join(f'at {at}' for at in AT)} | recommended | needs |",
        f"|---|---|---|{'---|' * len(AT)}---|---|",
    ]
    order = sorted(report["searches"].items(), key=lambda item: item[1]["regret"][-1][0])
    for label, own in order:
        cells = [interval(value) for value in (*own["regret"], own["recommended"])]
        needs = "" if own.get("needs") is None else str(own["needs"])
        lines.append(f"| {label} | {own['seeds']} | {own['trials']:.0f} | {' | '.join(cells)} | {needs} |")
    sections = {label: sections for label, sections in VARIANTS.items() if label in report["searches"]}
    return "\n".join(
        [
            *lines,
            "",
            "Sections of each search:",
            "",
            *(f"- {label}: `{json.dumps(own)}`" for label, own in sections.items()),
            "",
        ]
    )


def interval(value: Sequence[float | None]) -> str:
    mean, half = value
    if mean is None or math.isnan(mean):
        return ""
    return f"{mean:.2f}" + ("" if half is None else f" ± {half:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=at_least(1), default=500)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--table", type=Path, default=Path("docs/results/few_shot_table.csv.gz"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    require(parser, "sklearn", *(["optuna"] if "optuna" in arguments.only else []))
    torch.set_num_threads(1)
    record = arguments.output.with_suffix(".jsonl")
    found = report(arguments.table, arguments.seeds, arguments.only, record)
    arguments.output.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(page(found))


if __name__ == "__main__":
    main()
