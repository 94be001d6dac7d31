"""How far scores move from one kind of processor to another, under the same seeds.

    python benchmarks/processors.py -o docs/results/processors

Another kind is emulated by the instructions that torch, oneDNN and MKL may use, each in a process of its own.
Random networks of `few_shot` are trained on `glyphs` as a trial of the demo is, and scored on its validation
tasks. Every difference is that of one network under one training seed from its score on this machine with all
its instructions in float32 on one thread. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from arguments import at_least

from nas.errors import Infeasible
from nas.intervals import half_width_over_seeds
from nas.learners.prototypical import Prototypical
from nas.precision import Precision
from nas.space import Architecture
from nas.tasks.glyphs import Glyphs
from nas.training.loop import start
from nas.training.provenance import environment
from nas.training.scoring import score
from search_spaces.few_shot import FewShot


class Kind(NamedTuple):
    """How trials run.

    Attributes:
        variables: of the environment, which limit what libraries may use.
        precision: of the arithmetic.
        threads: of torch.
    """

    variables: Mapping[str, str] = MappingProxyType({})
    precision: Precision = "float32"
    threads: int = 1


def instructions(aten: str, onednn: str, mkl: str) -> dict[str, str]:
    """Return the variables that limit each library."""
    return {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn, "MKL_ENABLE_INSTRUCTIONS": mkl}


REFERENCE = "all instructions"
KINDS = {
    REFERENCE: Kind(),
    "the same again": Kind(),
    "AVX2 at most": Kind(instructions("avx2", "AVX2", "AVX2")),
    "SSE 4 at most": Kind(instructions("default", "SSE41", "SSE4_2")),
    "2 threads": Kind(threads=2),
    "bfloat16": Kind(precision="bfloat16"),
}


def measure(kind: Kind, networks: int, seeds: int, train: int, validation: int) -> list[dict[str, Any]]:
    """Return what each network scores under each training seed: before its training, and after."""
    torch.set_num_threads(kind.threads)
    space, tasks, rng = FewShot(), Glyphs(ways=5, shots=1), np.random.default_rng(0)
    drawn: list[Architecture] = []
    while len(drawn) < networks:
        architecture = space.sample(rng)
        with suppress(Infeasible):
            space.cost(architecture, tasks.shape)
            drawn.append(architecture)
    [episode] = tasks.episodes("validation", 1)
    found = []
    for architecture in drawn:
        for seed in range(seeds):
            training = start(space, architecture, tasks, Prototypical, kind.precision, train, seed)
            with torch.no_grad(), training.arithmetic.autocast():
                logits = training.learner.eval()(training.arithmetic.place(episode)).float()
            training.learner.train()
            for _ in training.until(train):
                pass
            after = score(training.learner, tasks, "validation", validation, training.arithmetic)
            found.append(
                {
                    "architecture": space.encode(architecture),
                    "seed": seed,
                    "logits": logits.flatten().tolist(),
                    "score": after.value,
                    "ci95": after.ci95,
                }
            )
    return found


def compared(rows: list[dict[str, Any]], reference: list[dict[str, Any]]) -> dict[str, float]:
    """Return how far a kind is from the reference."""
    pairs = list(zip(rows, reference, strict=True))
    logits = [
        float(np.linalg.norm(np.subtract(a["logits"], b["logits"])) / np.linalg.norm(b["logits"]))
        for a, b in pairs
    ]
    moved = [a["score"] - b["score"] for a, b in pairs]
    return {"logits": max(logits), **spread(moved)}


def spread(moved: list[float]) -> dict[str, float]:
    """Return the mean of differences with its 95 % interval, their mean size and the largest."""
    sizes = [abs(value) for value in moved]
    return {
        "mean": statistics.fmean(moved),
        "ci95": half_width_over_seeds(moved) or 0.0,
        "size": statistics.fmean(sizes),
        "largest": max(sizes),
    }


def page(report: dict[str, Any]) -> str:
    budget, machine = report["budget"], report["environment"]
    lines = [
        "# Scores on other kinds of processors",
        "",
        f"`{report['command']}`",
        "",
        f"{budget['networks']} random networks of `few_shot`, each under {budget['seeds']} training seeds:",
        f"prototypical learner, `glyphs` 5-way 1-shot, {budget['train']} training episodes, scored on",
        f"{budget['validation']} validation tasks. This machine: {machine['processor']},",
        f"{machine['instructions']}. The first column is the largest relative difference of a network's",
        "logits before its training, in the Euclidean norm. The others are differences of the accuracy",
        "after it, in points: their mean (± half of its 95 % interval), their mean size, and the largest.",
        "",
        "| | logits before training | mean | mean size | largest |",
        "|---|---|---|---|---|",
    ]
    for name, row in report["kinds"].items():
        lines.append(f"| {name} | {row['logits']:.0e} | {points(row)} |")
    lines.append(f"| another training seed | | {points(report['seeds'])} |")
    lines += [
        "",
        f"A score's own 95 % interval over validation tasks is ± {100 * report['ci95']:.1f} points.",
        "",
    ]
    return "\n".join(lines)


def points(row: dict[str, float]) -> str:
    mean, half, size, largest = (100 * row[key] for key in ("mean", "ci95", "size", "largest"))
    return f"{mean:+.2f} ± {half:.2f} | {size:.2f} | {largest:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=at_least(2), default=8)
    parser.add_argument("--seeds", type=at_least(2), default=2)
    parser.add_argument("--train", type=at_least(1), default=200, help="training episodes")
    parser.add_argument("--validation", type=at_least(2), default=400, help="validation tasks")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    budget = {key: getattr(arguments, key) for key in ("networks", "seeds", "train", "validation")}
    if arguments.kind is not None:
        print(json.dumps(measure(KINDS[arguments.kind], **budget)))
        return
    if arguments.output is None:
        parser.error("-o is missing.")
    found: dict[str, list[dict[str, Any]]] = {}
    for name, kind in KINDS.items():
        print(name, file=sys.stderr, flush=True)
        command = [sys.executable, __file__, f"--kind={name}", *(f"--{k}={v}" for k, v in budget.items())]
        variables = {**os.environ, **kind.variables}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=variables)
        found[name] = json.loads(done.stdout)
    reference = found[REFERENCE]
    scores = np.reshape([row["score"] for row in reference], (-1, arguments.seeds))
    report = {
        "command": "python benchmarks/processors.py " + " ".join(f"--{k} {v}" for k, v in budget.items()),
        "environment": environment(),
        "budget": budget,
        "kinds": {name: compared(rows, reference) for name, rows in found.items() if name != REFERENCE},
        "seeds": spread(cast(list[float], (scores[:, 1] - scores[:, 0]).tolist())),
        "ci95": statistics.fmean(row["ci95"] for row in reference),
        "scores": {name: [row["score"] for row in rows] for name, rows in found.items()},
    }
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
