"""What the second order of DARTS changes on few-shot tasks, by the step that is unrolled.

    NAS_DATA=… python benchmarks/second_order.py -o docs/results/second_order

A supernet of `few_shot` trains on Omniglot, 20-way 1-shot, by order 1, under a prototypical learner, whose
optimizer is Adam. On its way, and before the first step, gradients of α are taken of the same batches: of
order 1; through Adam's step, by autograd (`exact`) and by the finite difference (order 2); and through a step
of gradient descent at Adam's rate, which is what order 2 took before. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from arguments import at_least
from torch import Tensor

from controllers.darts import Softmax
from controllers.relaxation import paced
from controllers.unrolled import exact, second_order
from nas import plugins
from nas.controller import SupernetBudget, TrainSupernet
from nas.evaluator import Budget, Context
from nas.settings.sections import maker
from nas.strategy import Batches
from nas.training.oneshot.assembly import assemble
from nas.training.oneshot.batches import Bilevel
from nas.training.provenance import environment

STAGES = (0, 20, 80)
"""Steps of training before the gradients are compared."""

PAIRS = {
    "exact, order 1": ("exact", "order 1"),
    "order 2, order 1": ("order 2", "order 1"),
    "order 2, exact": ("order 2", "exact"),
    "descent, order 1": ("descent", "order 1"),
    "order 1, another batch": ("order 1", "another batch"),
}
"""Whose cosine is taken."""


def gradients(strategy: Softmax, optimizer: torch.optim.Optimizer, batches: Batches) -> dict[str, Tensor]:
    """Return the gradient of α by each method."""
    alpha = strategy.alpha
    rate = optimizer.param_groups[0]["lr"]
    descent = torch.optim.SGD(batches.weights.values(), rate)
    found = {
        "order 1": alpha.gradient(batches.outer),
        "exact": exact(alpha, batches, optimizer),
        "order 2": second_order(alpha, batches, optimizer),
        "descent": second_order(alpha, batches, descent),
    }
    return {name: torch.cat([g.flatten() for g in parts]).detach() for name, parts in found.items()}


def measured(seed: int, draws: int) -> list[dict[str, Any]]:
    """Return the cosines of each stage of one training."""
    space = plugins.load("space", "few_shot")()
    tasks = maker("tasks", {"name": "omniglot", "ways": 20})()
    context = Context(space, tasks, maker("learner", {"name": "prototypical"}), Budget())
    rate = paced(None, SupernetBudget(epochs=1, steps=STAGES[-1]))
    assembly = assemble(context, TrainSupernet("darts", {"alpha_rate": rate}), seed)
    strategy, source = assembly.strategy, Bilevel(assembly, tasks, None, seed)
    assert isinstance(strategy, Softmax)
    rows, done = list[dict[str, Any]](), 0
    for stage in STAGES:
        for _ in range(stage - done):
            strategy.step(source.next(), assembly.optimizer, done / STAGES[-1])
            done += 1
        cosines: dict[str, list[float]] = {name: [] for name in PAIRS}
        last: Tensor | None = None
        for _ in range(draws):
            found = gradients(strategy, assembly.optimizer, source.next())
            if last is not None:
                found["another batch"] = last
            last = found["order 1"]
            cosine = partial(F.cosine_similarity, dim=0)
            for name, (one, other) in PAIRS.items():
                if one in found and other in found:
                    cosines[name].append(float(cosine(found[one], found[other])))
        rows.append({"seed": seed, "steps": stage, "cosines": cosines})
        print(rows[-1], flush=True)
    return rows


def page(report: dict[str, Any]) -> str:
    rows = report["results"]
    draws = len(rows[0]["cosines"]["exact, order 1"])
    seeds = ", ".join(dict.fromkeys(str(row["seed"]) for row in rows))
    lines = [
        "# The second order of DARTS on few-shot tasks\n",
        f"`{report['command']}`\n",
        "Supernet of `few_shot`, Omniglot 20-way 1-shot, prototypical learner, whose optimizer is Adam, one",
        f"task a batch. Cosine of two gradients of α, all logits together: mean over {draws} draws of",
        f"batches, seeds {seeds} (least to largest), after some steps of training by order 1. Exact:",
        "through Adam's step, by autograd; order 2: the same by the finite difference; descent: order 2",
        "through a step of gradient descent at Adam's rate, which is what it took before.\n",
        f"| steps | {' | '.join(PAIRS)} |",
        "|---|---|---|---|---|---|",
    ]
    for stage in STAGES:
        cells = []
        for name in PAIRS:
            values = [v for row in rows if row["steps"] == stage for v in row["cosines"][name]]
            cells.append(f"{statistics.mean(values):.3f} ({min(values):.2f} to {max(values):.2f})")
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[1, 2])
    parser.add_argument("--draws", type=at_least(2), default=5, help="of batches at each stage, two or more")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for seed in arguments.seeds for row in measured(seed, arguments.draws)]
    seeds = " ".join(map(str, arguments.seeds))
    command = f"python benchmarks/second_order.py --seeds {seeds} --draws {arguments.draws}"
    report = {"command": command, "environment": environment(), "results": rows}
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
