"""One first-order step of a DARTS supernet, against a plain mixed-operation cell.

    python benchmarks/supernet_step.py -o docs/results/supernet_step.json

A step is the loss of one batch and its gradients of all weights and of α. The plain cell has one module an
edge and operation and adds up what they return; it is measured with its channels in either place in memory.
Same weights, same batch, one thread; every method in a process of its own, the methods taking turns, so that
what else the machine does hits all alike. A figure is the fastest of all steps. Memory is the peak of the
process. Gradients are compared with the plain cell's in float64, relative to their norm: computed in float64
too, they tell whether both are the same function, and in float32, compared with the plain cell's own error,
how much rounding does.
"""

from __future__ import annotations

import argparse
import json
import resource
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
from search_spaces.darts import Darts

SHAPES = {"8 channels, 4 cells, batch 32": (8, 4, 32), "16 channels, 8 cells, batch 16": (16, 8, 16)}
METHODS = ("ours", "plain", "plain, channels last")
SIDE, CLASSES = 32, 10
TASK = TaskShape((3, SIDE, SIDE), CLASSES)


def norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


def separable(channels: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    reach = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, reach, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        norm(channels),
    ]


class Nothing(nn.Module):
    """The operation `none`."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0


class Reduction(nn.Module):
    """A factorized reduction."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(channels, out_channels // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(channels, out_channels // 2, 1, 2, bias=False)
        self.norm = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], 1))


