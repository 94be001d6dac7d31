"""Learned update rules within MAML on the sine waves, 5-shot; and what a step of them costs.

    python benchmarks/update_rules.py -o docs/results/update_rules

The protocol of `sinusoid.py`: two hidden layers of 40, trained on 10 points and 10 more, 25 tasks a
meta-step, tested on 5 points; here every rule takes 5 steps, in training as in the test. Runs that FILE.json
holds are not made again. Writes FILE.json and FILE.md. With `--times` it adds what an inner step of each rule
takes in steps of gradient descent, its gradient included, by turns, on the four-layer network for Omniglot.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from arguments import at_least
from resumable import Runs, cell, trained
from turns import serve, take_turns

from nas.plugins import load
from nas.settings.evaluation import EvaluationConfig, validate
from nas.space import TaskShape
from nas.tasks.glyphs import Glyphs
from nas.training.scoring import lenient_scores

TASKS = {"name": "sinusoid", "shots": 5, "queries": 100, "train_shots": 10, "train_queries": 10}
RULES: dict[str, dict[str, Any]] = {
    "MAML": {"order": 2},
    "first-order MAML": {"order": 1},
    "Meta-SGD": {"update": {"name": "meta_sgd"}},
    "learned_rates": {"update": {"name": "learned_rates"}},
    "learned_rates, for each step": {"update": {"name": "learned_rates", "steps": 5}},
    "meta_lstm": {"update": {"name": "meta_lstm"}},
    "meta_lstm, accumulating": {"update": {"name": "meta_lstm", "accumulates": True}},
    "learned_optimizer": {"update": {"name": "learned_optimizer"}},
}
TIMED = ("sgd", "learned_rates", "meta_lstm", "learned_optimizer")


def config_of(method: str) -> EvaluationConfig:
    learner = {"name": "maml", "meta_batch": 25, "inner_lr": 0.01, "inner_steps": 5, "lr": 1e-3}
    own = {**learner, "schedule": "cosine", **RULES[method]}
    return validate({"space": {"name": "mlp"}, "tasks": TASKS, "learner": own})


def run(method: str, iterations: int, tasks: int, seed: int) -> dict[str, Any]:
    began = time.process_time()
    training, source = trained(config_of(method), "maml", 25 * iterations, seed)
    scores, _ = lenient_scores(training.learner, source, "test", tasks, training.arithmetic)
    return {"mse": [-score for score in scores], "cpu_seconds": time.process_time() - began}


def timed(rule: str) -> None:
    """Serve inner steps of one rule on the four-layer network, each with the CPU seconds that it took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    space, shape = load("space", "chain")(), TaskShape((1, 28, 28), 5)
    made = load("learner", "maml")
    backbone = space.build(space.decode("conv4"), shape)
    learner = made(backbone, shape, inner_steps=5, order=1, update=load("update rule", rule))
    episode = next(Glyphs(ways=5, queries=1).episodes("validation", 1))

    def step() -> list[float]:
        began = time.process_time()
        with torch.no_grad():
            learner(episode)
        return [(time.process_time() - began) / 5]

    serve(step, dict)


def page(runs: Runs, seeds: int, iterations: int) -> str:
    lines = [
        "# Learned update rules on the sine waves, 5-shot\n",
        f"`{runs.report['command']}`\n",
        f"Mean squared error after 5 steps, on the same test tasks, after {iterations:,} meta-steps: means",
        f"with half of their 95 % intervals over tasks and over {seeds} seeds. Finn et al. (2017) have 0.38",
        "for MAML trained with one step.\n",
        "| rule | mean squared error | CPU seconds of a training |",
        "|---|---|---|",
    ]
    for method in RULES:
        of = [runs[f"{method}/{seed}"] for seed in range(seeds)]
        seconds = statistics.mean(one["cpu_seconds"] for one in of)
        lines.append(f"| {method} | {cell([one['mse'] for one in of], 1, 3)} | {seconds:.0f} |")
    if "times" in runs.report:
        lines += ["\n| an inner step, with its gradient | steps of gradient descent |", "|---|---|"]
        lines += [f"| {rule} | {ratio:.2f} |" for rule, ratio in runs.report["times"].items()]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=at_least(1), default=3)
    parser.add_argument("--iterations", type=at_least(1), default=20_000)
    parser.add_argument("--tasks", type=at_least(2), default=1000, help="that are tested")
    parser.add_argument("--times", type=at_least(1), help="rounds of turns; default: none")
    parser.add_argument("--serve", choices=TIMED, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    if arguments.serve:
        timed(arguments.serve)
        return
    if arguments.output is None:
        parser.error("the following arguments are required: -o/--output")
    torch.set_num_threads(1)
    sizes = {"iterations": arguments.iterations, "tasks": arguments.tasks}
    told = f"--seeds {arguments.seeds} --iterations {arguments.iterations} --tasks {arguments.tasks}"
    command = f"python benchmarks/update_rules.py {told}"
    runs = Runs(parser, arguments.output.with_suffix(".json"), sizes, command)
    for seed in range(arguments.seeds):
        for method in RULES:
            runs.once(f"{method}/{seed}", partial(run, method, arguments.iterations, arguments.tasks, seed))
    if arguments.times:
        taken, _ = take_turns([__file__, "--serve"], TIMED, arguments.times)
        plain = [seconds for [seconds] in taken["sgd"]]
        runs.report["times"] = {
            rule: statistics.median(seconds / base for [seconds], base in zip(steps, plain, strict=True))
            for rule, steps in taken.items()
        }
    runs.save()
    arguments.output.with_suffix(".md").write_text(page(runs, arguments.seeds, arguments.iterations))


if __name__ == "__main__":
    main()
