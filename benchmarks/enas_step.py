"""One step of the supernet of ENAS's micro space, against a plain mixed cell.

    python benchmarks/enas_step.py -o docs/results/enas_step

A step is the loss of one batch and its gradients of all weights and of the mixture. The plain cell calls each
operation of each term on each state by itself, and adds up what they return, with the same weights; it is
measured with its channels in either place in memory. One thread; every method in a process of its own, the
methods taking turns. A figure is the fastest of all steps. The gradients of both are compared in float64.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from arguments import at_least
from torch import Tensor, nn
from turns import serve, take_turns

from nas.space import TaskShape
from nas.training.provenance import environment
from search_spaces.enas_micro import EnasMicro

SHAPES = {"8 channels, 5 cells, batch 16": (8, 1, 16), "16 channels, 8 cells, batch 8": (16, 2, 8)}
METHODS = ("ours", "plain", "plain, channels last")
TASK = TaskShape((3, 32, 32), 10)


def plain(supernet: Any, x: Tensor, mixture: list[Tensor]) -> Tensor:
    """Return what the supernet does, operation by operation."""
    space, names = supernet.space, supernet.space.block_operations
    before = last = supernet.body.stem(x)
    for cell in supernet.body.cells.values():
        start = 4 * space.blocks * (cell.place.kind == "reduce")
        states = [fit(value) for fit, value in zip(cell.preprocessing, (before, last), strict=True)]
        edges = dict(zip(cell.pairs, cell.edges, strict=True))
        unread = [[] for _ in range(space.blocks)]
        for block in range(space.blocks):
            total: Any = 0
            for term in range(2):
                inputs, operations = mixture[start + 4 * block + 2 * term :][:2]
                for state, value in enumerate(states):
                    modules = edges[state, 2 + block, term]
                    for i, name in enumerate(names):
                        total = total + inputs[state] * operations[i] * modules[name](value)
                    if state >= 2:
                        unread[state - 2].append(1 - inputs[state])
            states.append(total)
        parts = [
            value * torch.stack(shares).prod() if shares else value
            for value, shares in zip(states[2:], unread, strict=True)
        ]
        before, last = last, torch.cat(parts, 1)
    return last.relu().mean((2, 3))


def step_of(method: str, shape: str, dtype: torch.dtype) -> tuple[list[nn.Parameter], Callable[[], None]]:
    """Return what is learned, and what adds its gradient."""
    channels, repeats, batch = SHAPES[shape]
    torch.manual_seed(0)
    supernet: Any = EnasMicro(channels=channels, repeats=repeats).supernet(TASK)
    head = nn.Linear(supernet.out_features, TASK.outputs)
    alpha = [nn.Parameter(1e-3 * torch.randn(len(decision.choices))) for decision in supernet.decisions]
    x, y = torch.randn(batch, *TASK.input).to(dtype), torch.randint(TASK.outputs, (batch,))
    supernet, head = supernet.to(dtype), head.to(dtype)
    if method != "plain":
        supernet, x = (part.to(memory_format=torch.channels_last) for part in (supernet, x))
    alpha = [nn.Parameter(own.detach().to(dtype)) for own in alpha]

    def step() -> None:
        mixture = [own.softmax(0) for own in alpha]
        features = supernet(x, mixture) if method == "ours" else plain(supernet, x, mixture)
        F.cross_entropy(head(features), y).backward()

    return [*alpha, *head.parameters(), *supernet.parameters()], step


def gradient(method: str, shape: str) -> Tensor:
    """Return the gradients in float64."""
    learned, step = step_of(method, shape, torch.float64)
    step()
    return torch.cat([p.grad.flatten() for p in learned if p.grad is not None])


def work(method: str, shape: str) -> None:
    """Take a step a turn, and tell its seconds; at the end, how far its gradients are from the plain ones."""
    torch.set_num_threads(1)
    learned, step = step_of(method, shape, torch.float32)

    def turn() -> list[float]:
        for parameter in learned:
            parameter.grad = None
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        return [time.perf_counter() - wall, time.process_time() - cpu]

    def end() -> dict[str, float]:
        exact = gradient("plain", shape)
        return {"error": float((gradient(method, shape) - exact).norm() / exact.norm())}

    serve(turn, end)


def measure(shape: str, rounds: int) -> dict[str, dict[str, float]]:
    """Return each method's figures."""
    taken, ends = take_turns([__file__, "--shape", shape, "--method"], METHODS, rounds)
    found: dict[str, dict[str, float]] = {}
    for method in METHODS:
        wall, cpu = (1e3 * min(times) for times in zip(*taken[method], strict=True))
        found[method] = {"ms": wall, "cpu_ms": cpu, **ends[method]}
    for figures in found.values():
        figures["ratio"] = figures["ms"] / found["ours"]["ms"]
        figures["cpu_ratio"] = figures["cpu_ms"] / found["ours"]["cpu_ms"]
    return found


def table(report: dict[str, Any]) -> str:
    """Return the figures in Markdown."""
    lines = [
        "# One step of the supernet of ENAS's micro space",
        "",
        f"`{report['command']}`: loss and gradients of weights and mixture, 32×32 images, one thread,",
        "float32, the methods taking turns in processes of their own; the fastest step. A ratio is a",
        "method's time over ours. The error is that of the gradients in float64, relative to the plain ones.",
        "",
        "| | method | ms | ratio | CPU ms | ratio | error |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {shape} | {method} | {f['ms']:.0f} | {f['ratio']:.2f} | {f['cpu_ms']:.0f} | {f['cpu_ratio']:.2f} "
        f"| {f['error']:.0e} |"
        for shape, methods in report["shapes"].items()
        for method, f in methods.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=at_least(1), default=8, help="after one to warm up")
    parser.add_argument("--shape", choices=SHAPES, help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, help="a .json file; a table goes beside it, as .md")
    arguments = parser.parse_args()
    if arguments.method:
        work(arguments.method, arguments.shape)
        return
    report = {
        "command": f"python benchmarks/enas_step.py --rounds {arguments.rounds}",
        "environment": environment(),
        "shapes": {shape: measure(shape, arguments.rounds) for shape in SHAPES},
    }
    print(table(report))
    if arguments.output:
        arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        arguments.output.with_suffix(".md").write_text(table(report))


if __name__ == "__main__":
    main()
