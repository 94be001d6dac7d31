"""How well zero-cost proxies rank networks: cells of NAS-Bench-201, and few-shot networks trained here.

    NAS_DATA=… python benchmarks/proxies.py -o docs/results/proxies

On NAS-Bench-201: cells drawn at random, in the networks of the paper (16 channels, 5 cells a stage), against
their test accuracy on CIFAR-10 after 200 epochs. CIFAR-10 itself is not needed: the batch is 64 images of
noise, which `synflow` and the counts do not look at. On Omniglot: the 15 networks of `few_shot` whose scores
from scratch `docs/results/shared_weights.json` holds. And what choosing gains there: of eight random
networks the first, and the best by each of two proxies, are trained from scratch, again and again. What
FILE.json holds already is not measured again. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import pandas as pd
import torch
from arguments import at_least, data
from shared_weights import SEEDS, context, correlation, scratch

from nas import plugins
from nas.comparison.ranks import spearman
from nas.errors import Infeasible
from nas.evaluator import Budget, Context
from nas.intervals import half_width_over_seeds
from nas.proxies.base import measured
from nas.settings.sections import maker
from nas.space import Architecture
from nas.training.provenance import environment, proposal_rng, training_seed
from nas.training.proxies import Promised, subject

TRAINED = Path(__file__).parent.parent / "docs" / "results" / "shared_weights.json"
CHOOSING = ("synflow", "macs")
CANDIDATES = 8
SLOW = ("grasp",)
"""Left out on NAS-Bench-201: second derivatives of these networks take as long as all else together."""
SPACE = {"name": "nasbench201", "channels": 16, "cells": 5, "prune": False}


def nasbench201() -> Context:
    """Return the published networks before noise of CIFAR-10's shape, with a classifier's loss."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.npz"
        np.savez(path, x=rng.integers(256, size=(200, 3, 32, 32), dtype=np.uint8), y=np.arange(200) % 10)
        tasks = maker("tasks", {"name": "supervised", "path": str(path)})()
    return Context(maker("space", SPACE)(), tasks, maker("learner", {"name": "classifier"}), Budget())


def measure(made: Context, text: str, seed: int, names: Sequence[str]) -> dict[str, Any]:
    """Return proxies of an architecture, None where there is none, and their milliseconds."""
    architecture = made.space.decode(text)
    own = training_seed(seed, made.space.canonical(architecture), 0)
    try:
        untrained = subject(made.trainee(architecture), own)
    except Infeasible:
        return {}
    found = {}
    for name in names:
        proxy, began = plugins.load("proxy", name)(), time.perf_counter()
        try:
            value = measured(proxy, untrained)
        except Infeasible:
            value = None
        found[name] = [value, round(1000 * (time.perf_counter() - began), 1)]
    return found


def chosen(made: Context, number: int) -> dict[str, str]:
    """Return the network of a trial of random search, and those that proxies choose in its place."""
    seed, rng = SEEDS[0], proposal_rng(SEEDS[0], number)
    drawn = [made.space.sample(rng) for _ in range(CANDIDATES)]
    found = {"none": next(a for a in drawn if feasible(made, a))}
    for name in CHOOSING:
        promise = Promised(made, plugins.load("proxy", name)(), seed)
        found[name] = max(drawn, key=promise)
    return {name: made.space.encode(architecture) for name, architecture in found.items()}


def feasible(made: Context, architecture: Architecture) -> bool:
    try:
        made.space.cost(architecture, made.tasks.shape)
    except Infeasible:
        return False
    return True


def gains(report: dict[str, Any]) -> list[str]:
    """Return the page's part on what choosing gains."""
    rows = report["chosen"]
    scores = {name: [report["trained"][row[name]] for row in rows] for name in ("none", *CHOOSING)}
    lines = [
        "## What choosing by a proxy gains\n",
        textwrap.fill(
            f"{len(rows)} times, {CANDIDATES} random networks of `few_shot` on Omniglot, as `prescreen` "
            "draws them: the first that can be built, and the best by a proxy, each trained from scratch "
            f"(300 training episodes, 200 validation tasks, seed {SEEDS[0]}). Gain: over the first, paired, "
            "with Student's 95 % interval.",
            100,
        )
        + "\n",
        "| chosen by | mean score, % | gain, points | better than the first |",
        "|---|---|---|---|",
    ]
    for name, own in scores.items():
        differences = [a - b for a, b in zip(own, scores["none"], strict=True)]
        half = half_width_over_seeds(differences)
        gain = f"{fmean(differences):+.1f} ± {half:.1f}" if name != "none" and half is not None else ""
        better = "" if name == "none" else f"{sum(d > 0 for d in differences)} of {len(rows)}"
        lines.append(
            f"| {'nothing' if name == 'none' else f'`{name}`'} | {fmean(own):.1f} | {gain} | {better} |"
        )
    return [*lines, ""]


