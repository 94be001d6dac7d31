"""The spaces of the founding papers on Omniglot: random networks of each, and what their own searches find.

    NAS_DATA=… python benchmarks/founding_spaces.py -o docs/results/founding_spaces

Searches run one after the other in one database; what is in it is not run again, so that the command goes on
where it was interrupted. 20-way 1-shot, Vinyals split, prototypical learner, validation classes:

- of each space, random networks under one limit of parameters, and Conv-4;
- `large_scale`: evolution from the trivial network, with weights inherited across mutations and without, at
  equal worker seconds;
- `enas_macro`: ENAS, and the correlation of scores with shared weights and from scratch over random networks;
- `hierarchical`: evolution by its own mutation against random search, at equal trials.

Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from arguments import at_least
from shell import nas

from nas.training.provenance import environment

SPACES = (
    "nasnet",
    "nasbench101",
    "nasbench201",
    "darts",
    "enas_micro",
    "enas_macro",
    "hierarchical",
    "mobile",
    "natssize",
    "resnet_like",
    "large_scale",
    "few_shot",
    "chain",
)
TASKS = ("--tasks=omniglot", "--set=tasks.ways=20", "--learner=prototypical", "--executor=inline")


class Runs:
    """Searches in a database, each run once.

    Args:
        db: its URL.
        episodes, validation: training and validation episodes of a trial.
    """

    def __init__(self, db: str, episodes: int, validation: int) -> None:
        self.db = db
        self.budget = [
            f"--set=budget.train_episodes={episodes}",
            f"--set=budget.validation_episodes={validation}",
        ]
        nas("db", "upgrade", db=db)

    def search(self, name: str, *arguments: str) -> list[dict[str, Any]]:
        """Return the trials of a search, which runs if it is not there, and goes on if it was interrupted."""
        nas("run", *arguments, *TASKS, *self.budget, f"--resume-or-start={name}", db=self.db)
        shown = json.loads(nas("show", name, "-f", "json", db=self.db))
        return list(shown["trial_rows"])


def scores(trials: list[dict[str, Any]]) -> list[float]:
    """Return the validation scores of what was trained whole."""
    return [trial["score"] for trial in trials if trial["score"] is not None and trial["state"] != "paused"]


def random_networks(runs: Runs, networks: int, limit: str) -> dict[str, Any]:
    """Return the least, the median and the best score of random networks of each space, and Conv-4's."""
    found: dict[str, Any] = {}
    for space in SPACES:
        trials = runs.search(
            f"random-{space}",
            f"--space={space}",
            "--controller=random",
            f"--trials={networks}",
            f"--set=constraints.max_parameters={limit}",
        )
        own = scores(trials)
        parameters = [trial["parameters"] for trial in trials if trial["parameters"] is not None]
        found[space] = {
            "networks": len(own),
            "least": min(own, default=None),
            "median": statistics.median(own) if own else None,
            "most": max(own, default=None),
            "parameters": statistics.median(parameters) if parameters else None,
            "seconds": sum(trial["seconds"] or 0 for trial in trials),
        }
    [conv4] = runs.search(
        "conv4",
        "--space=chain",
        "--controller=fixed",
        '--set=controller.architectures=["conv4"]',
        "--trials=1",
    )
    found["conv4"] = {key: conv4[key] for key in ("score", "ci95", "parameters", "seconds")}
    return found


def grown(runs: Runs, seconds: int, seeds: int) -> dict[str, Any]:
    """Return the best scores of large-scale evolution with inherited weights and without, by seed."""
    found: dict[str, Any] = {}
    for controller in ("lamarckian", "evolution"):
        best = []
        for seed in range(seeds):
            trials = runs.search(
                f"grown-{controller}-{seed}",
                "--space=large_scale",
                f"--controller={controller}",
                "--set=controller.start=trivial",
                f"--set=max_seconds={seconds}",
                "--trials=100000",
                f"--seed={seed}",
            )
            best.append(max(scores(trials), default=None))
        found[controller] = best
    return found


