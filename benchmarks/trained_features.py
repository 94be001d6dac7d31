"""LEO and imaginary data on features that are trained once, on Omniglot, beside learners that are simpler.

    python benchmarks/trained_features.py -o docs/results/trained_features

A prototypical network with the four-layer network learns features; these are computed once for all images,
and stay as they are. On them learn: prototypes, ANIL, LEO with and without steps on its codes and on features
with noise added, and hallucination with its rivals around three readouts. All are tested on the same tasks.
Runs that FILE.json holds are not made again. Writes FILE.json and FILE.md, and FILE.npz: the features of each
seed are made again only where they are gone.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import at_least, data
from resumable import Runs, cell, trained

from nas.settings.evaluation import validate
from nas.tasks.base import SPLITS
from nas.training.scoring import lenient_scores

NOISE = 0.5
"""Deviation of the noise on features, in deviations of these."""

METHODS: dict[str, dict[str, Any]] = {
    "prototypical": {"name": "prototypical"},
    "anil": {"name": "anil"},
    "leo, no steps": {"name": "leo", "inner_steps": 0, "weight_steps": 0},
    "leo": {"name": "leo"},
    "leo, noisy features": {"name": "leo"},
    **{
        f"{readout}, {by}, {imagined}": {
            "name": "hallucinate",
            "readout": readout,
            "by": by,
            "imagined": imagined,
        }
        for readout in ("prototypical", "matching", "logistic")
        for by in ("generator", "shift", "noise", "calibration")
        for imagined in (1, 3)
    },
    **{
        f"{readout}, nothing imagined": {"name": "hallucinate", "readout": readout, "imagined": 0}
        for readout in ("prototypical", "matching", "logistic")
    },
}


def features(ways: int, episodes: int, seed: int, path: Path) -> Path:
    """Train features and write them, unless the file is there."""
    if path.exists():
        return path
    config = validate(
        {
            "space": {"name": "chain"},
            "tasks": {"name": "omniglot", "ways": ways, "shots": 1, "queries": 5},
            "learner": {"name": "prototypical", "normalization": "running"},
        }
    )
    training, tasks = trained(config, "conv4", episodes, seed)
    network, found = training.learner.eval().backbone, []
    names, splits = list[str](), list[str]()
    with torch.no_grad():
        for split in SPLITS:
            for name, examples in tasks.examples(split):
                found.append(network(examples.to(training.arithmetic.device)).float().cpu().numpy())
                names += [name] * len(examples)
                splits += [split] * len(examples)
    np.savez(path, features=np.concatenate(found), classes=np.array(names), splits=np.array(splits))
    return path


def noisy(path: Path, seed: int) -> Path:
    """Write the features with noise."""
    target = path.with_name(f"{path.stem}-noisy.npz")
    arrays = dict(np.load(path))
    x = arrays["features"]
    noise = np.random.default_rng(seed).normal(0, NOISE * x.std(), x.shape).astype(x.dtype)
    np.savez(target, **{**arrays, "features": x + noise})
    return target


def run(method: str, ways: int, episodes: int, tested: int, path: Path, seed: int) -> dict[str, Any]:
    used = noisy(path, seed) if "noisy" in method else path
    config = validate(
        {
            "space": {"name": "mlp"},
            "tasks": {"name": "features", "path": str(used), "ways": ways, "shots": 1, "queries": 5},
            "learner": {**METHODS[method], "meta_batch": 4},
        }
    )
    training, tasks = trained(config, "0-0-0-relu", episodes, seed)
    scores, _ = lenient_scores(training.learner, tasks, "test", tested, training.arithmetic)
    return {"accuracy": scores, "measurements": dict(training.learner.measurements())}


def page(runs: Runs, methods: list[str], seeds: int, ways: int) -> str:
    lines = [
        f"# Learners on trained features: Omniglot, {ways}-way 1-shot\n",
        f"`{runs.report['command']}`\n",
        f"Test accuracy in %: means with half of their 95 % intervals over tasks and over {seeds} seeds, of",
        "the features and of the learner. The variance is that which noise makes of what is imagined.\n",
        "| learner | accuracy | variance |",
        "|---|---|---|",
    ]
    for method in methods:
        of = [runs[f"{method}/{seed}"] for seed in range(seeds)]
        variances = [
            one["measurements"]["imagined_variance"]
            for one in of
            if "imagined_variance" in one["measurements"]
        ]
        variance = f"{np.mean(variances):.2g}" if variances else ""
        lines.append(f"| {method} | {cell([one['accuracy'] for one in of], 100)} | {variance} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=at_least(1), default=3)
    parser.add_argument("--ways", type=at_least(2), default=20)
    parser.add_argument("--first", type=at_least(1), default=4000, help="training tasks of the features")
    parser.add_argument(
        "--episodes", type=at_least(1), default=8000, help="training tasks of a learner on them"
    )
    parser.add_argument("--tested", type=at_least(2), default=1000, help="test tasks")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    data(parser, "omniglot")
    torch.set_num_threads(1)
    sizes = {name: getattr(arguments, name) for name in ("ways", "first", "episodes", "tested")}
    told = " ".join(f"--{name} {value}" for name, value in {"seeds": arguments.seeds, **sizes}.items())
    command = f"python benchmarks/trained_features.py {told}"
    runs = Runs(parser, arguments.output.with_suffix(".json"), sizes, command)
    for seed in range(arguments.seeds):
        path = arguments.output.with_name(f"{arguments.output.stem}-{seed}.npz").absolute()
        for method in arguments.methods:
            key = f"{method}/{seed}"
            if key not in runs:
                features(arguments.ways, arguments.first, seed, path)
            sized = (arguments.ways, arguments.episodes, arguments.tested)
            runs.once(key, partial(run, method, *sized, path, seed))
    runs.save()
    arguments.output.with_suffix(".md").write_text(
        page(runs, arguments.methods, arguments.seeds, arguments.ways)
    )


if __name__ == "__main__":
    main()
