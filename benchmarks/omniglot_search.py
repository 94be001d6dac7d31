"""Random search and regularized evolution look for a cell on Omniglot, beside Conv-4 under the same budget.

    NAS_DATA=… python benchmarks/omniglot_search.py -o docs/results/omniglot_search

Three seeds each, 60 trials a search: 20-way 1-shot, prototypical learner, 300 training episodes a trial,
scored on the 200 validation episodes that all trials share. Each line of the table is one `nas run`; what is
in the database already is not run again. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from arguments import at_least
from shell import nas

from nas.provenance import environment

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
    "conv4": ['--set=controller.architectures=["conv4"]', *CONV4],
}


def rows_of(name: str, db: str) -> list[dict[str, Any]]:
    return list(json.loads(nas("show", name, "-f", "json", db=db))["trial_rows"])


def interval(values: list[float]) -> str:
    return f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[1, 2, 3])
    parser.add_argument("--db", default="sqlite:///omniglot_search.db")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()

    nas("db", "upgrade", db=arguments.db)
    known = {row["search"] for row in json.loads(nas("ls", "--limit=0", "-f", "json", db=arguments.db))}
    results = []
    for seed in arguments.seeds:
        for label, options in SEARCHES.items():
            name = f"{label}-{seed}"
            if name in known:
                nas("resume", name, db=arguments.db)
            else:
                nas("run", *options, f"--seed={seed}", f"--name={name}", db=arguments.db)
            trials = rows_of(name, arguments.db)
            scored = [trial for trial in trials if trial["score"] is not None]
            best = max(scored, key=lambda trial: trial["score"])
            results.append(
                {
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
            )
    command = f"python benchmarks/omniglot_search.py --seeds {' '.join(map(str, arguments.seeds))}"
    report = {"command": command, "environment": environment(), "results": results}
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(table(results, command))


def table(results: list[dict[str, Any]], command: str) -> str:
    lines = [
        "# Random search, regularized evolution and Conv-4 on Omniglot\n",
        f"`{command}`\n",
        "20-way 1-shot, Vinyals split, prototypical learner, transductive batch norm, 300 training episodes",
        "a trial; accuracy in % on 200 validation episodes that all trials share, ± half the 95 % interval",
        "over episodes. `trained` counts trials that cost a worker; the others reused the score of an",
        "isomorphic cell. The best of a search is chosen on these very episodes, which flatters it; nothing",
        "was measured on test classes.\n",
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
