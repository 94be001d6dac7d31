"""All controllers on Omniglot at equal cost, then the best network of each on test classes, beside Conv-4.

    NAS_DATA=… python benchmarks/omniglot_controllers.py -o docs/results/controllers

The searches are those of `nas benchmark examples/omniglot.toml`: 20-way 1-shot, prototypical learner, three
seeds of each controller, one search after the other, each with the same worker-seconds. The best network of
each controller by its validation score is then trained to a full budget over three seeds. What is in the
database already is not run again. Writes FILE.json, FILE.md and FILE.png; with `--draw` the last two alone,
from FILE.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from curves import drawn, recorded
from shell import nas

from nas.provenance import environment
from search_spaces.few_shot import FewShot

CONFIG = Path(__file__).parents[1] / "examples" / "omniglot.toml"
FULL = [
    *["--train-episodes=3000", "--validate-every=500", "--validation-episodes=400", "--patience=0"],
    "--set=learner.schedule=cosine",
]


def searches(db: str) -> dict[str, list[str]]:
    """Return the names of each controller's searches, by seed."""
    found: dict[str, list[str]] = {}
    for row in reversed(json.loads(nas("ls", "--limit=0", "-f", "json", db=db))):
        benchmark, _, rest = row["search"].partition("-")
        if benchmark == CONFIG.stem:
            found.setdefault(rest.rpartition("-")[0], []).append(row["search"])
    return found


def best(name: str, db: str) -> dict[str, Any]:
    """Return the trial of a search with the best validation score."""
    trials = json.loads(nas("show", name, "-f", "json", db=db))["trial_rows"]
    trial = max((trial for trial in trials if trial["score"] is not None), key=lambda trial: trial["score"])
    wanted = ("score", "ci95", "architecture", "parameters", "macs")
    return {"target": f"{name}/{trial['trial']}", **{key: trial[key] for key in wanted}}