class PlainEdge(nn.Module):
    """A module an operation, all of them mixed."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.operations = nn.ModuleList(
            [
                Nothing(stride),
                nn.Sequential(nn.MaxPool2d(3, stride, 1), norm(channels)),
                nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), norm(channels)),
                nn.Identity() if stride == 1 else Reduction(channels, channels),
                nn.Sequential(*separable(channels, 3, stride), *separable(channels, 3, 1)),
                nn.Sequential(*separable(channels, 5, stride), *separable(channels, 5, 1)),
                nn.Sequential(*separable(channels, 3, stride, 2)),
                nn.Sequential(*separable(channels, 5, stride, 2)),
            ]
        )

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(w * operation(x) for w, operation in zip(weights, self.operations, strict=True))


class PlainCell(nn.Module):
    """A cell as its definition says."""

    def __init__(self, inputs: tuple[int, int], channels: int, *, reduces: bool, halve: bool) -> None:
        super().__init__()
        self.preprocessing = nn.ModuleList(
            Reduction(wide, channels)
            if halve and not i
            else nn.Sequential(nn.ReLU(), nn.Conv2d(wide, channels, 1, bias=False), norm(channels))
            for i, wide in enumerate(inputs)
        )
        self.edges = nn.ModuleList(
            PlainEdge(channels, 2 if reduces and state < 2 else 1)
            for node in range(4)
            for state in range(2 + node)
        )

    def forward(self, before: Tensor, last: Tensor, weights: Tensor) -> Tensor:
        states = [fit(x) for fit, x in zip(self.preprocessing, (before, last), strict=True)]
        edges = iter(zip(self.edges, weights, strict=True))
        for _ in range(4):
            states.append(sum(edge(x, w) for x, (edge, w) in zip(list(states), edges, strict=False)))
        return torch.cat(states[2:], 1)


class Plain(nn.Module):
    """The network, its parameters in the order of the supernet's."""

    def __init__(self, channels: int, cells: int) -> None:
        super().__init__()
        widths, halve = [3 * channels] * 2, False
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0], track_running_stats=False),
        )
        self.cells, self.kinds = nn.ModuleList(), []
        for i in range(cells):
            reduces = i in (cells // 3, 2 * cells // 3)
            channels *= 2 if reduces else 1
            self.cells.append(PlainCell((widths[-2], widths[-1]), channels, reduces=reduces, halve=halve))
            self.kinds.append(int(reduces))
            widths.append(4 * channels)
            halve = reduces

    def forward(self, x: Tensor, mixture: list[Tensor]) -> Tensor:
        weights = torch.stack(mixture).unflatten(0, (2, -1))
        before = last = self.stem(x)
        for cell, kind in zip(self.cells, self.kinds, strict=True):
            before, last = last, cell(before, last, weights[kind])
        return last.mean((2, 3))


def step_of(method: str, shape: str, dtype: torch.dtype) -> tuple[list[nn.Parameter], Callable[[], None]]:
    """Return what is learned, and what adds its gradient."""
    channels, cells, batch = SHAPES[shape]
    torch.manual_seed(0)
    network: nn.Module = Darts(channels=channels, cells=cells).supernet(TASK)
    head, alpha = nn.Linear(network.out_features, CLASSES), nn.Parameter(1e-3 * torch.randn(28, 8))
    x, y = torch.randn(batch, *TASK.input).to(dtype), torch.randint(CLASSES, (batch,))
    if method != "ours":
        plain = Plain(channels, cells)
        for own, given in zip(plain.parameters(), network.parameters(), strict=True):
            own.data.copy_(given.data)
        network = plain
    network = network.to(dtype)
    if method != "plain":
        network, x = (part.to(memory_format=torch.channels_last) for part in (network, x))
    head, alpha = head.to(dtype), nn.Parameter(alpha.detach().to(dtype))

    def step() -> None:
        features = network(x, list(alpha.softmax(1)))
        F.cross_entropy(head(features), y).backward()

    return [alpha, *head.parameters(), *network.parameters()], step


def gradient(method: str, shape: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return the gradients of α and of the weights."""
    learned, step = step_of(method, shape, dtype)
    step()
    alpha, *weights = (parameter.grad.double().flatten() for parameter in learned)
    return [alpha, torch.cat(weights)]


def work(method: str, shape: str) -> None:
    """Take a step a turn, and tell its seconds; at the end, peak memory and errors."""
    torch.set_num_threads(1)
    learned, step = step_of(method, shape, torch.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def turn() -> list[float]:
        for parameter in learned:
            parameter.grad = None
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        return [time.perf_counter() - wall, time.process_time() - cpu]

    def end() -> dict[str, float]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        figures = {"peak_mb": peak / 1024, "growth_mb": (peak - before) / 1024}
        exact = gradient("plain", shape, torch.float64)
        for name, dtype in {"float32": torch.float32, "float64": torch.float64}.items():
            pairs = zip(gradient(method, shape, dtype), exact, strict=True)
            alpha, weights = (float((found - expected).norm() / expected.norm()) for found, expected in pairs)
            figures |= {f"error_alpha_{name}": alpha, f"error_weights_{name}": weights}
        return figures

    serve(turn, end)


def measure(shape: str, rounds: int) -> dict[str, dict[str, float]]:
    """Return each method's figures."""
    taken, ends = take_turns([__file__, "--shape", shape, "--method"], METHODS, rounds)
    found = {}
    for method in METHODS:
        wall, cpu = (1e3 * min(times) for times in zip(*taken[method], strict=True))
        found[method] = {"ms": wall, "cpu_ms": cpu, **ends[method]}
    for figures in found.values():
        figures["ratio"] = figures["ms"] / found["ours"]["ms"]
        figures["cpu_ratio"] = figures["cpu_ms"] / found["ours"]["cpu_ms"]
    return found


def table(shapes: dict[str, Any]) -> str:
    """Return the figures in Markdown."""
    lines = [
        "# One step of a DARTS supernet",
        "",
        "`python benchmarks/supernet_step.py`: loss and gradients of weights and α, 32×32 images, one",
        "thread, float32, the methods taking turns in processes of their own; the fastest step. A ratio is",
        "a method's time over ours. Errors are those of the gradients of the weights / of α, relative,",
        "against the plain cell in float64: computed in float64 both are the same, in float32 every method",
        "rounds in its own way.",
        "",
        "| | method | ms | ratio | CPU ms | ratio | peak MB | error in float64 | error in float32 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {shape} | {method} | {f['ms']:.0f} | {f['ratio']:.2f} | {f['cpu_ms']:.0f} | "
        f"{f['cpu_ratio']:.2f} | {f['peak_mb']:.0f} | "
        + " | ".join(
            f"{f['error_weights_' + d]:.0e} / {f['error_alpha_' + d]:.0e}" for d in ("float64", "float32")
        )
        + " |"
        for shape, methods in shapes.items()
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
    shapes = {shape: measure(shape, arguments.rounds) for shape in SHAPES}
    print(table(shapes))
    if arguments.output:
        results = {"threads": 1, "environment": environment(), "shapes": shapes}
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
        arguments.output.with_suffix(".md").write_text(table(shapes))


if __name__ == "__main__":
    main()