def shared(runs: Runs, networks: int, epochs: int) -> dict[str, Any]:
    """Return the best of ENAS in its macro space, and what `nas compare` says of its shared weights.

    The correlation is over the first networks of random search under the same seed, which nobody selected.
    """
    space = "--space=enas_macro"
    runs.search("macro-random", space, "--controller=random", f"--trials={networks}")
    found = runs.search(
        "macro-enas", space, "--controller=enas", "--derive=8", f"--set=controller.budget.epochs={epochs}"
    )
    rows = json.loads(nas("compare", "macro-random", "macro-enas", "-f", "json", db=runs.db))
    told = next((row for row in rows if row.get("supernets")), {})
    return {
        "pairs": told.get("pairs_random", 0),
        "rho": told.get("rho_random"),
        "best": max(scores(found), default=None),
    }


def against_random(runs: Runs, trials: int, seeds: int) -> dict[str, Any]:
    """Return the best scores of evolution and of random search in the hierarchical space, by seed."""
    return {
        controller: [
            max(
                scores(
                    runs.search(
                        f"hierarchical-{controller}-{seed}",
                        "--space=hierarchical",
                        f"--controller={controller}",
                        f"--trials={trials}",
                        f"--seed={seed}",
                    )
                ),
                default=None,
            )
            for seed in range(seeds)
        ]
        for controller in ("evolution", "random")
    }


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def page(report: dict[str, Any]) -> str:
    lines = [
        "# The founding papers' spaces on Omniglot",
        "",
        f"`{report['command']}`",
        "",
        f"20-way 1-shot, Vinyals split, prototypical learner, {report['episodes']} training episodes;",
        f"accuracy in % on validation classes. Random networks of each space under {report['limit']}",
        "parameters:",
        "",
        "| space | networks | least | median | most | parameters (median) | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for space, row in report["random"].items():
        if space == "conv4":
            lines.append(
                f"| (conv4) | 1 | | {percent(row['score'])} | | {row['parameters']} | {row['seconds']:.0f} |"
            )
            continue
        cells = (percent(row[key]) for key in ("least", "median", "most"))
        parameters = "" if row["parameters"] is None else f"{row['parameters']:.0f}"
        lines.append(
            f"| {space} | {row['networks']} | {' | '.join(cells)} | {parameters} | {row['seconds']:.0f} |"
        )
    for title, key in (
        ("Large-scale evolution, with inherited weights and without", "grown"),
        ("Hierarchical evolution against random search", "hierarchical"),
    ):
        lines += ["", f"## {title}", "", "| controller | best of each seed |", "|---|---|"]
        lines += [f"| {name} | {' / '.join(map(percent, best))} |" for name, best in report[key].items()]
    macro = report["enas_macro"]
    rho = "unknown" if macro["rho"] is None else f"{macro['rho']:.2f}"
    lines += [
        "",
        "## ENAS in its macro space",
        "",
        f"ρ of scores with shared weights and from scratch over {macro['pairs']} networks: "
        f"{rho}; best {percent(macro['best'])}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--db", default="sqlite:///founding_spaces.db")
    parser.add_argument("--networks", type=at_least(1), default=20, help="random networks of each space")
    parser.add_argument("--episodes", type=at_least(1), default=300, help="training episodes of a trial")
    parser.add_argument("--validation", type=at_least(1), default=200, help="validation episodes of a trial")
    parser.add_argument("--limit", default="100k", help="parameters of the random networks")
    parser.add_argument("--seconds", type=at_least(1), default=1800, help="of each evolution that grows")
    parser.add_argument("--derive", type=at_least(1), default=100, help="networks over which ρ is measured")
    parser.add_argument("--epochs", type=at_least(1), default=30, help="of the supernet's training")
    parser.add_argument("--trials", type=at_least(1), default=60, help="of each search in `hierarchical`")
    parser.add_argument("--seeds", type=at_least(1), default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    own = parser.parse_args()
    runs = Runs(own.db, own.episodes, own.validation)
    report = {
        "command": "python benchmarks/founding_spaces.py",
        "environment": environment(),
        "episodes": own.episodes,
        "limit": own.limit,
        "random": random_networks(runs, own.networks, own.limit),
        "grown": grown(runs, own.seconds, own.seeds),
        "enas_macro": shared(runs, own.derive, own.epochs),
        "hierarchical": against_random(runs, own.trials, own.seeds),
    }
    own.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    own.output.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
