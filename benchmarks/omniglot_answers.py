"""What searches on Omniglot recommend after equal worker seconds, and what the best of it is worth.

    NAS_DATA=… python benchmarks/omniglot_answers.py -o docs/results/omniglot_answers

Searches in `few_shot`, each with 900 worker seconds under five seeds; their trials are those of
few_shot_table.py. The network that a search recommends is then trained again under three seeds that no
search had, on the same tasks: its own scores in the search were selected. That with the best mean of all is
trained by the recipe of prototypical networks (Snell et al. 2017), as are both Conv-4, and scored on test
classes. What the database has is not run again. Two processes share the searches by `--part 0 2` and
`--part 1 2`; one without it does what is left, and writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shlex
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arguments import at_least, data
from few_shot_search import VARIANTS
from few_shot_table import SPACE, TRIAL
from reproduce import REPRODUCTIONS
from shell import nas, run_search
from welch import Error, half_width

from nas.intervals import half_width_over_seeds
from nas.queries.answer import answer
from nas.storage.store import Store
from nas.training.provenance import environment

BASE = "random"
METHODS = ("evolution, macs at first", "evolution", BASE)
AGAIN = (101, 102, 103)
"""Seeds of the searches that train again what was recommended."""
RECIPE = shlex.split(REPRODUCTIONS["prototypical-20w1s"].arguments.replace("--set space.downsample=pool", ""))
CONV4 = ("conv4", "conv4_pool")


def budget(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections of a trial; scores on the way are the scheduler's, if there is one."""
    score_at = [] if "scheduler" in sections else TRIAL["budget"]["score_at"]
    return {**TRIAL, "budget": {**TRIAL["budget"], "score_at": score_at}}


def searched(method: str, seed: int, seconds: float, known: set[str], db: str) -> str:
    """Make a search, or what an earlier process left of it; return its name."""
    name = f"{method.replace(', ', '-').replace(' ', '-')}-{seed}"
    whole = {"name": name, "seed": seed, "trials": 10_000, "max_seconds": seconds, "workers": 1}
    if name in known:
        nas("resume", name, db=db)
    else:
        run_search({**whole, "executor": "inline", **budget(VARIANTS[method]), **VARIANTS[method]}, db=db)
    return name


def trained(architectures: Sequence[str], known: set[str], db: str) -> dict[str, list[float]]:
    """Train networks under further seeds; return their scores on the validation tasks of all trials."""
    scores: dict[str, list[float]] = {one: [] for one in architectures}
    these = hashlib.sha256(json.dumps(list(architectures)).encode()).hexdigest()[:8]
    for seed in AGAIN:
        name = f"again-{seed}-{these}"
        if name in known:
            nas("resume", name, db=db)
        else:
            fixed = {"name": "fixed", "architectures": list(architectures)}
            whole = {"name": name, "seed": seed, "trials": len(architectures), "workers": 1}
            run_search({**whole, "executor": "inline", **TRIAL, "controller": fixed}, db=db)
        for row in json.loads(nas("show", name, "-f", "json", db=db))["trial_rows"]:
            scores[row["architecture"]].append(row["score"])
    return scores


def result(store: Store, name: str, method: str, seed: int, db: str) -> dict[str, Any]:
    """Return what a search came to."""
    recommended = answer(store, name)
    assert recommended is not None, f"{name} recommends nothing"
    trials = json.loads(nas("show", name, "-f", "json", db=db))["trial_rows"]
    return {
        "search": name,
        "method": method,
        "seed": seed,
        "trials": len(trials),
        "seconds": sum(row["seconds"] or 0 for row in trials),
        "best": max(row["score"] for row in trials if row["score"] is not None),
        "trial": recommended.trial,
        "architecture": recommended.architecture,
        "expected": recommended.expected,
    }


def less(one: Sequence[float], other: Sequence[float]) -> str:
    """Return the difference of two means, and half of its 95 % interval."""
    errors = [
        Error(statistics.stdev(values) / math.sqrt(len(values)), len(values)) for values in (one, other)
    ]
    return f"{percent(statistics.fmean(one) - statistics.fmean(other))} ± {percent(half_width(*errors))}"


def percent(value: float | None) -> str:
    return "?" if value is None else f"{100 * value:.2f}"


