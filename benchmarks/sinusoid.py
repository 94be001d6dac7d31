"""The sine waves of MAML, 5-shot: error after 1, 5 and 10 gradient steps, compared with pretraining.

    pip install matplotlib
    python benchmarks/sinusoid.py -o docs/results/sinusoid

Finn et al. 2017, section 5.1 and table 2: two hidden layers of 40, trained on 10 points and 10 more, 25 tasks
a meta-step; tested on 5. MAML steps as far as in training, pretraining as far as is best on validation tasks,
both as in the paper; MAML with its step tuned like pretraining's is a third row. Each method is trained under
several seeds; every seed is scored once, at its last weights, on the same 1,000 test tasks of 100 queries.
Writes FILE.json, FILE.md and FILE.png: the error on validation tasks along the way; with `--draw` the last
two alone, from FILE.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from arguments import at_least

from nas.comparison.draw import COLOURS
from nas.intervals import half_width_over_episodes, half_width_over_seeds
from nas.learners.base import query_scores
from nas.settings.evaluation import EvaluationConfig, validate
from nas.tasks.base import Episode
from nas.training.loop import Training, start
from nas.training.provenance import environment

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STEPS = (1, 5, 10)
TASKS = {"name": "sinusoid", "shots": 5, "queries": 100, "train_shots": 10, "train_queries": 10}
METHODS: dict[str, dict[str, Any]] = {
    "MAML": {"name": "maml", "meta_batch": 25, "inner_lr": 0.01, "lr": 1e-3, "schedule": "cosine"},
    "pretraining": {"name": "pretrain", "meta_batch": 25, "lr": 1e-3, "schedule": "cosine"},
}
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
ROWS: dict[str, tuple[str, tuple[float, ...]]] = {
    "MAML": ("MAML", (0.01,)),
    "MAML, step size tuned": ("MAML", RATES),
    "pretraining, step size tuned": ("pretraining", RATES),
}
"""What is tested: a method, and the step sizes that validation tasks choose from for each number of steps."""
PAPER = {"MAML": (0.67, 0.38, 0.35), "pretraining, step size tuned": (2.41, 2.23, 2.19)}
DIVERGED = 50.0
"""Four times the mean square of the highest wave: an error beyond it comes of steps that are too long."""


def config_of(learner: dict[str, Any]) -> EvaluationConfig:
    return validate({"space": {"name": "mlp"}, "tasks": TASKS, "learner": learner})


def errors(training: Training, learner: dict[str, Any], steps: int, split: Any, tasks: int) -> list[float]:
    """Return the squared error of each task of the fixed list, so many steps from the trained weights."""
    config = config_of({**learner, "test_steps": steps})
    source, space = config.make_tasks(), config.make_space()
    tested = config.make_learner(space.build(space.decode("maml"), source.shape), source.shape)
    tested.load_state_dict(training.learner.state_dict())
    episodes = list(source.episodes(split, tasks))
    names = ("support_x", "support_y", "query_x", "query_y", "classes")
    joined = {name: [getattr(episode, name) for episode in episodes] for name in names}
    batch = Episode(
        *(torch.cat(joined[name]) for name in names[:4]), 0, TASKS["shots"], np.concatenate(joined["classes"])
    )
    with torch.no_grad():
        return [-float(score) for score in query_scores(tested.eval()(batch), batch)]


def run(method: str, iterations: int, seed: int, points: int = 20) -> dict[str, Any]:
    learner = METHODS[method]
    config = config_of(learner)
    space, source = config.make_space(), config.make_tasks()
    episodes = iterations * learner["meta_batch"]
    training = start(
        space, space.decode("maml"), source, config.make_learner, config.precision, episodes, seed
    )
    began, curve = time.perf_counter(), []
    for point in range(1, points + 1):
        for _ in training.until(episodes * point // points):
            pass
        curve.append(
            (
                training.done // learner["meta_batch"],
                float(np.mean(errors(training, learner, 1, "validation", 200))),
            )
        )

    def tested(steps: int, rates: tuple[float, ...]) -> dict[str, Any]:
        def validation(rate: float) -> float:
            found = np.mean(errors(training, {**learner, "inner_lr": rate}, steps, "validation", 500))
            return float(found) if np.isfinite(found) else np.inf

        rate = min(rates, key=validation)
        return {
            "inner_lr": rate,
            "mse": errors(training, {**learner, "inner_lr": rate}, steps, "test", 1000),
        }

    return {
        "seed": seed,
        "seconds": time.perf_counter() - began,
        "validation_curve": curve,
        "test": {
            row: {steps: tested(steps, rates) for steps in STEPS}
            for row, (of, rates) in ROWS.items()
            if of == method
        },
    }


def cell(runs: list[dict[str, Any]], row: str, steps: int) -> dict[str, Any]:
    """Return a cell of the table, over all seeds; a mean is None where an error is not finite."""
    scores = np.array([one["test"][row][steps]["mse"] for one in runs])
    by_task, by_seed = scores.mean(0), scores.mean(1)
    finite = bool(np.isfinite(scores).all())
    return {
        "mse": _finite(scores.mean()),
        "ci95_episodes": half_width_over_episodes(by_task.tolist()) if finite else None,
        "ci95_seeds": half_width_over_seeds(by_seed.tolist()) if finite else None,
        "median": float(np.median(scores)),
        "mse_by_seed": [_finite(value) for value in by_seed],
        "inner_lr_by_seed": [one["test"][row][steps]["inner_lr"] for one in runs],
        "diverged": int((~(scores <= DIVERGED)).sum()),
        "mse_of_others": float(scores[scores <= DIVERGED].mean()),
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def picture(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for color, (name, runs) in zip(COLOURS, found.items(), strict=False):
        for one in runs:
            steps, values = zip(*one["validation_curve"], strict=True)
            axes.plot(
                steps,
                values,
                color=color,
                alpha=0.8,
                label=f"{name}, each of {len(runs)} seeds" if one is runs[0] else None,
            )
    axes.axhline(4.25, color="0.6", ls=":", lw=1)
    axes.annotate(
        "predicting zero, 4.25",
        (0.99, 4.25),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        color="0.4",
    )
    axes.axhline(3.01, color="0.6", ls="--", lw=1)
    axes.annotate(
        "best function of x alone, 3.01",
        (0.99, 3.01),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        color="0.4",
    )
    axes.set(
        xlabel="meta-steps of 25 tasks",
        ylabel="validation error (MSE), 1 step",
        ylim=(0, 4.6),
    )
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=len(found))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=at_least(1), default=70_000)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--draw", action="store_true", help="draw FILE.png and write FILE.md from FILE.json")
    arguments = parser.parse_args()
    if arguments.draw:
        write(json.loads(arguments.output.with_suffix(".json").read_text()), arguments.output)
        return
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {}
    for method in METHODS:
        found[method] = []
        for seed in arguments.seeds:
            one = run(method, arguments.iterations, seed)
            found[method].append(one)
            for row in one["test"]:
                print(row, seed, [cell([one], row, steps)["mse"] for steps in STEPS], flush=True)
    results = {
        "command": f"python benchmarks/sinusoid.py --iterations {arguments.iterations} --seeds "
        + " ".join(map(str, arguments.seeds)),
        "environment": environment(),
        "paper": PAPER,
        "test": {
            row: {steps: cell(found[of], row, steps) for steps in STEPS} for row, (of, _) in ROWS.items()
        },
        "runs": {
            method: [{key: value for key, value in one.items() if key != "test"} for one in runs]
            for method, runs in found.items()
        },
    }
    arguments.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    write(results, arguments.output)


def write(results: dict[str, Any], output: Path) -> None:
    """Write the page and the picture of results."""
    output.with_suffix(".md").write_text(report(results))
    picture(results["runs"], output.with_suffix(".png"))


def report(results: dict[str, Any]) -> str:
    seeds = len(results["runs"]["MAML"])
    lines = [
        "# Sine waves, 5-shot: mean squared error",
        "",
        f"`{results['command']}`",
        "",
        f"1,000 test tasks of 100 queries, {seeds} training seeds. The first ± is the half width of the 95 %",
        "interval over tasks, the second over seeds. The paper is Finn et al. 2017, table 2. A task diverges",
        f"where its error exceeds {DIVERGED:.0f}, four times the mean square of the highest wave: a step",
        "that fits the 10 points of training can be too long for some draws of 5. The JSON has each seed and",
        "the medians.",
        "",
        "| gradient steps | " + " | ".join(f"{steps}" for steps in STEPS) + " |",
        "|---|" + "---|" * len(STEPS),
    ]
    for row, cells in results["test"].items():
        lines.append(f"| {row} | " + " | ".join(map(said, cells.values())) + " |")
        if row in PAPER:
            lines.append(f"| {row}, paper | " + " | ".join(f"{value:.2f}" for value in PAPER[row]) + " |")
    lines += ["", "![Validation error along the way](sinusoid.png)", ""]
    return "\n".join(lines)


def said(found: dict[str, Any]) -> str:
    if found["ci95_episodes"] is None:
        mean = "not finite"
    else:
        over_seeds = "" if found["ci95_seeds"] is None else f" ± {found['ci95_seeds']:.2f}"
        mean = f"{found['mse']:.2f} ± {found['ci95_episodes']:.2f}{over_seeds}"
    if not found["diverged"]:
        return mean
    tasks = "1 task diverges" if found["diverged"] == 1 else f"{found['diverged']} tasks diverge"
    return f"{mean} ({tasks}; the others: {found['mse_of_others']:.2f})"


if __name__ == "__main__":
    main()
