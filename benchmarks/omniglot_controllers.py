"""All controllers on Omniglot at equal cost, then the best network of each on test classes, and Conv-4.

    NAS_DATA=… python benchmarks/omniglot_controllers.py -o docs/results/controllers

The searches are those of `nas benchmark examples/omniglot.toml`: 20-way 1-shot, prototypical learner, three
seeds of each controller, one search after the other, each with the same worker-seconds. The best network of
each controller by its validation score is then trained to a full budget over three seeds, as are the Conv-4
of the learner's paper, which pools, and that of MAML, which has strides. What is in the database already is
not run again. Writes FILE.json, FILE.md and FILE.png; with `--draw` the last two alone, from FILE.json.

    NAS_DATA=… python benchmarks/omniglot_controllers.py -o docs/results/controllers --add conv4_pool

trains baselines that the recorded FILE.json lacks, under the same settings, and searches nothing. Their rows
keep an environment of their own, and are compared with the others without pairs: the scores of each episode
are not in the file.
"""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from pathlib import Path
from typing import Any

from arguments import at_least
from curves import drawn, recorded
from shell import nas
from welch import Error, half_width

from nas.evaluation.published import published
from nas.intervals import student_t
from nas.training.provenance import environment
from search_spaces.few_shot import FewShot

CONFIG = Path(__file__).parents[1] / "examples" / "omniglot.toml"
FULL = [
    *["--train-episodes=3000", "--validate-every=500", "--validation-episodes=400", "--patience=0"],
    "--set=learner.schedule=cosine",
]
PROTOCOL = ["--tasks=omniglot", "--set=tasks.ways=20", "--learner=prototypical", *FULL, "--format=json"]
BASELINES = ("conv4", "conv4_pool")
RHO = {"_random": "random", "": "own"}
"""Over what shared and own scores are correlated, by how the fields of a comparison end."""


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
    known = [over for over in RHO if any(f"rho{over}" in row for row in report["compared"])]
    titles = " | ".join(f"ρ, {RHO[over]} (pairs)" for over in known)
    lines = [
        "# Controllers on Omniglot at equal cost",
        "",
        f"`{report['command']}`",
        "",
        paragraph(
            "20-way 1-shot, Vinyals split, prototypical learner, transductive batch norm, space "
            "`few_shot`, 300 training episodes a trial; accuracy in % on 200 validation episodes that "
            f"all trials share. Each search had {report['cost']:.0f} worker-seconds of one core, a "
            "supernet's training included. Best score at that cost, mean ± standard deviation over "
            "seeds (half of the mean's 95 % interval in brackets): it is chosen among trainings with "
            "one seed each, and on the very episodes reported, both of which flatter it, the seed "
            "more. Each seed's best is that of its whole search, "
            "whose last trial may end beyond the common cost. p: two-sided Mann-Whitney test against "
            "random search, which over three seeds is never below 0.1. ρ: Spearman's rank correlation "
            "of scores with shared weights and from scratch, mean over seeds: random, over the first "
            "networks of random search under the same seed, which nobody selected; own, among what a "
            "supernet derived and the time allowed to train, its own selection, whose range is narrow. "
            + " ".join(report.get("notes", ()))
        ),
        f"| controller | seeds | trials | reused | best | each seed's | p | {titles} |",
        f"|---|---|---|---|---|---|---|{'---|' * len(known)}",
    ]
    for label, row in zip(report["best"], report["compared"], strict=True):
        p = "" if row["p_score"] is None else f"{row['p_score']:.2f}"
        each = " / ".join(percent(one["score"]) for one in report["best"][label])
        interval = f"{percent(row['score'])} ± {percent(row['score_std'])} ({percent(row['score_ci95'])})"
        lines.append(
            f"| {label} | {row['searches']} | {row['trials']:.1f} | {row['reused']:.1f} "
            f"| {interval} | {each} | {p} | {rhos(row, known)} |"
        )
    lines += [
        "",
        *([f"![Best validation accuracy over worker time]({picture})", ""] if "curves" in report else []),
        "## Supernets",
        "",
        "Skips: skip connections, of 6 edges, in what it would have derived when its training ended; with 4",
        "`darts` counts as collapsed and ends early.",
        "",
        f"| search | skips | ended early | {titles} |",
        f"|---|---|---|{'---|' * len(known)}",
    ]
    for row in report["compared"]:
        for one in row["supernets"]:
            skips = "" if one["skips"] is None else one["skips"]
            early = one["ended_early"] or "no"
            lines.append(f"| {one['search']} | {skips} | {early} | {rhos(one, known)} |")
    lines += [
        "",
        "## The best of each, on test classes",
        "",
        "The network with the best validation score of each controller's searches, trained from scratch by",
        f"`nas evaluate --seeds 3 {' '.join(FULL)}`:",
        paragraph(
            "accuracy in % on 1,000 test episodes, mean over three training seeds ± half of the 95 % "
            "interval over seeds (over episodes in brackets), and the difference from both Conv-4: "
            "paired by seed and episode; in italics by Welch's interval over seeds, where a baseline "
            "was trained later than the rest. The weights kept are those with the best validation "
            "score; test classes were seen "
            "once, at the end. " + " ".join(f"{name}: {published()[name].source}." for name in BASELINES)
        ),
        "| found by | trial | parameters | MACs | validation | test | less conv4 | less conv4_pool "
        "| architecture |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    space, found = FewShot(), dict[str, list[str]]()
    for group, trials in report["best"].items():
        winner = space.decode(max(trials, key=lambda trial: trial["score"])["architecture"])
        found.setdefault(space.canonical(winner), []).append(group)
    rows = [*report["evaluated"], *(row for added in report.get("added", ()) for row in added["rows"])]
    first = {(row["name"], row["key"]): row for row in reversed(rows)}
    baselines = {row["name"]: row for row in rows if row["name"]}
    for row in sorted(first.values(), key=lambda row: -row["test_score"]):
        groups = f"({row['name']})" if row["name"] else ", ".join(found[row["key"]])
        trial = "" if row["search"] is None else f"{row['search']}/{row['trial']}"
        paired = {one["baseline"]: one for one in rows if one["key"] == row["key"] and one["search"]}
        less = [
            interval_of(paired[name], "difference", "difference_")
            if name in paired
            else ""
            if row["name"] == name or name not in baselines
            else unpaired(row, baselines[name])
            for name in BASELINES
        ]
        architecture = row["architecture"].replace("|", "\\|")
        seeds = "" if row["seeds"] == 3 else f", {row['seeds']} seed"
        lines.append(
            f"| {groups}{seeds} | {trial} | {row['parameters'] / 1e3:.1f}k | {row['macs'] / 1e6:.1f}M "
            f"| {percent(row['validation_score'])} | {interval_of(row, 'test_score', '')} "
            f"| {' | '.join(less)} | `{architecture}` |"
        )
    for added in report.get("added", ()):
        names = ", ".join(dict.fromkeys(row["name"] for row in added["rows"]))
        seeds = " It has one seed, so that no interval over seeds is known (?)."
        lines += ["", f"{names}: by `{added['command']}`.{seeds if added['rows'][0]['seeds'] == 1 else ''}"]
    return "\n".join([*lines, ""])


def rhos(row: dict[str, Any], known: list[str]) -> str:
    pairs = [(row[f"rho{over}"], row[f"pairs{over}"]) for over in known]
    return " | ".join("" if rho is None else f"{rho:.2f} ({count})" for rho, count in pairs)


def paragraph(text: str) -> str:
    return textwrap.fill(text, 100) + "\n"


def interval_of(row: dict[str, Any], value: str, prefix: str) -> str:
    seeds, episodes = (percent(row[f"{prefix}ci95_{over}"]) for over in ("seeds", "episodes"))
    return f"{percent(row[value])} ± {seeds} ({episodes})"


def unpaired(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Return the difference of two test scores, with Welch's interval over seeds where both have several."""
    both, ci95_seeds = (one, other), None
    if all(row["seeds"] > 1 for row in both):
        errors = [Error(row["ci95_seeds"] / student_t(row["seeds"] - 1), row["seeds"]) for row in both]
        ci95_seeds = half_width(*errors)
    difference = {
        "difference": one["test_score"] - other["test_score"],
        "ci95_seeds": ci95_seeds,
        "ci95_episodes": math.hypot(*(row["ci95_episodes"] for row in both)),
    }
    return f"*{interval_of(difference, 'difference', '')}*"


def percent(value: float | None) -> str:
    return "?" if value is None else f"{100 * value:.1f}"


def add(output: Path, names: list[str], seeds: int, db: str) -> None:
    """Train baselines into a recorded report."""
    report = json.loads(output.with_suffix(".json").read_text())
    rows = json.loads(nas("evaluate", *names, f"--seeds={seeds}", *PROTOCOL, db=db))
    protocols = {row["protocol"] for row in (*rows, *report["evaluated"])}
    if len(protocols) > 1:
        raise SystemExit(f"{output}.json was measured under another protocol: {protocols}")
    others = [added for added in report.get("added", ()) if added["rows"][0]["name"] not in names]
    command = f"python benchmarks/omniglot_controllers.py --add {' '.join(names)} --seeds {seeds}"
    report["added"] = [*others, {"command": command, "environment": environment(), "rows": rows}]
    write(report, output)


def write(report: dict[str, Any], output: Path) -> None:
    """Write the numbers, the page and, where the curves were recorded, the picture."""
    picture = output.with_suffix(".png")
    output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    if "curves" in report:
        drawn(report["curves"], picture)
    output.with_suffix(".md").write_text(page(report, picture.name))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--db", default="sqlite:///controllers.db")
    parser.add_argument(
        "--add", nargs="+", choices=BASELINES, help="baselines alone, into the recorded FILE.json"
    )
    parser.add_argument("--seeds", type=at_least(1), default=3, help="trainings of what is added")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--draw", action="store_true", help="draw FILE.png and write FILE.md from FILE.json")
    arguments = parser.parse_args()
    if arguments.draw:
        report = json.loads(arguments.output.with_suffix(".json").read_text())
        write(report, arguments.output)
        return
    db, output = arguments.db, arguments.output
    nas("db", "upgrade", db=db)
    if arguments.add:
        add(output, arguments.add, arguments.seeds, db)
        return
    compared = json.loads(nas("benchmark", str(CONFIG), "-f", "json", db=db))
    of_controller = {label: [best(name, db) for name in names] for label, names in searches(db).items()}
    winners = [max(trials, key=lambda trial: trial["score"])["target"] for trials in of_controller.values()]
    beside = [f"--baseline={name}" for name in BASELINES]
    evaluated = json.loads(nas("evaluate", *winners, *beside, "--seeds=3", *FULL, "--format=json", db=db))
    report = {
        "command": "python benchmarks/omniglot_controllers.py",
        "environment": environment(),
        "cost": compared[0]["cost"],
        "compared": compared,
        "best": of_controller,
        "evaluated": evaluated,
        "curves": recorded(db, [f"{CONFIG.stem}-*"]),
    }
    write(report, output)


if __name__ == "__main__":
    main()
