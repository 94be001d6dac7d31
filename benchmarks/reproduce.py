"""Published few-shot results, each reproduced by one `nas evaluate`.

    pip install matplotlib
    NAS_DATA=… python benchmarks/reproduce.py prototypical-20w1s maml-5w1s -o docs/results/reproduced

The network is the paper's Conv-4 with strides (Finn et al. 2017, section 5.2), the classes are the split of
Vinyals et al. (2016), each rotation a class of its own; weights are chosen on validation classes, and scored
once on 1,000 test episodes. What is in the database already is not run again. Writes FILE.json and FILE.md,
which keep the results of other names, and FILE.png, the validation scores along the way with the papers'
test accuracy. Without a name, the last two are made anew from FILE.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nas.storage.store import Store
from nas.training.provenance import environment


@dataclass(frozen=True)
class Paper:
    """What a paper reports, in percent, and the command that reproduces it."""

    accuracy: float
    source: str
    arguments: str


_POOLING = "--set space.downsample=pool"
_COSINE = "--set learner.schedule=cosine"
_FIVE = "--set tasks.ways=5 --set tasks.train_queries=5"
_ADAPTING = f"{_FIVE} --set learner.meta_batch=4 --set learner.lr=2e-3 {_COSINE}"
_COMPARING = f"--set tasks.train_ways=60 --set tasks.train_queries=5 {_COSINE}"


def _episodes(train: int, validations: int = 10) -> str:
    return f"--train-episodes {train} --validate-every {train // validations} --patience 0"


REPRODUCTIONS = {
    "prototypical-20w1s": Paper(
        96.0,
        "Snell et al. 2017, table 1",
        f"--learner prototypical {_POOLING} --set tasks.ways=20 {_COMPARING} {_episodes(4000)}",
    ),
    "prototypical-5w1s": Paper(
        98.8,
        "Snell et al. 2017, table 1",
        f"--learner prototypical --set tasks.ways=5 {_COMPARING} {_episodes(8000)}",
    ),
    "maml-5w1s": Paper(
        98.7,
        "Finn et al. 2017, table 1",
        f"--learner maml --set learner.inner_lr=1 --set learner.test_steps=3 {_ADAPTING} {_episodes(250000)}",
    ),
    "fomaml-5w1s": Paper(
        98.3,
        "Nichol et al. 2018, table 2",
        f"--learner maml --set learner.order=1 {_ADAPTING} {_episodes(50000)}",
    ),
    "meta_sgd-5w1s": Paper(
        99.5, "Li et al. 2017, table 2", f"--learner meta_sgd {_ADAPTING} {_episodes(12000)}"
    ),
    "anil-5w1s": Paper(
        98.7,
        "MAML of Finn et al. 2017: Raghu et al. have no Omniglot",
        f"--learner anil {_ADAPTING} {_episodes(15000)}",
    ),
    "matching-5w1s": Paper(
        98.1,
        "Vinyals et al. 2016, table 1",
        f"--learner matching --set tasks.ways=5 {_COMPARING} {_episodes(4000)}",
    ),
    "relation-5w1s": Paper(
        99.6,
        "Sung et al. 2018, table 1",
        f"--learner relation --set tasks.ways=5 --set tasks.train_ways=20 --set tasks.train_queries=5 "
        f"{_COSINE} {_episodes(5000)}",
    ),
    "reptile-5w1s": Paper(
        97.7,
        "Nichol et al. 2018, table 2, with transduction",
        f"--learner reptile --set tasks.ways=5 --set tasks.train_shots=10 --set tasks.train_queries=1 "
        f"{_episodes(10000, validations=2)}",
    ),
}


_FINN = "of the 1.92 million tasks that Finn et al. trained on"
NOTES = {
    "prototypical-20w1s": "trained on the 4,112 training classes alone; the paper's last training adds "
    "the 688 validation classes.",
    "prototypical-5w1s": "a quarter of the paper's MACs an image: strides, where the paper pools.",
    "maml-5w1s": f"13 % {_FINN}. Every weight adapts; in their code those of batch norm do not.",
    "fomaml-5w1s": f"3 % {_FINN}.",
    "anil-5w1s": f"1 % {_FINN}.",
    "meta_sgd-5w1s": f"1 % {_FINN}.",
    "matching-5w1s": "cosine, without full-context embeddings; strides, where the paper pools.",
    "relation-5w1s": "0.5 % of the million episodes of the authors' code. Our relation module compares "
    "vectors of features, the paper's compares maps place by place.",
    "reptile-5w1s": "2 % of the paper's 100,000 steps of 5 tasks; most of the time with less than a tenth of "
    "the core.",
}


def evaluate(name: str, seeds: int, db: str) -> dict[str, Any]:
    """Run `nas evaluate`, or read what it found before; return its row and the validation curves."""
    command = [sys.executable, "-m", "nas", "evaluate", "chain:conv4", "--tasks", "omniglot"]
    command += [*REPRODUCTIONS[name].arguments.split(), "--seeds", str(seeds)]
    asked = [*command, "--workers", "1", "-f", "json", "--db", db]
    print(shlex.join(asked), file=sys.stderr)
    done = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(asked)} ended with {done.returncode}")
    row = json.loads(done.stdout)[0]
    with Store(db) as store:
        runs = [
            run
            for run in store.evaluations.of_network(row["space"], row["key"])
            if run.settings == row["settings"] and run.seed < seeds
        ]
        curves = [
            [
                (step, value)
                for metric, step, value in store.evaluations.measurements(run.id)
                if metric == "validation_score"
            ]
            for run in runs
        ]
    return {
        "command": shlex.join(["nas", *command[3:]]),
        "environment": environment(),
        **{key: row[key] for key in FIELDS},
        "validation_curves": curves,
    }


FIELDS = (
    "test_score",
    "ci95_episodes",
    "ci95_seeds",
    "test_episodes",
    "seeds",
    "validation_score",
    "normalization",
    "train_episodes",
    "best_episodes",
    "seconds",
    "parameters",
    "macs",
)


def report(results: dict[str, Any]) -> str:
    lines = [
        "# Published results, reproduced on Omniglot",
        "",
        "`python benchmarks/reproduce.py " + " ".join(results) + "`",
        "",
        "Test accuracy in percent on 1,000 episodes of the test classes of Vinyals et al. (2016), a rotation",
        "being a class; ± is the half width of the 95 % interval over episodes. Batch norm is transductive.",
        "",
        "| | ours | paper | seeds | training tasks | minutes on one core |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        ours = f"{100 * found['test_score']:.1f} ± {100 * found['ci95_episodes']:.1f}"
        paper = REPRODUCTIONS[name]
        lines.append(
            f"| {name} | {ours} | {paper.accuracy} ({paper.source}) | {found['seeds']} | "
            f"{found['train_episodes']:,.0f} | {found['seconds'] / 60:.0f} |"
        )
    lines += ["", "The minutes were taken while other work ran on the machine.", ""]
    lines += [f"- {name}: {NOTES[name]}" for name in results if name in NOTES]
    lines += ["", "![Validation accuracy along the way](reproduced.png)", ""]
    return "\n".join(lines)


def draw(results: dict[str, Any]) -> Figure:
    """Draw the curves of a results file, each paper's accuracy to their right in its curve's colour."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, (name, found) in enumerate(results.items()):
        for number, curve in enumerate(found["validation_curves"]):
            share = [step / curve[-1][0] for step, _ in curve]
            label = f"{name} ({found['train_episodes']:,.0f} tasks)" if number == 0 else None
            values = [100 * value for _, value in curve]
            axes.plot(share, values, color=f"C{place}", marker=".", label=label)
        accuracy = REPRODUCTIONS[name].accuracy
        axes.plot(1.04 + 0.02 * place, accuracy, "D", color=f"C{place}", markersize=4, fillstyle="none")
    axes.plot([], [], "D", color="#777777", markersize=4, fillstyle="none", label="the paper's test accuracy")
    axes.set(xlabel="share of the training tasks", ylabel="validation accuracy, %")
    axes.set_xticks([0.2, 0.4, 0.6, 0.8, 1.0])
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(REPRODUCTIONS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--db", default="sqlite:///reproduce.db")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in REPRODUCTIONS]:
        parser.error(f"{', '.join(unknown)}: there is {', '.join(REPRODUCTIONS)}.")
    file = arguments.output.with_suffix(".json")
    results = json.loads(file.read_text()) if file.exists() else {}
    for name in arguments.names:
        results[name] = evaluate(name, arguments.seeds, arguments.db)
        results = {known: results[known] for known in REPRODUCTIONS if known in results}
        file.write_text(json.dumps(results, indent=1) + "\n")
    if not results:
        parser.error(f"{file} has no results yet; name some to run.")
    arguments.output.with_suffix(".md").write_text(report(results))
    draw(results).savefig(arguments.output.with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
