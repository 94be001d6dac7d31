"""One meta-step of second-order MAML, against `higher` and `torchopt`, and against a plain loop.

    pip install higher torchopt
    python benchmarks/meta_step.py -o docs/results/meta_step

The same Conv-4 and the same tasks, in the shapes of Omniglot; every method in a process of its own, the
methods taking turns, so that what else the machine does hits all alike. A figure is the fastest of all
steps. Memory is the peak of the process. Gradients are compared with the loop's in float64. Writes FILE.json
and FILE.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from arguments import at_least, require
from torch import nn
from torch.func import functional_call
from turns import serve, take_turns

from nas.learners.maml import Maml
from nas.precision import choose
from nas.space import TaskShape
from nas.tasks.base import Episode
from nas.training.provenance import environment
from search_spaces.chain import Chain

SHAPES = {
    "5-way 1-shot, 1 query, 32 tasks, 1 step": (5, 1, 32, 1),
    "5-way 1-shot, 15 queries, 32 tasks, 1 step": (5, 15, 32, 1),
    "20-way 1-shot, 1 query, 16 tasks, 5 steps": (20, 1, 16, 5),
}
"""Ways, queries a class, tasks, inner steps."""
OTHERS = ("loop", "higher", "torchopt", "plain training", "convolutions")
FLOORS = ("plain training", "convolutions")
METHODS = ("ours", "ours bfloat16", *OTHERS)
INNER_LR = 0.01
"""At larger rates five steps amplify rounding until no float32 gradient agrees with another."""
CHUNK = 80
"""Images in a batch of plain training: their maps fit a core's cache."""


