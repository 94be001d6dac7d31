"""Searches on CIFAR-10 that begin with what a search on CIFAR-100 found, in the table of NAS-Bench-201.

    NAS_DATA=… python benchmarks/warm_start.py -o docs/results/warm_start

For each seed, evolution searches by the CIFAR-100 validation accuracy after 12 epochs. Then each controller
searches by that of CIFAR-10, once without and once with `warm_start` from it. What is in the database already
is not run again. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from arguments import at_least, data
from silent import Silent

from nas.comparison.benchmark import run
from nas.comparison.ranks import mann_whitney, spearman
from nas.driver.search import SearchDriver
from nas.driver.trials import executor
from nas.intervals import half_width_over_seeds
from nas.settings.search import SearchConfig, validate
from nas.storage.schema import Search
from nas.storage.store import Store
from nas.tasks.base import ScoreSource
from nas.training.provenance import environment

CONTROLLERS = ("random", "evolution", "nsga2", "local_search", "rnn")

BEFORE = 100
"""Trials of the search on CIFAR-100."""

TRIALS = 50
"""Trials of a search on CIFAR-10."""

AT = (10, 25, 50)
"""Trials after which the regret is told."""


def config(table: Path, name: str, controller: str, seed: int, trials: int, **more: Any) -> SearchConfig:
    """Return a search in the table; `more` has at least the column of its scores, `metric`."""
    evaluator = {"name": "tabular", "table": str(table), "metric": more.pop("metric")}
    return validate(
        {
            "name": name,
            "space": "nasbench201",
            "controller": controller,
            "evaluator": evaluator,
            "seed": seed,
            "trials": trials,
            **more,
        }
    )


def searched(store: Store, configs: Sequence[SearchConfig]) -> list[Search]:
    """Return the searches, run."""

    def drive(row: Search, config: SearchConfig, tasks: ScoreSource) -> str:
        driver = SearchDriver(store, row, config, config.make_space(), tasks, Silent())
        return driver.run(executor(config, tasks))

    rows = {row.name: row for row in run(store, configs, drive).searches}
    return [rows[config.name or ""] for config in configs]


def regrets(store: Store, row: Search, table: pd.DataFrame) -> dict[str, list[float]]:
    """Return what the best by validation so far falls short of the best of the table, after `AT` trials."""
    space = validate(row.config).make_space()
    trials = [(t.score, space.encode(space.decode(t.architecture or ""))) for t in store.trials(row.id)]
    valid, test = table["c10_valid_12"], table["c10_test_200"]
    found: dict[str, list[float]] = {"valid": [], "test": []}
    for count in AT:
        score, architecture = max(trial for trial in trials[:count] if trial[0] is not None)
        found["valid"].append(float(valid.max() - score))
        found["test"].append(float(test.max() - test[architecture]))
    return found


def measured(store: Store, table: Path, controllers: Sequence[str], seeds: int, best: int) -> dict[str, Any]:
    """Return the regrets of all searches: by controller, without and with a warm start, by seed."""
    frame = pd.read_csv(table).set_index("arch")
    sources = [
        config(table, f"source-{seed}", "evolution", seed, BEFORE, metric="c100_valid_12")
        for seed in range(seeds)
    ]
    searched(store, sources)
    found: dict[str, Any] = {}
    for controller in controllers:
        found[controller] = {}
        for kind in ("cold", "warm"):
            configs = []
            for seed in range(seeds):
                warm = {"searches": [f"source-{seed}"], "trials": best}
                more = {"warm_start": warm} if kind == "warm" else {}
                name = f"{kind}{best if more else ''}-{controller}-{seed}"
                # Another seed than the source's: the first random networks are not to be the same.
                configs.append(
                    config(table, name, controller, seeds + seed, TRIALS, metric="c10_valid_12", **more)
                )
            rows = searched(store, configs)
            found[controller][kind] = [regrets(store, row, frame) for row in rows]
    return found


def report(found: dict[str, Any], seeds: int, best: int, table: Path) -> dict[str, Any]:
    """Return all that the page shows."""
    frame = pd.read_csv(table)
    results = []
    for controller, kinds in found.items():
        for place, count in enumerate(AT):
            row: dict[str, Any] = {"controller": controller, "trials": count}
            for of in ("valid", "test"):
                values = {kind: [one[of][place] for one in every] for kind, every in kinds.items()}
                for kind, every in values.items():
                    row[f"{of}_{kind}"] = statistics.fmean(every)
                    row[f"{of}_{kind}_ci95"] = half_width_over_seeds(every)
                row[f"{of}_p"] = mann_whitney(values["cold"], values["warm"])
            results.append(row)
    return {
        "command": f"python benchmarks/warm_start.py --seeds {seeds} --best {best} --controllers "
        + " ".join(found),
        "environment": environment(),
        "seeds": seeds,
        "best": best,
        "before": BEFORE,
        "spearman": spearman(frame["c10_valid_12"].tolist(), frame["c100_valid_12"].tolist()),
        "results": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=at_least(1), default=100)
    parser.add_argument("--best", type=at_least(1), default=8, help="networks that are tried first")
    parser.add_argument("--controllers", nargs="+", default=list(CONTROLLERS))
    parser.add_argument("--table", type=Path, help="by default nasbench201/nasbench201.csv.gz in NAS_DATA")
    parser.add_argument("--db", default="sqlite:///warm_start.db")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    table = arguments.table or data(parser, "nasbench201/nasbench201.csv.gz")
    with Store(arguments.db, create=True) as store:
        found = measured(store, table, arguments.controllers, arguments.seeds, arguments.best)
    made = report(found, arguments.seeds, arguments.best, table)
    arguments.output.with_suffix(".json").write_text(json.dumps(made, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(page(made))


def page(made: dict[str, Any]) -> str:
    lines = [
        "# Warm starts",
        "",
        f"`{made['command']}`",
        "",
        "Searches on NAS-Bench-201 by the CIFAR-10 validation accuracy after 12 epochs, without and with a",
        f"warm start from a search by that of CIFAR-100: evolution, {made['before']} trials, the same search",
        f"for all controllers. With it, the first {made['best']} trials are the best networks of it.",
        "Regret: how far, in points, the best network so far by validation is below the best of the table,",
        "in validation accuracy and in test accuracy after 200 epochs. Means over",
        f"{made['seeds']} seeds with half of their 95 % interval. p: two-sided Mann-Whitney test.",
        "",
        "| controller | trials | validation, cold | warm | p | test, cold | warm | p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in made["results"]:
        cells = [row["controller"], str(row["trials"])]
        for of in ("valid", "test"):
            cells += [interval(row, f"{of}_{kind}") for kind in ("cold", "warm")] + [f"{row[f'{of}_p']:.1e}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Over the whole table, the rank correlation of both signals is {made['spearman']:.3f}. The trials",
        "of the earlier search are not counted: they were paid for, for another task.",
        "",
    ]
    return "\n".join(lines)


def interval(row: dict[str, Any], of: str) -> str:
    half = row[f"{of}_ci95"]
    return f"{row[of]:.2f}" + ("" if half is None else f" ± {half:.2f}")


if __name__ == "__main__":
    main()
