"""What sampling and bookkeeping cost: prototypical training against a bare PyTorch loop over ready batches.

    python benchmarks/prototypical.py -o docs/results/prototypical

The same Conv-4, optimizer, thread and precision; the bare loop goes through tasks that were drawn before, and
has nothing but forward pass, loss, backward pass and step. The two take turns, a round of each, so that what
else the machine does hits both alike; a figure is the median over rounds. The images are noise, as many as in
Omniglot's training split: pixels do not matter here. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from arguments import at_least
from torch.func import replace_all_batch_norm_modules_

from nas.learners.prototypical import Prototypical
from nas.precision import Arithmetic, choose
from nas.space import Architecture, TaskShape
from nas.tasks.base import Episode
from nas.tasks.images import Classes, ImageTasks
from nas.training.loop import start
from nas.training.provenance import environment
from search_spaces.chain import Chain

CLASSES, DRAWINGS = 4112, 20
SHAPES = {"60-way 1-shot, 5 queries": (60, 1, 5), "20-way 1-shot, 5 queries": (20, 1, 5)}
READY = 16
"""Tasks that the bare loop goes through over and over."""


def pool(ways: int, shots: int, queries: int) -> ImageTasks:
    starts = np.arange(CLASSES) * DRAWINGS
    classes = Classes(tuple(map(str, starts)), starts, np.full(CLASSES, DRAWINGS))
    images = np.random.default_rng(0).integers(0, 256, (CLASSES * DRAWINGS, 1, 28, 28), dtype=np.uint8)
    return ImageTasks("noise", images, {"train": classes}, ways=ways, shots=shots, queries=queries)


def bare(
    space: Chain, conv4: Architecture, shape: TaskShape, ready: list[Episode], arithmetic: Arithmetic
) -> Callable[[int], None]:
    """Return what trains on so many of the ready tasks."""
    torch.manual_seed(0)
    network = replace_all_batch_norm_modules_(space.build(conv4, shape))
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, fused=True)
    batches = [
        (torch.cat([e.support_x[0], e.query_x[0]]).contiguous(), e.support_y[0], e.query_y[0], e.ways)
        for e in ready
    ]

    def train(episodes: int) -> None:
        for number in range(episodes):
            x, support_y, query_y, ways = batches[number % len(batches)]
            optimizer.zero_grad(set_to_none=True)
            with arithmetic.autocast():
                features = network(x).float()
                support, queries = features.split([len(support_y), len(query_y)])
                prototypes = support[support_y.argsort()].view(ways, -1, support.shape[1]).mean(1)
                logits = -((queries[:, None] - prototypes) ** 2).sum(-1)
                F.cross_entropy(logits, query_y).backward()
            optimizer.step()

    return train


def measure(shape: str, precision: Any, episodes: int, rounds: int) -> dict[str, float]:
    ways, shots, queries = SHAPES[shape]
    tasks, space = pool(ways, shots, queries), Chain()
    conv4 = space.decode("conv4")
    arithmetic = choose(precision, images=True, sensitive=False)
    training = start(space, conv4, tasks, partial(Prototypical, lr=2e-3), precision, 10**9, 0)
    ready = [tasks.sample("train", 1, np.random.default_rng(i)) for i in range(READY)]
    loop = bare(space, conv4, tasks.shape, ready, arithmetic)

    def ours(number: int) -> None:
        for _ in training.until(training.done + number):
            pass

    def milliseconds(train: Callable[[int], None]) -> float:
        began = time.perf_counter()
        train(episodes)
        return 1e3 * (time.perf_counter() - began) / episodes

    ours(5), loop(5)
    pairs = [(milliseconds(ours), milliseconds(loop)) for _ in range(rounds)]
    return {
        "ours_ms": statistics.median(a for a, _ in pairs),
        "bare_ms": statistics.median(b for _, b in pairs),
        "throughput": statistics.median(b / a for a, b in pairs),
        "lowest": min(b / a for a, b in pairs),
        "highest": max(b / a for a, b in pairs),
    }


def report(results: list[dict[str, Any]], command: str) -> str:
    lines = [
        "# Prototypical training compared with a bare PyTorch loop",
        "",
        f"`{command}`",
        "",
        "Milliseconds of one training episode on one thread, Conv-4, the median of the rounds; the share is",
        "the bare loop's time over ours in the same round: median, lowest and highest round. Ours draws its",
        "tasks; the loop's were drawn before.",
        "",
        "| tasks | precision | ours | bare loop | share of its throughput |",
        "|---|---|---|---|---|",
    ]
    for r in results:
        share = f"{100 * r['throughput']:.0f} % ({100 * r['lowest']:.0f}–{100 * r['highest']:.0f})"
        lines.append(
            f"| {r['tasks']} | {r['precision']} | {r['ours_ms']:.1f} ms | {r['bare_ms']:.1f} ms | {share} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=at_least(1), default=30, help="of one round (default: 30)")
    parser.add_argument("--rounds", type=at_least(1), default=11)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for shape in SHAPES:
        for precision in ("float32", "bfloat16"):
            found = measure(shape, precision, arguments.episodes, arguments.rounds)
            results.append({"tasks": shape, "precision": precision} | found)
            print(json.dumps(results[-1]), flush=True)
    if arguments.output:
        kept = {"environment": environment(), "results": results}
        arguments.output.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")
        command = (
            f"python benchmarks/prototypical.py --episodes {arguments.episodes} --rounds {arguments.rounds}"
        )
        arguments.output.with_suffix(".md").write_text(report(results, command))


if __name__ == "__main__":
    main()
