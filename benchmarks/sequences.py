"""Tasks as sequences, on Omniglot: SNAIL and MANN, beside matching networks with the same embedding.

    python benchmarks/sequences.py -o docs/results/sequences

5-way 1-shot, the split of Vinyals et al. (2016), the four-layer network. MANN's accuracy is that at the k-th
presentation of a class, in streams of five classes with ten drawings each; "1-shot" in its paper is the
second presentation. Runs that FILE.json holds are not made again. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import at_least, data
from resumable import Runs, cell, trained

from nas.learners.mann import Mann, by_presentation
from nas.settings.evaluation import validate
from nas.training.scoring import lenient_scores

METHODS: dict[str, dict[str, Any]] = {
    "matching": {"name": "matching", "meta_batch": 4},
    "snail": {"name": "snail", "length": 6, "meta_batch": 4},
    "snail, small": {"name": "snail", "length": 6, "filters": 32, "keys": 32, "meta_batch": 4},
    "mann": {"name": "mann", "meta_batch": 4},
}
PAPER = {"matching": 98.1, "snail": 99.07, "mann": 82.8}
PRESENTED = (1, 2, 3, 5, 10)
PAPER_MANN = {1: 36.4, 2: 82.8, 5: 94.9, 10: 98.1}


def run(method: str, ways: int, episodes: int, tested: int, seed: int) -> dict[str, Any]:
    sizes = {"train_shots": 1, "train_queries": 9} if method == "mann" else {}
    config = validate(
        {
            "space": {"name": "chain"},
            "tasks": {"name": "omniglot", "ways": ways, "shots": 1, "queries": 9, **sizes},
            "learner": METHODS[method],
        }
    )
    training, tasks = trained(config, "conv4", episodes, seed)
    scores, _ = lenient_scores(training.learner, tasks, "test", tested, training.arithmetic)
    found: dict[str, Any] = {"accuracy": scores}
    if isinstance(training.learner, Mann):
        learner, rng = training.learner.train(), np.random.default_rng(seed)
        torch.manual_seed(seed)
        told = []
        with torch.no_grad():  # in orders drawn anew, as in training
            for _ in range(tested):
                said, targets, _ = learner.stream(tasks.sample("test", 1, rng))
                told.append(by_presentation(said, targets).tolist())
        found["presentations"] = told
    return found


def page(runs: Runs, methods: list[str], seeds: int, ways: int, episodes: int) -> str:
    lines = [
        f"# Tasks as sequences: Omniglot, {ways}-way 1-shot\n",
        f"`{runs.report['command']}`\n",
        f"Test accuracy in % after {episodes:,} training tasks: means with half of their 95 % intervals over",
        f"tasks and over {seeds} seeds. Papers train on far more tasks.\n",
        "| learner | accuracy | paper, 5-way |",
        "|---|---|---|",
    ]
    for method in methods:
        of = [runs[f"{method}/{seed}"]["accuracy"] for seed in range(seeds)]
        lines.append(f"| {method} | {cell(of, 100)} | {PAPER.get(method, '')} |")
    if "mann" in methods:
        lines += ["\n| MANN, presentation of a class | accuracy | paper, 5-way |", "|---|---|---|"]
        for k in PRESENTED:
            of = [[one[k - 1] for one in runs[f"mann/{seed}"]["presentations"]] for seed in range(seeds)]
            lines.append(f"| {k} | {cell(of, 100)} | {PAPER_MANN.get(k, '')} |")
        guess = sum(1 / k for k in range(1, ways + 1)) / ways
        lines.append(f"\nAt the first presentation {100 * guess:.1f} % is the best guess.")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=at_least(1), default=3)
    parser.add_argument("--ways", type=at_least(2), default=5)
    parser.add_argument("--episodes", type=at_least(1), default=40_000, help="training tasks")
    parser.add_argument("--tested", type=at_least(2), default=1000, help="test tasks")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    data(parser, "omniglot")
    torch.set_num_threads(1)
    sizes = {name: getattr(arguments, name) for name in ("ways", "episodes", "tested")}
    told = " ".join(f"--{name} {value}" for name, value in {"seeds": arguments.seeds, **sizes}.items())
    runs = Runs(
        parser, arguments.output.with_suffix(".json"), sizes, f"python benchmarks/sequences.py {told}"
    )
    for seed in range(arguments.seeds):
        for method in arguments.methods:
            sized = (arguments.ways, arguments.episodes, arguments.tested)
            runs.once(f"{method}/{seed}", partial(run, method, *sized, seed))
    runs.save()
    methods, seeds = arguments.methods, arguments.seeds
    arguments.output.with_suffix(".md").write_text(
        page(runs, methods, seeds, arguments.ways, arguments.episodes)
    )


if __name__ == "__main__":
    main()
