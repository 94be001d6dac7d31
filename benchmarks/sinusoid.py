"""The sine waves of MAML, 5-shot: error after 1, 5 and 10 gradient steps, beside pretraining.

    pip install matplotlib
    python benchmarks/sinusoid.py -o docs/results/sinusoid

Finn et al. 2017, section 5.1 and table 2: two hidden layers of 40, trained on 10 points and 10 more, 25 tasks
a meta-step; tested on 5. Pretraining's step size is tuned on validation tasks, as the paper tunes it. Each
method is trained under several seeds; every seed is scored once, at its last weights, on the same 1,000 test
tasks of 100 queries. Writes FILE.json, FILE.md and FILE.png: the error on validation tasks along the way.
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

from nas.evaluation.config import EvaluationConfig, validate
from nas.evaluation.statistics import by_episode, half_width_over_episodes, half_width_over_seeds
from nas.learners.base import query_scores
from nas.provenance import environment
from nas.scoring import mean_ci95
from nas.tasks.base import Episode
from nas.training import Training, start

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STEPS = (1, 5, 10)
TASKS = {"name": "sinusoid", "shots": 5, "queries": 100, "train_shots": 10, "train_queries": 10}
METHODS: dict[str, dict[str, Any]] = {
    "MAML": {"name": "maml", "meta_batch": 25, "inner_lr": 0.01, "lr": 1e-3, "schedule": "cosine"},
    "pretraining": {"name": "pretrain", "meta_batch": 25, "lr": 1e-3, "schedule": "cosine"},
}
PAPER = {"MAML": (0.67, 0.38, 0.35), "pretraining": (2.41, 2.23, 2.19)}
RATES = (0.001, 0.003, 0.01, 0.02, 0.05)


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


def run(learner: dict[str, Any], iterations: int, seed: int, points: int = 20) -> dict[str, Any]:
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
                mean_ci95(errors(training, learner, 1, "validation", 200)),
            )
        )
    rates = RATES if learner["name"] == "pretrain" else (learner["inner_lr"],)
    tuned = {
        steps: min(
            rates,
            key=lambda rate: sum(errors(training, {**learner, "inner_lr": rate}, steps, "validation", 500)),
        )
        for steps in STEPS
    }
    return {
        "seed": seed,
        "seconds": time.perf_counter() - began,
        "validation_curve": curve,
        "inner_lr": tuned,
        "test": {s: errors(training, {**learner, "inner_lr": tuned[s]}, s, "test", 1000) for s in STEPS},
    }


def cell(runs: list[dict[str, Any]], steps: int) -> dict[str, float | None]:
    scores = [one["test"][steps] for one in runs]
    mean, _ = mean_ci95(by_episode(scores))
    return {
        "mse": mean,
        "ci95_episodes": half_width_over_episodes(by_episode(scores)),
        "ci95_seeds": half_width_over_seeds([sum(some) / len(some) for some in scores]),
    }


def picture(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for color, (name, runs) in zip(("tab:blue", "tab:orange"), found.items(), strict=True):
        for one in runs:
            steps, values = zip(*((x, y) for x, (y, _) in one["validation_curve"]), strict=True)
            axes.plot(steps, values, color=color, alpha=0.8, label=name if one is runs[0] else None)
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
    axes.set(xlabel="meta-steps of 25 tasks", ylabel="mean squared error, 5 points, 1 step", ylim=(0, 4.6))
    axes.legend(frameon=False, loc="center right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=70_000)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {}
    for name, learner in METHODS.items():
        found[name] = []
        for seed in arguments.seeds:
            found[name].append(run(learner, arguments.iterations, seed))
            print(name, seed, {steps: cell(found[name][-1:], steps)["mse"] for steps in STEPS}, flush=True)
    table = {name: {steps: cell(runs, steps) for steps in STEPS} for name, runs in found.items()}
    results = {
        "command": f"python benchmarks/sinusoid.py --iterations {arguments.iterations} --seeds "
        + " ".join(map(str, arguments.seeds)),
        "environment": environment(),
        "paper": PAPER,
        "test": table,
        "runs": {
            name: [{key: value for key, value in one.items() if key != "test"} for one in runs]
            for name, runs in found.items()
        },
    }
    arguments.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(report(results))
    picture(found, arguments.output.with_suffix(".png"))


def report(results: dict[str, Any]) -> str:
    lines = [
        "# Sine waves, 5-shot: mean squared error",
        "",
        f"`{results['command']}`",
        "",
        "1,000 test tasks of 100 queries. The first ± is the half width of the 95 % interval over tasks, the",
        "second over training seeds. The paper is Finn et al. 2017, table 2.",
        "",
        "| gradient steps | " + " | ".join(f"{steps}" for steps in STEPS) + " |",
        "|---|" + "---|" * len(STEPS),
    ]
    for name, cells in results["test"].items():
        ours = [
            f"{c['mse']:.2f} ± {c['ci95_episodes']:.2f} ± {c['ci95_seeds'] or 0:.2f}" for c in cells.values()
        ]
        lines.append(f"| {name} | " + " | ".join(ours) + " |")
        lines.append(f"| {name}, paper | " + " | ".join(f"{value:.2f}" for value in PAPER[name]) + " |")
    lines += ["", "![Validation error along the way](sinusoid.png)", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