def ranked(values: Sequence[float | None]) -> list[float]:
    """Return values with the worst in place of those that are none."""
    known = [value for value in values if value is not None]
    return [min(known) - 1 if value is None else value for value in values]


def lines(report: dict[str, Any]) -> list[str]:
    cells, few = report["nasbench201"], report["few_shot"]
    accuracies = [report["accuracies"][text] for text in cells]
    means = [np.mean([report["scores"][str(seed)][text] for seed in SEEDS]) for text in few["1"]]
    own = [few[str(seed)] for seed in SEEDS]
    lines = [
        "# How well zero-cost proxies rank networks\n",
        f"`{report['command']}`\n",
        textwrap.fill(
            "ρ: Spearman's rank correlation, with its 95 % interval by Fisher's z. NAS-Bench-201: "
            f"{len(cells)} cells drawn at random, against the test accuracy on CIFAR-10 after 200 epochs; "
            "the batch is noise. Omniglot "
            f"20-way 1-shot: {len(means)} networks of `few_shot` with a prototypical learner, against their "
            "mean score from scratch over two training seeds; weights by each of these seeds. Between seeds: "
            "ρ of a proxy with itself under other weights. ms: the median of a network of `few_shot`, one "
            "thread.",
            100,
        )
        + "\n",
        "| proxy | NAS-Bench-201 | Omniglot, seed 1 | Omniglot, seed 2 | between seeds | ms |",
        "|---|---|---|---|---|---|",
    ]
    for name in plugins.installed("proxy"):
        values = [] if name in SLOW else ranked([found[name][0] for found in cells.values()])
        seeds = [ranked([found[name][0] for found in part.values()]) for part in own]
        between = spearman(*seeds)
        row = [
            f"`{name}`",
            correlation(values, accuracies) if values else "",
            *(correlation(part, means) for part in seeds),
            "" if between is None else f"{between:.2f}",
            f"{median(found[name][1] for part in own for found in part.values()):.0f}",
        ]
        lines.append(f"| {' | '.join(row)} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=at_least(4), default=60, help="of NAS-Bench-201")
    parser.add_argument("--choices", type=at_least(2), default=12, help="how often one is chosen of eight")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    table = pd.read_csv(data(parser, "nasbench201/nasbench201.csv.gz")).set_index("arch")["c10_test_200"]
    torch.set_num_threads(1)
    trained, output = json.loads(TRAINED.read_text()), arguments.output.with_suffix(".json")
    texts = trained["architectures"]
    scores = {
        seed: {text: fmean(map(float, runs[text].split())) for text in texts}
        for seed, runs in trained["scratch"].items()
    }
    order = np.random.default_rng(0).permutation(len(table))[: arguments.cells]
    drawn = {str(table.index[i]): float(table.iloc[i]) for i in order}
    report: dict[str, Any] = {
        "command": f"python benchmarks/proxies.py --cells {arguments.cells} --choices {arguments.choices}",
        "environment": environment(),
        "scores": scores,
        "accuracies": drawn,
        "few_shot": {str(seed): {} for seed in SEEDS},
        "nasbench201": {},
        "chosen": [],
        "trained": {},
    }
    before = json.loads(output.read_text()) if output.exists() else {}

    def fill(made: Context, known: dict[str, Any], part: dict[str, Any], seed: int, *without: str) -> None:
        names = [name for name in plugins.installed("proxy") if name not in without]
        for text in texts if made is few else drawn:
            part[text] = known.get(text) or measure(made, text, seed, names)
            output.write_text(json.dumps(report, indent=1) + "\n")

    few = context()
    for seed in SEEDS:
        known = before.get("few_shot", {}).get(str(seed), {})
        fill(few, known, report["few_shot"][str(seed)], seed)
    fill(nasbench201(), before.get("nasbench201", {}), report["nasbench201"], 1, *SLOW)
    for number in range(arguments.choices):
        row = chosen(few, number)
        report["chosen"].append(row)
        for text in row.values():
            if text not in report["trained"]:
                known = before.get("trained", {}).get(text)
                scored = known or fmean(map(float, scratch(few, few.space.decode(text), SEEDS[0]).split()))
                report["trained"][text] = scored
                output.write_text(json.dumps(report, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text("\n".join([*lines(report), *gains(report)]))


if __name__ == "__main__":
    main()
