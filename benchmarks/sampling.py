"""How fast one core draws episodes: 20-way 1-shot with 5 queries, from a pool of Omniglot's size.

    python benchmarks/sampling.py -o docs/results/sampling.json

The pool has the classes and images of Omniglot's training split with rotations, filled with noise: pixels do
not matter here. An episode is drawn, gathered, turned into numbers in [0, 1] and made into tensors.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from arguments import at_least

from nas.tasks.images import Classes, ImageTasks

CLASSES = 4112
DRAWINGS = 20
REPEATS = 7
TARGET = 3000


def pool() -> ImageTasks:
    """Return an Omniglot-sized source of 20-way 1-shot tasks with 5 queries a class."""
    starts = np.arange(CLASSES) * DRAWINGS
    classes = Classes(tuple(map(str, starts)), starts, np.full(CLASSES, DRAWINGS))
    images = np.random.default_rng(0).integers(0, 256, (CLASSES * DRAWINGS, 1, 28, 28), dtype=np.uint8)
    return ImageTasks("noise", images, {"train": classes}, ways=20, shots=1, queries=5)


def speed(source: ImageTasks, tasks: int, episodes: int) -> float:
    """Return the one-task episodes drawn in a second, `tasks` at a call."""
    rng = np.random.default_rng(1)
    started = time.perf_counter()
    for _ in range(episodes // tasks):
        source.sample("train", tasks, rng)
    return episodes // tasks * tasks / (time.perf_counter() - started)


def main() -> None:
    """Measure, print and, if asked, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=at_least(16), default=1600, help="of one repeat (default: 1600)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the result as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source = pool()
    results = []
    for tasks in (1, 16):
        speed(source, tasks, 160)
        rates = [speed(source, tasks, arguments.episodes) for _ in range(REPEATS)]
        median, best = round(statistics.median(rates)), round(max(rates))
        results.append({"tasks_per_call": tasks, "median": median, "best": best})
        print(f"{tasks:2} tasks a call: {median:6,} episodes a second (best {best:,}; target {TARGET:,})")
    if arguments.output:
        report = {
            "benchmark": "sampling",
            "unit": "20-way 1-shot 5-query episodes of 28×28 images a second, one thread",
            "repeats": REPEATS,
            "results": results,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        }
        arguments.output.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