def page(report: Mapping[str, Any]) -> str:
    rows: list[dict[str, Any]] = report["searches"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    means = {
        method: [statistics.fmean(row["again"]) for row in rows if row["method"] == method]
        for method in methods
    }
    words = textwrap.fill(
        "Omniglot, 20-way 1-shot, Vinyals split, prototypical learner, space `few_shot`; accuracy in %. Each "
        f"search had {report['seconds']:.0f} worker seconds, one trial at a time, and trials of 300 training "
        "episodes. `recommended`: what the search recommends in the end, trained again under "
        f"{len(AGAIN)} seeds that no search had, on the 60 validation tasks of all trials; mean over "
        f"searches ± half of its 95 % interval. `less {BASE}`: the difference with its interval (Welch). "
        "`best` is the best score of a trial, which is the luckiest as well.",
        110,
    )
    lines = [
        "# What searches on Omniglot recommend",
        "",
        f"`{report['command']}`",
        "",
        words,
        "",
        f"| method | searches | trials | best | recommended | less {BASE} |",
        "|---|---|---|---|---|---|",
    ]
    for method in sorted(methods, key=lambda method: -statistics.fmean(means[method])):
        own, found = [row for row in rows if row["method"] == method], means[method]
        compared = method != BASE and BASE in means and len(found) > 1
        lines.append(
            f"| {method} | {len(own)} | {statistics.fmean(row['trials'] for row in own):.0f} "
            f"| {percent(statistics.fmean(row['best'] for row in own))} "
            f"| {percent(statistics.fmean(found))} ± {percent(half_width_over_seeds(found))} "
            f"| {less(found, means[BASE]) if compared else ''} |"
        )
    lines += [
        "",
        "## Trained to the end, on test classes",
        "",
        textwrap.fill(
            f"The recommended network with the best mean and both Conv-4, by `nas evaluate … "
            f"{report['recipe']}`, the recipe of Snell et al. (2017): mean over training seeds of the "
            "accuracy on 1,000 test episodes ± half of the 95 % interval over seeds (over episodes in "
            "brackets). Test classes chose nothing.",
            110,
        ),
        "",
        "| network | seeds | parameters | MACs | validation | test | the found one less this |",
        "|---|---|---|---|---|---|---|",
    ]
    first = {row["key"]: row for row in reversed(report["evaluated"])}
    for row in sorted(first.values(), key=lambda row: -row["test_score"]):
        test = (
            f"{percent(row['test_score'])} ± {percent(row['ci95_seeds'])} ({percent(row['ci95_episodes'])})"
        )
        others = [
            f"{percent(one['difference'])} ± {percent(one['difference_ci95_seeds'])}"
            for one in report["evaluated"]
            if one["baseline"] == row["name"] and row["name"]
        ]
        label = row["name"] or f"`{row['architecture']}`".replace("|", "\\|")
        lines.append(
            f"| {label} | {row['seeds']} | {row['parameters'] / 1e3:.1f}k | {row['macs'] / 1e6:.1f}M "
            f"| {percent(row['validation_score'])} | {test} | {', '.join(others)} |"
        )
    lines += [
        "",
        "## Searches",
        "",
        "| search | trials | seconds | best | trained again | architecture |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        again = " / ".join(map(percent, row["again"]))
        architecture = row["architecture"].replace("|", "\\|")
        lines.append(
            f"| {row['search']} | {row['trials']} | {row['seconds']:.0f} | {percent(row['best'])} | {again} "
            f"| `{architecture}` |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=VARIANTS, default=list(METHODS))
    parser.add_argument("--seeds", type=at_least(1), default=5, help="searches of each method")
    parser.add_argument("--seconds", type=float, default=900, help="worker time of a search")
    parser.add_argument("--trainings", type=at_least(1), default=3, help="full ones of a network")
    parser.add_argument(
        "--part", type=at_least(0), nargs=2, metavar=("K", "N"), help="every Nth search, from K"
    )
    parser.add_argument("--db", default="sqlite:///omniglot_answers.db")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    data(parser, "omniglot")
    db = arguments.db
    nas("db", "upgrade", db=db)
    known = {row["search"] for row in json.loads(nas("ls", "--limit=0", "--format=json", db=db))}
    every = [(method, seed) for seed in range(1, arguments.seeds + 1) for method in arguments.methods]
    part, parts = arguments.part or (0, 1)
    names = [searched(*one, arguments.seconds, known, db) for one in every[part::parts]]
    if arguments.part is not None:
        return
    with Store(db) as store:
        rows = [result(store, name, *one, db) for name, one in zip(names, every, strict=True)]
    again = trained(sorted({row["architecture"] for row in rows}), known, db)
    for row in rows:
        row["again"] = again[row["architecture"]]
    winner = max(rows, key=lambda row: statistics.fmean(row["again"]))["architecture"]
    beside = [f"--baseline={name}" for name in CONV4]
    seeds = f"--seeds={arguments.trainings}"
    evaluated = nas(
        "evaluate", f"{SPACE.name}:{winner}", *beside, *RECIPE, seeds, "--tasks=omniglot", "-f", "json", db=db
    )
    report = {
        "command": shlex.join(["python", "benchmarks/omniglot_answers.py", *sys.argv[1:]]),
        "environment": environment(),
        "seconds": arguments.seconds,
        "recipe": shlex.join(RECIPE),
        "searches": rows,
        "evaluated": json.loads(evaluated),
    }
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
