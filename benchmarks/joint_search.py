"""Does it pay to choose a learner's settings together with the network? At equal worker seconds.

    NAS_DATA=… python benchmarks/joint_search.py -o docs/results/joint_search

Omniglot 20-way 1-shot, `few_shot` × the prototypical learner's `lr` and `schedule` × `tasks.train_ways`, as
examples/joint.toml has it, and the same without its slots: the network alone, under the settings' defaults.
Random search and evolution, three seeds each, one search after the other. What is in the database already is
not run again. Writes FILE.json, FILE.md and FILE.png; with `--draw` the last two alone, from FILE.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from curves import drawn, recorded
from shell import nas

from nas.comparison.ranks import mann_whitney
from nas.training.provenance import environment

CONFIG = Path(__file__).parents[1] / "examples" / "joint.toml"
TITLES = {"joint": "jointly", "alone": "the network alone"}

SLOTS = "[slots."
"""How the tables begin that stand at the end of the file: without them it searches the network alone."""


def searched(text: str, name: str, db: str) -> list[str]:
    """Run a benchmark of the given text under a name; return the names of its searches."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{name}.toml")
        file.write_text(text)
        nas("benchmark", str(file), "--format=json", db=db)
    rows = json.loads(nas("ls", "--limit=0", "--format=json", db=db))
    return sorted(row["search"] for row in rows if row["search"].startswith(f"{name}-"))


def best(name: str, db: str) -> dict[str, Any]:
    """Return the trial of a search with the best validation score, and what the search spent."""
    trials = json.loads(nas("show", name, "--format=json", db=db))["trial_rows"]
    scored = [trial for trial in trials if trial["score"] is not None]
    winner = max(scored, key=lambda trial: trial["score"])
    return {
        "search": name,
        "scored": len(scored),
        "seconds": sum(trial["seconds"] for trial in trials if trial["reused"] is None),
        **{key: winner[key] for key in ("trial", "score", "ci95", "parameters", "macs", "architecture")},
    }


def page(report: dict[str, Any], picture: str) -> str:
    lines = [
        "# A learner's settings chosen together with the network",
        "",
        f"`{report['command']}`",
        "",
        textwrap.fill(
            "Omniglot 20-way 1-shot, Vinyals split, prototypical learner, space `few_shot`, 300 "
            "training episodes a trial. Joint searches choose the learner's `lr` (0.0005, 0.001, "
            "0.002, 0.004) and `schedule` (constant, cosine) and `tasks.train_ways` (20, 40, 60), "
            "too; the others choose the network alone, under the defaults (0.002, constant, 20). Each "
            "search has the same worker-seconds of one core: a trial with more ways takes longer, and "
            f"counts in full. Compared at {report['cost']:.0f} s. Accuracy in % on 200 validation "
            "episodes that all trials share: the best score at that cost, mean ± standard deviation "
            "over three seeds (half of the mean's 95 % interval in brackets). Each seed's best is "
            "that of its whole search. p: two-sided Mann-Whitney test on these; over three seeds it "
            "is never below 0.1.",
            100,
        ),
        "",
        "| search | trials | best | each seed's | p, against random | p, against the network alone |",
        "|---|---|---|---|---|---|",
    ]
    scores = {kind: [one["score"] for one in rows] for kind, rows in report["best"].items()}
    for kind, row in report["compared"].items():
        what, controller = kind.split("-")
        others = {"random": f"{what}-random", "alone": f"alone-{controller}"}.values()
        tests = [
            "" if other == kind else f"{mann_whitney(scores[kind], scores[other]):.2f}" for other in others
        ]
        half = "?" if row["score_ci95"] is None else f"{100 * row['score_ci95']:.1f}"
        lines.append(
            f"| {controller}, {TITLES[what]} | {row['trials']:.1f} "
            f"| {100 * row['score']:.1f} ± {100 * row['score_std']:.1f} ({half}) "
            f"| {' / '.join(f'{100 * score:.1f}' for score in scores[kind])} | {' | '.join(tests)} |"
        )
    lines += ["", f"![Best validation accuracy over worker time]({picture})", "", "## What was best", ""]
    lines += ["| search | trial | score | candidate |", "|---|---|---|---|"]
    for rows in report["best"].values():
        for row in rows:
            candidate = row["architecture"].replace("|", "\\|")
            score = f"{100 * row['score']:.1f} ± {100 * row['ci95']:.1f}"
            lines.append(f"| {row['search']} | {row['trial']} | {score} | `{candidate}` |")
    return "\n".join([*lines, ""])


def write(report: dict[str, Any], output: Path) -> None:
    picture = output.with_suffix(".png")
    output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    drawn(report["curves"], picture)
    output.with_suffix(".md").write_text(page(report, picture.name))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--db", default="sqlite:///joint_search.db")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--draw", action="store_true", help="draw FILE.png and write FILE.md from FILE.json")
    arguments = parser.parse_args()
    if arguments.draw:
        write(json.loads(arguments.output.with_suffix(".json").read_text()), arguments.output)
        return
    db, joint = arguments.db, CONFIG.read_text()
    nas("db", "upgrade", db=db)
    alone = joint[: joint.index(SLOTS)]
    names = [*searched(alone, "alone", db), *searched(joint, "joint", db)]
    compared = json.loads(nas("compare", "alone-*", "joint-*", "--format=json", db=db))
    kinds = {f"{'joint' if '×' in row['group'] else 'alone'}-{row['controller']}": row for row in compared}
    report = {
        "command": "python benchmarks/joint_search.py",
        "environment": environment(),
        "cost": compared[0]["cost"],
        "compared": kinds,
        "best": {kind: [best(name, db) for name in names if name.startswith(f"{kind}-")] for kind in kinds},
        "curves": recorded(db, ["alone-*", "joint-*"]),
    }
    write(report, arguments.output)


if __name__ == "__main__":
    main()
