"""Learned optimizers on trainings that they have not seen, beside SGD, momentum and Adam at swept rates.

    python benchmarks/learned_optimizers.py -o docs/results/learned_optimizers

Andrychowicz et al. 2016: random quadratics in 10 dimensions from N(0, 0.01²), and a perceptron with a hidden
layer of 20 on digits. A learned rule trains along trajectories of `--steps` steps, in parts of 20. Rules that
are not learned have the rate with the least mean loss along validation trajectories. All are shown on the
same test trajectories, and on ones twice as long. Runs that FILE.json holds are not made again. Writes
FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import at_least, require
from resumable import Runs, cell
from torch import nn

from nas.learners.folded import run
from nas.learners.learned_optimizer import LearnedOptimizer
from nas.learners.learned_rates import RateAndMomentum
from nas.learners.learning_to_optimize import LearningToOptimize
from nas.learners.meta_lstm import MetaLstm
from nas.learners.update import Adam, Make, Sgd
from nas.precision import choose
from nas.tasks.base import Split, TaskSource
from nas.tasks.optimizees import Optimizees
from nas.tasks.quadratics import Quadratics
from nas.training.loop import Training

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Of rules that are not learned."""
SWEPT: dict[str, Make] = {"sgd": Sgd, "momentum": partial(Sgd, momentum=0.9), "adam": Adam}
TRUNCATION = 20


def learned(case: str) -> dict[str, tuple[Make, float]]:
    """Return the rules that learn, each with its `inner_lr`."""
    quadratic = case == "quadratics"
    optimizer = partial(LearnedOptimizer, preprocessing="none" if quadratic else "clamped")
    return {
        "learned_rates": (partial(RateAndMomentum, per="all"), 0.02),
        "meta_lstm": (MetaLstm, 0.02),
        "meta_lstm, accumulating": (partial(MetaLstm, accumulates=True), 0.02),
        "learned_optimizer": (optimizer, 1.0 if quadratic else 0.1),
    }


class Perceptron(nn.Sequential):
    """A hidden layer, as in the paper: sigmoids."""

    out_features = 20

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 20), nn.Sigmoid())


class Plain(nn.Identity):
    """The inputs themselves."""

    out_features = 10


def made(case: str, rule: Make, rate: float, steps: int, seed: int) -> tuple[LearningToOptimize, TaskSource]:
    """Return a learner and its tasks; a quadratic has no bias."""
    torch.manual_seed(seed)
    quadratic = case == "quadratics"
    tasks: TaskSource = Quadratics() if quadratic else Optimizees(queries=5)
    learner = LearningToOptimize(
        Plain() if quadratic else Perceptron(),
        tasks.shape,
        inner_lr=rate,
        inner_steps=steps,
        truncation=min(TRUNCATION, steps),
        batch=None if quadratic else 128,
        deviation=0.01 if quadratic else None,
        update=rule,
        lr=1e-2,
        meta_batch=16 if quadratic else 1,
    )
    if quadratic:
        nn.init.zeros_(learner.network.head.bias.requires_grad_(False))
    return learner, tasks


def curves(learner: LearningToOptimize, tasks: TaskSource, split: Split, count: int, steps: int) -> Any:
    """Return the loss on the queries of each of so many tasks, `[tasks][steps + 1]`."""
    episode = tasks.sample(split, count, np.random.default_rng(7))
    learner.eval()
    with torch.no_grad():
        found = [
            learner.criterion(run(learner.network, episode.query_x, weights), episode.query_y, "task")
            for weights in learner.trajectory(episode, steps)
        ]
    return torch.stack(found, 1).nan_to_num(1e9, 1e9).tolist()


def swept(case: str, rule: Make, steps: int, problems: int) -> dict[str, Any]:
    """Return test curves at the rate that is best on validation trajectories."""
    best, least = RATES[0], np.inf
    for rate in RATES:
        learner, tasks = made(case, rule, rate, steps, 0)
        mean = float(np.mean(curves(learner, tasks, "validation", problems, steps)))
        best, least = (rate, mean) if mean < least else (best, least)
    learner, tasks = made(case, rule, best, steps, 0)
    return {"rate": best, "curves": curves(learner, tasks, "test", problems, 2 * steps)}


def taught(case: str, name: str, steps: int, problems: int, trajectories: int, seed: int) -> dict[str, Any]:
    """Return test curves of a rule that learned from so many trajectories."""
    rule, rate = learned(case)[name]
    learner, tasks = made(case, rule, rate, steps, seed)
    arithmetic = choose("float32", images=False, sensitive=True)
    training = Training(arithmetic.prepare(learner), tasks, trajectories, seed, arithmetic)
    for _ in training.until(trajectories):
        pass
    return {"curves": curves(learner, tasks, "test", problems, 2 * steps)}


def page(runs: Runs, steps: int, seeds: int, cases: list[str]) -> str:
    lines = [
        "# Learned optimizers\n",
        f"`{runs.report['command']}`\n",
        "log₁₀ of the loss on test trajectories: means, with half of their 95 % intervals over problems and",
        f"over {seeds} seeds. Trained on {steps} steps; the last column is twice as long. Rules that are not",
        f"learned have the best of the rates {', '.join(map(str, RATES))} on validation trajectories.\n",
        f"| case | rule | rate | step {steps // 4} | step {steps} | step {2 * steps} |",
        "|---|---|---|---|---|---|",
    ]
    for case in cases:
        for name in [*SWEPT, *learned(case)]:
            of = [runs[f"{case}/{name}/{seed}"] for seed in range(1 if name in SWEPT else seeds)]
            cells = [
                cell([[np.log10(max(curve[at], 1e-12)) for curve in one["curves"]] for one in of], 1, 2)
                for at in (steps // 4, steps, 2 * steps)
            ]
            lines.append(f"| {case} | {name} | {of[0].get('rate', 'learned')} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=["quadratics", "optimizees"])
    parser.add_argument("--seeds", type=at_least(1), default=3)
    parser.add_argument("--steps", type=at_least(4), default=100)
    parser.add_argument("--problems", type=at_least(2), default=100)
    parser.add_argument("--trajectories", type=at_least(1), default=3000, help="of a rule's training")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    require(parser, "sklearn")
    torch.set_num_threads(1)
    cases = arguments.cases or ["quadratics", "optimizees"]
    sizes = {name: getattr(arguments, name) for name in ("steps", "problems", "trajectories")}
    told = " ".join(f"--{name} {value}" for name, value in {"seeds": arguments.seeds, **sizes}.items())
    command = f"python benchmarks/learned_optimizers.py {told}"
    runs = Runs(parser, arguments.output.with_suffix(".json"), sizes, command)
    steps, problems = arguments.steps, arguments.problems
    for case in cases:
        for name, rule in SWEPT.items():
            runs.once(f"{case}/{name}/0", partial(swept, case, rule, steps, problems))
        for seed in range(arguments.seeds):
            for name in learned(case):
                teach = partial(taught, case, name, steps, problems, arguments.trajectories, seed)
                runs.once(f"{case}/{name}/{seed}", teach)
    runs.save()
    arguments.output.with_suffix(".md").write_text(page(runs, steps, arguments.seeds, cases))


if __name__ == "__main__":
    main()