def tasks_of(shape: str, dtype: torch.dtype) -> Episode:
    """Draw tasks whose classes are random strokes, seen through noise."""
    ways, queries, tasks, _ = SHAPES[shape]
    rng = np.random.default_rng(0)
    classes = rng.random((tasks, ways, 1, 1, 28, 28)) < 0.1

    def draw(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = np.clip(classes + 0.1 * rng.normal(size=(tasks, ways, number, 1, 28, 28)), 0, 1)
        y = np.tile(np.repeat(np.arange(ways), number), (tasks, 1))
        return torch.from_numpy(x.reshape(tasks, -1, 1, 28, 28)).to(dtype), torch.from_numpy(y)

    return Episode(*draw(1), *draw(queries), ways, 1, np.zeros((tasks, ways), np.int64))


def learner_of(shape: str) -> Maml:
    ways, _, tasks, steps = SHAPES[shape]
    torch.manual_seed(0)
    space, task = Chain(), TaskShape((1, 28, 28), ways)
    backbone = space.build(space.decode("conv4"), task)
    return Maml(backbone, task, inner_lr=INNER_LR, inner_steps=steps, meta_batch=tasks)


def loop(network: nn.Module, episode: Episode, steps: int) -> None:
    for task in episode:
        weights = dict(network.named_parameters())
        for _ in range(steps):
            loss = F.cross_entropy(functional_call(network, weights, task.support_x[0]), task.support_y[0])
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            pairs = zip(weights.items(), gradients, strict=True)
            weights = {name: weight - INNER_LR * gradient for (name, weight), gradient in pairs}
        loss = F.cross_entropy(functional_call(network, weights, task.query_x[0]), task.query_y[0])
        (loss / len(episode)).backward()


def with_higher(network: nn.Module, episode: Episode, steps: int) -> None:
    import higher

    inner = torch.optim.SGD(network.parameters(), lr=INNER_LR)
    for task in episode:
        with higher.innerloop_ctx(network, inner, copy_initial_weights=False) as (adapted, optimizer):
            for _ in range(steps):
                optimizer.step(F.cross_entropy(adapted(task.support_x[0]), task.support_y[0]))
            (F.cross_entropy(adapted(task.query_x[0]), task.query_y[0]) / len(episode)).backward()


def with_torchopt(network: nn.Module, episode: Episode, steps: int) -> None:
    import torchopt

    optimizer = torchopt.MetaSGD(network, lr=INNER_LR)
    initial = [torchopt.extract_state_dict(part, by="reference") for part in (network, optimizer)]
    for task in episode:
        for _ in range(steps):
            optimizer.step(F.cross_entropy(network(task.support_x[0]), task.support_y[0]))
        (F.cross_entropy(network(task.query_x[0]), task.query_y[0]) / len(episode)).backward()
        for part, state in zip((network, optimizer), initial, strict=True):
            torchopt.recover_state_dict(part, state)


def plain_training(network: nn.Module, episode: Episode, steps: int) -> None:
    """Pass through ordinary training as often as the meta-gradient's multiplications amount to.

    A convolution has 3 products in training: forward, for its input, for its weight. Differentiated twice it
    has 9: these, 4 for the derivative of the backward pass, and 2 more for what that adds to the forward's.
    So a query counts once and a support image three times an inner step.
    """
    support, labels = episode.support_x.flatten(0, 1), episode.support_y.flatten()
    images = torch.cat([*[support] * (3 * steps), episode.query_x.flatten(0, 1)])
    targets = torch.cat([*[labels] * (3 * steps), episode.query_y.flatten()])
    images = images.contiguous(memory_format=torch.channels_last)
    batches = list(zip(images.split(CHUNK), targets.split(CHUNK), strict=True))
    threads = torch.get_num_threads()
    copies = [copy.deepcopy(network).to(memory_format=torch.channels_last) for _ in range(threads)]  # type: ignore[call-overload]

    def train(thread: int) -> None:
        for x, y in batches[thread::threads]:
            F.cross_entropy(copies[thread](x), y).backward()

    side_by_side(train)


def convolutions(network: nn.Module, episode: Episode, steps: int) -> None:
    """Compute the convolutions of the meta-gradient alone, with shared weights: nothing between them."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    tasks, threads = list(episode), torch.get_num_threads()

    def train(thread: int) -> None:
        for task in tasks[thread::threads]:
            for images in [task.support_x[0]] * (3 * steps) + [task.query_x[0]]:
                x = images.contiguous(memory_format=torch.channels_last)
                for i, layer in enumerate(layers):
                    geometry = (layer.stride, layer.padding, layer.dilation, False, (0, 0), 1)
                    y = torch.convolution(x, layer.weight, None, *geometry)
                    torch.ops.aten.convolution_backward.default(
                        y, x, layer.weight, None, *geometry, (i > 0, True, False)
                    )
                    x = y

    with torch.no_grad():
        side_by_side(train)


def side_by_side(work: Callable[[int], None]) -> None:
    """Do something once a thread, each on a core of its own."""
    threads, recording = torch.get_num_threads(), torch.is_grad_enabled()

    def alone(thread: int) -> None:
        torch.set_num_threads(1)
        with torch.set_grad_enabled(recording):
            work(thread)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(alone, range(threads)))


def meta_step(method: str, shape: str, dtype: torch.dtype) -> tuple[nn.Module, Callable[[], None]]:
    """Return the network and what adds its meta-gradient."""
    learner, episode = learner_of(shape), tasks_of(shape, dtype)
    if method.startswith("ours"):
        precision: Any = "bfloat16" if method.endswith("bfloat16") else "float32"
        arithmetic = choose(precision, images=True, sensitive=True)
        learner = arithmetic.prepare(learner.to(dtype))

        def step() -> None:
            with arithmetic.autocast():
                learner.meta_backward(episode)

        return learner.network, step
    network = learner.network.to(dtype)
    do = {
        "loop": loop,
        "higher": with_higher,
        "torchopt": with_torchopt,
        "plain training": plain_training,
        "convolutions": convolutions,
    }[method]
    return network, lambda: do(network, episode, SHAPES[shape][3])


def gradient(method: str, shape: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    network, step = meta_step(method, shape, dtype)
    step()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).double()


def work(method: str, shape: str, threads: int) -> None:
    """Take a step a turn, and tell its seconds; at the end, peak memory and error."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    network, step = meta_step(method, shape, torch.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def turn() -> list[float]:
        network.zero_grad()
        began = time.perf_counter()
        step()
        return [time.perf_counter() - began]

    def end() -> dict[str, float]:
        if method in FLOORS:
            return {}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        exact, found = gradient("loop", shape, torch.float64), gradient(method, shape)
        error = float((found - exact).norm() / exact.norm())
        return {"peak_mb": peak / 1024, "growth_mb": (peak - before) / 1024, "error": error}

    serve(turn, end)


def measure(shape: str, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    command = [__file__, "--threads", str(threads), "--shape", shape, "--method"]
    taken, ends = take_turns(command, METHODS, rounds)
    found = {
        method: {"ms": 1e3 * min(seconds for (seconds,) in taken[method]), **ends[method]}
        for method in METHODS
    }
    for other in OTHERS:
        found[other]["ratio"] = found[other]["ms"] / found["ours"]["ms"]
    return found


def report(results: dict[str, Any], command: str) -> str:
    lines = [
        "# One meta-step of second-order MAML",
        "",
        f"`{command}`",
        "",
        "Conv-4, float32, the methods taking turns in processes of their own; milliseconds are the fastest",
        "step. A ratio is the other's time over ours. The error is the gradient's, against the loop's in",
        "float64. Memory is ours over the loop's, at the peak of the process. Two columns are floors. Plain",
        "training: as many multiplications as the meta-gradient takes, by forward and backward passes with",
        f"shared weights, in batches of {CHUNK} images. Convolutions: these alone, with nothing between",
        "them, one task at a time, a thread for each: where they take more than half of another's time,",
        "nothing that calls them in float32 is twice as fast.",
    ]
    for threads, shapes in results["threads"].items():
        lines += [
            "",
            f"## {threads} thread{'s' if threads != '1' else ''}",
            "",
            "| | ours | ours, bfloat16 | " + " | ".join(OTHERS) + " | error, ours | error, higher | memory |",
            "|---" * (len(OTHERS) + 6) + "|",
        ]
        for shape, found in shapes.items():
            ours, low = found["ours"], found["ours bfloat16"]
            others = " | ".join(
                f"{found[other]['ms']:.0f} ms ({found[other]['ratio']:.2f} ×)" for other in OTHERS
            )
            lines.append(
                f"| {shape} | {ours['ms']:.0f} ms | {low['ms']:.0f} ms (error {low['error']:.0e}) "
                f"| {others} | {ours['error']:.0e} | {found['higher']['error']:.0e} | "
                f"{ours['peak_mb'] / found['loop']['peak_mb']:.2f} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=at_least(1), nargs="+", default=[2, 1])
    parser.add_argument("--rounds", type=at_least(1), default=12, help="after one to warm up")
    parser.add_argument("--shape", choices=SHAPES, help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    if arguments.method:
        work(arguments.method, arguments.shape, arguments.threads[0])
        return
    require(parser, "higher", "torchopt")
    results: dict[str, Any] = {"environment": environment(), "threads": {}}
    for threads in arguments.threads:
        shapes = results["threads"][str(threads)] = {}
        for shape in SHAPES:
            found = shapes[shape] = measure(shape, threads, arguments.rounds)
            print(f"{shape}, threads: {threads}")
            for method, figures in found.items():
                ratio = f"{figures['ratio']:5.2f} x ours" if "ratio" in figures else ""
                print(
                    f"  {method:14} {figures['ms']:7.0f} ms {ratio:13} peak {figures['peak_mb']:5.0f} MB "
                    f"(+{figures['growth_mb']:.0f})  error {figures['error']:.1e}"
                    if "error" in figures
                    else f"  {method:14} {figures['ms']:7.0f} ms {ratio}",
                    flush=True,
                )
    if arguments.output:
        arguments.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        asked = f"--threads {' '.join(map(str, arguments.threads))} --rounds {arguments.rounds}"
        command = f"python benchmarks/meta_step.py {asked}"
        arguments.output.with_suffix(".md").write_text(report(results, command))


if __name__ == "__main__":
    main()