def page(report: dict[str, Any], picture: str) -> str:
    lines = [
        "# Controllers on Omniglot at equal cost",
        "",
        f"`{report['command']}`",
        "",
        "20-way 1-shot, Vinyals split, prototypical learner, transductive batch norm, space `few_shot`, 300",
        "training episodes a trial; accuracy in % on 200 validation episodes that all trials share. Each",
        f"search had {report['cost']:.0f} worker-seconds of one core, a supernet's training included. Best",
        "score at that cost, mean ± standard deviation over seeds (half of the mean's 95 % interval in",
        "brackets): it is chosen on the very episodes reported, which flatters it. Each seed's best is",
        "that of its whole search, whose last trial may end beyond the common cost. p: two-sided Mann-",
        "Whitney test against random search, which over three seeds is never below 0.1. ρ: Spearman's rank",
        "correlation of scores with shared weights and from scratch, mean over seeds: over the first",
        "networks of random search under the same seed, which nobody selected; and among what a supernet",
        "derived and the time allowed to train, its own selection, whose shared scores hardly differ.",
        "",
        "| controller | seeds | trials | reused | best | each seed's | p | ρ, random (pairs) "
        "| ρ, own (pairs) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for label, row in zip(report["best"], report["compared"], strict=True):
        p = "" if row["p_score"] is None else f"{row['p_score']:.2f}"
        each = " / ".join(percent(one["score"]) for one in report["best"][label])
        interval = f"{percent(row['score'])} ± {percent(row['score_std'])} ({percent(row['score_ci95'])})"
        lines.append(
            f"| {label} | {row['searches']} | {row['trials']:.1f} | {row['reused']:.1f} "
            f"| {interval} | {each} | {p} | {correlation(row, '_random')} | {correlation(row, '')} |"
        )
    lines += [
        "",
        f"![Best validation accuracy over worker time]({picture})",
        "",
        "## Supernets",
        "",
        "Skips: skip connections, of 6 edges, in what it would have derived when its training ended; with 4",
        "`darts` counts as collapsed and ends early.",
        "",
        "| search | skips | ended early | ρ, random (pairs) | ρ, own (pairs) |",
        "|---|---|---|---|---|",
    ]
    for row in report["compared"]:
        for one in row["supernets"]:
            skips = "" if one["skips"] is None else one["skips"]
            rhos = f"{correlation(one, '_random')} | {correlation(one, '')}"
            lines.append(f"| {one['search']} | {skips} | {one['ended_early'] or 'no'} | {rhos} |")
    lines += [
        "",
        "## The best of each, on test classes",
        "",
        "The network with the best validation score of each controller's searches, trained from scratch by",
        f"`nas evaluate --seeds 3 {' '.join(FULL)}`:",
        "accuracy in % on 1,000 test episodes, mean over three training seeds ± half of the 95 % interval",
        "over seeds (over episodes in brackets), and its difference from Conv-4, paired by seed and episode.",
        "The weights kept are those with the best validation score; test classes were seen once, at the end.",
        "",
        "| found by | trial | parameters | MACs | validation | test | less Conv-4 | architecture |",
        "|---|---|---|---|---|---|---|---|",
    ]
    space, found = FewShot(), dict[str, list[str]]()
    for group, trials in report["best"].items():
        winner = space.decode(max(trials, key=lambda trial: trial["score"])["architecture"])
        found.setdefault(space.canonical(winner), []).append(group)
    for row in sorted(report["evaluated"], key=lambda row: -row["test_score"]):
        groups = ", ".join(found.get(row["key"], ["(Conv-4)"]))
        trial = "" if row["search"] is None else f"{row['search']}/{row['trial']}"
        less = "" if row["difference"] is None else interval_of(row, "difference", "difference_")
        architecture = row["architecture"].replace("|", "\\|")
        lines.append(
            f"| {groups} | {trial} | {row['parameters'] / 1e3:.1f}k | {row['macs'] / 1e6:.1f}M "
            f"| {percent(row['validation_score'])} | {interval_of(row, 'test_score', '')} | {less} "
            f"| `{architecture}` |"
        )
    return "\n".join([*lines, ""])


def correlation(row: dict[str, Any], over: str) -> str:
    return "" if row[f"rho{over}"] is None else f"{row[f'rho{over}']:.2f} ({row[f'pairs{over}']})"


def interval_of(row: dict[str, Any], value: str, prefix: str) -> str:
    seeds, episodes = (percent(row[f"{prefix}ci95_{over}"]) for over in ("seeds", "episodes"))
    return f"{percent(row[value])} ± {seeds} ({episodes})"


def percent(value: float | None) -> str:
    return "?" if value is None else f"{100 * value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--db", default="sqlite:///controllers.db")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--draw", action="store_true", help="draw FILE.png and write FILE.md from FILE.json")
    arguments = parser.parse_args()
    if arguments.draw:
        report = json.loads(arguments.output.with_suffix(".json").read_text())
        if "curves" not in report:
            parser.error("FILE.json is from before curves were recorded; run the benchmark again.")
        write(report, arguments.output)
        return
    db, output = arguments.db, arguments.output
    nas("db", "upgrade", db=db)
    compared = json.loads(nas("benchmark", str(CONFIG), "-f", "json", db=db))
    of_controller = {label: [best(name, db) for name in names] for label, names in searches(db).items()}
    winners = [max(trials, key=lambda trial: trial["score"])["target"] for trials in of_controller.values()]
    options = ["--baseline=conv4", "--seeds=3", *FULL, "--format=json"]
    evaluated = json.loads(nas("evaluate", *winners, *options, db=db))
    report = {
        "command": "python benchmarks/omniglot_controllers.py",
        "environment": environment(),
        "cost": compared[0]["cost"],
        "compared": compared,
        "best": of_controller,
        "evaluated": evaluated,
        "curves": recorded(db, [f"{CONFIG.stem}-*"]),
    }
    output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    write(report, output)


def write(report: dict[str, Any], output: Path) -> None:
    """Write the page and the picture of a report."""
    picture = output.with_suffix(".png")
    drawn(report["curves"], picture)
    output.with_suffix(".md").write_text(page(report, picture.name))


if __name__ == "__main__":
    main()
