"""The time that one architecture of each space takes: to be proposed, to get its key, to be counted.

    python benchmarks/space_time.py -o docs/results/space_time

A proposal is a mutant, as controllers make them; the costs are those on images of 28×28 of one channel. The
first networks take the longest, since no operation was counted before. CPU times of one thread, in ms, at the
default settings of each space. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import at_least

from nas.errors import Infeasible
from nas.plugins import installed, load, resolve
from nas.space import TaskShape
from nas.training.provenance import environment

IMAGE, VECTOR = TaskShape((1, 28, 28), 5), TaskShape((1,), 1)
PARTS = ("proposal", "key", "cost")


def measure(name: str, architectures: int) -> dict[str, Any]:
    """Return the times of each part in ms, and of the three together."""
    cls = load("space", name)
    space, rng = cls(**resolve(cls, {}, "space")), np.random.default_rng(0)
    shape = VECTOR if name == "mlp" else IMAGE
    taken: dict[str, list[float]] = {part: [] for part in PARTS}
    architecture = space.sample(rng)
    while len(taken["cost"]) < architectures:
        began = time.process_time()
        mutant = space.mutate(architecture, rng)
        proposed = time.process_time()
        space.canonical(mutant)
        keyed = time.process_time()
        try:
            space.cost(mutant, shape)
        except Infeasible:
            architecture = space.sample(rng)
            continue
        ended = time.process_time()
        for part, seconds in zip(PARTS, (proposed - began, keyed - proposed, ended - keyed), strict=True):
            taken[part].append(1e3 * seconds)
        architecture = mutant
    together = [sum(times) for times in zip(*taken.values(), strict=True)]
    return {part: statistics.median(times) for part, times in {**taken, "together": together}.items()} | {
        "most": max(together)
    }


def page(report: dict[str, Any]) -> str:
    lines = [
        "# The time of one architecture",
        "",
        f"`{report['command']}`",
        "",
        f"CPU time of one thread in ms, the median of {report['architectures']} mutants in a row, at the",
        "default settings of each space: to propose one, to find its key, and to count its costs on images",
        "of 28×28 pixels. Most: the slowest mutant, an early one, whose operations were not counted before;",
        "the first of all also pays for imports of torch.",
        "",
        "| space | proposal | key | cost | together | most |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in report["spaces"].items():
        cells = (f"{found[part]:.2f}" for part in (*PARTS, "together", "most"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architectures", type=at_least(1), default=200, help="of each space")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = {
        "command": f"python benchmarks/space_time.py --architectures {arguments.architectures}",
        "environment": environment(),
        "architectures": arguments.architectures,
        "spaces": {name: measure(name, arguments.architectures) for name in installed("space")},
    }
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(page(report))
    print(page(report))


if __name__ == "__main__":
    main()
