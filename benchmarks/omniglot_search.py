"""Random search and regularized evolution look for a cell on Omniglot; both Conv-4 have the same budget.

    NAS_DATA=… python benchmarks/omniglot_search.py -o docs/results/omniglot_search

Three seeds each, 60 trials a search: 20-way 1-shot, prototypical learner, 300 training episodes a trial,
scored on the 200 validation episodes that all trials share. `conv4` has strides, as in MAML; `conv4_pool`
pools, as in the learner's paper. Each line of the table is one `nas run`; what is in the database already is
not run again. Writes FILE.json and FILE.md.

    NAS_DATA=… python benchmarks/omniglot_search.py -o docs/results/omniglot_search --add conv4_pool

runs these alone, and puts their lines into the recorded FILE.json, with an environment of their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from arguments import at_least
from shell import nas

from nas.evaluation.published import published
from nas.training.provenance import environment

TASK = [
    "--tasks=omniglot",
    "--set=tasks.ways=20",
    "--learner=prototypical",
    "--set=budget.train_episodes=300",
]
CELLS = ["--space=nasbench201", "--trials=60", "--workers=2", *TASK]
CONV4 = ["--space=chain", "--controller=fixed", "--trials=1", "--workers=1", *TASK]
SEARCHES = {
    "random": ["--controller=random", *CELLS],
    "evolution": ["--controller=evolution", *CELLS],
    **{
        name: [
            f"--set=controller.architectures={json.dumps([published()[name].architecture])}",
            *(f"--set=space.{key}={value}" for key, value in published()[name].settings.items()),
            *CONV4,
        ]
        for name in ("conv4", "conv4_pool")
    },
}


def rows_of(name: str, db: str) -> list[dict[str, Any]]:
    return list(json.loads(nas("show", name, "-f", "json", db=db))["trial_rows"])


def interval(values: list[float]) -> str:
    return f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


def measured(label: str, seed: int, known: set[str], db: str) -> dict[str, Any]:
    """Return what a search came to, after running it if it is not known."""
    name = f"{label}-{seed}"
    if name in known:
        nas("resume", name, db=db)
    else:
        nas("run", *SEARCHES[label], f"--seed={seed}", f"--name={name}", db=db)
    trials = rows_of(name, db)
    best = max((trial for trial in trials if trial["score"] is not None), key=lambda trial: trial["score"])
    return {
        "search": name,
        "method": label,
        "seed": seed,
        "trials": len(trials),
        "trained": sum(trial["state"] == "completed" for trial in trials),
        "worker_seconds": sum(trial["seconds"] or 0 for trial in trials),
        "best": best["score"],
        "best_ci95": best["ci95"],
        "best_architecture": best["architecture"],
        "best_parameters": best["parameters"],
        "best_macs": best["macs"],
        "scores": [trial["score"] for trial in trials],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[1, 2, 3])
    parser.add_argument("--add", nargs="+", choices=SEARCHES, help="these alone, into the recorded FILE.json")
    parser.add_argument("--db", default="sqlite:///omniglot_search.db")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()

    db, output = arguments.db, arguments.output
    nas("db", "upgrade", db=db)
    known = {row["search"] for row in json.loads(nas("ls", "--limit=0", "-f", "json", db=db))}
    labels = arguments.add or list(SEARCHES)
    results = [measured(label, seed, known, db) for seed in arguments.seeds for label in labels]
    command = f"python benchmarks/omniglot_search.py --seeds {' '.join(map(str, arguments.seeds))}"
    report: dict[str, Any] = {"command": command, "environment": environment(), "results": results}
    if arguments.add:
        added = report | {"command": f"{command} --add {' '.join(labels)}"}
        report = json.loads(output.with_suffix(".json").read_text())
        others = [one for one in report.get("added", ()) if one["results"][0]["method"] not in labels]
        report["added"] = [*others, added]
    output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    output.with_suffix(".md").write_text(table(report))


def every_row(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all results by seed, those that were added too."""
    rows = [row for part in (report, *report.get("added", ())) for row in part["results"]]
    return sorted(rows, key=lambda row: row["seed"])


def methods(report: dict[str, Any]) -> str:
    return ", ".join(dict.fromkeys(row["method"] for row in report["results"]))


def table(report: dict[str, Any]) -> str:
    results = every_row(report)
    lines = [
        "# Random search, regularized evolution and both Conv-4 on Omniglot\n",
        f"`{report['command']}`\n",
        "20-way 1-shot, Vinyals split, prototypical learner, transductive batch norm, 300 training episodes",
        "a trial; accuracy in % on 200 validation episodes that all trials share, ± half the 95 % interval",
        "over episodes. `trained` counts trials that cost a worker; the others reused the score of an",
        "isomorphic cell. The best of a search is chosen on these very episodes and among trainings with",
        "one seed each: both flatter it, the seed more. Nothing was measured",
        "on test classes. conv4 has strides, as in MAML; conv4_pool pools, as in the learner's paper.\n",
        *(f"{methods(added)}: by `{added['command']}`.\n" for added in report.get("added", ())),
        "| search | trials | trained | seconds | best | mean | parameters | MACs | architecture |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        mean = statistics.mean(score for score in row["scores"] if score is not None)
        best = f"{100 * row['best']:.1f} ± {100 * row['best_ci95']:.1f}"
        cost = f"{row['best_parameters'] / 1e3:.1f}k | {row['best_macs'] / 1e6:.1f}M"
        architecture = row["best_architecture"].replace("|", "\\|")
        lines.append(
            f"| {row['search']} | {row['trials']} | {row['trained']} | {row['worker_seconds']:.0f} | {best} "
            f"| {100 * mean:.1f} | {cost} | `{architecture}` |"
        )
    lines += ["", "Best over the seeds, mean ± standard deviation:", ""]
    for method in dict.fromkeys(row["method"] for row in results):
        values = [row["best"] for row in results if row["method"] == method]
        if len(values) > 1:
            lines.append(f"- {method}: {interval(values)} ({len(values)} seeds)")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
