"""One step of DADA, against plain training steps with a policy of augmentation.

    python benchmarks/dada_step.py -o docs/results/dada_step

The network is Conv-4 with strides, on few-shot tasks and on minibatches of ordinary data, 28×28. A plain step
draws a batch, passes it through a policy of two operations an image, and steps the weights. A step of DADA
draws two batches, judges the step that a drawn sub-policy makes, learns the policy, and takes the step. Every
method in a process of its own with one thread, in turns. Steps of DADA differ: where none of the drawn
operations happens, no magnitude is to be learned. So a figure is the mean over steps, in the time of the
process; the slowest tenth is left out. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from arguments import at_least
from turns import serve, take_turns

from nas.controller import SupernetBudget, TrainSupernet
from nas.settings.search import validate
from nas.training.loop import start
from nas.training.oneshot.assembly import assemble
from nas.training.oneshot.batches import Bilevel
from nas.training.provenance import environment

KINDS: dict[str, dict[str, Any]] = {
    "20-way 1-shot, 5 queries": {
        "tasks": {"name": "glyphs", "ways": 20},
        "learner": {"name": "prototypical"},
    },
    "ordinary data, 128 images": {
        "tasks": {"name": "upright:Upright", "characters": 200, "batch": 128},
        "learner": {"name": "classifier"},
    },
}
SPACE = {"name": "chain", "layers": 4, "kernels": [3], "strides": [2], "channels": [64]}
TWO = (
    "rotate:1.0:5+elastic:1.0:5/shear_x:1.0:5+thicken:1.0:3/scale:1.0:4+thin:1.0:3/cutout:1.0:4+rotate:1.0:9"
)
METHODS = ("dada", "plain")
BUDGET = SupernetBudget(epochs=50, steps=20)


def steps(method: str, kind: str) -> Callable[[], Any]:
    """Return what takes a step of a method."""
    any_ = {"name": "autoaugment", "policy": "any"}
    slots = {"learner": {"augmentation": any_}} if method == "dada" else {}
    given = {**KINDS[kind], "space": SPACE, "controller": {"name": "random"}, "slots": slots}
    config = validate(given)
    tasks, space = config.make_tasks(), config.make_space()
    if method == "plain":
        whole = {
            **given,
            "learner": {**given["learner"], "augmentation": {"name": "autoaugment", "policy": TWO}},
        }
        training = start(space, space.default, tasks, validate(whole).make_learner(), "float32", 2**20, 0)
        endless: Iterator[float] = training.until(2**20)
        return lambda: next(endless)
    assembly = assemble(config.make_context(space, tasks), TrainSupernet("dada", {}, 1, BUDGET), 0)
    batches = Bilevel(assembly, tasks, None, 0)
    return lambda: assembly.strategy.step(batches.next(), assembly.optimizer, 0.0)


def measure(case: str) -> None:
    """Serve the steps of one method on one kind of data: seconds of the process."""
    torch.set_num_threads(1)
    method, kind = case.split(": ", 1)
    take = steps(method, kind)

    def step() -> tuple[float]:
        began = time.process_time()
        take()
        return (time.process_time() - began,)

    serve(step, dict)


def typical(seconds: list[float]) -> float:
    """Return the mean without the slowest tenth, which other processes held up."""
    kept = sorted(seconds)[: max(1, round(0.9 * len(seconds)))]
    return sum(kept) / len(kept)


def page(report: dict[str, Any]) -> str:
    lines = [
        "# A step of DADA",
        "",
        f"`{report['command']}`",
        "",
        textwrap.fill(
            "Conv-4 with strides on images of 28×28, one thread, float32. A plain step draws a batch, passes "
            "each image through two operations, and steps the weights by Adam. A step of DADA does so with a "
            "drawn sub-policy, judges the step by an outer batch of the same size, takes the derivative of "
            "that in the magnitudes by one more pass of the inner batch, and learns the policy. At the "
            "beginning each operation happens with probability 1/2; where neither does, that pass is spared. "
            f"Time of the process, mean of {report['rounds']} steps without the slowest tenth, in turns.",
            100,
        ),
        "",
        "| tasks | plain step, ms | DADA, ms | ratio |",
        "|---|---|---|---|",
    ]
    for kind, row in report["kinds"].items():
        ratio = row["dada"] / row["plain"]
        lines.append(f"| {kind} | {1000 * row['plain']:.1f} | {1000 * row['dada']:.1f} | {ratio:.2f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=at_least(1), default=40, help="steps of each method")
    cases = [f"{method}: {kind}" for kind in KINDS for method in METHODS]
    parser.add_argument("--case", choices=cases, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    if arguments.case:
        measure(arguments.case)
        return
    if arguments.output is None:
        parser.error("the following arguments are required: -o/--output")
    taken, _ = take_turns([__file__, "--case"], cases, arguments.rounds)
    report = {
        "command": "python benchmarks/dada_step.py",
        "environment": environment(),
        "rounds": arguments.rounds,
        "kinds": {
            kind: {m: typical([step[0] for step in taken[f"{m}: {kind}"]]) for m in METHODS} for kind in KINDS
        },
    }
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
