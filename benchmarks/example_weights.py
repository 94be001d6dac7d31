"""Weights of examples under wrong labels and a long tail: learned, and what they must beat.

    python benchmarks/example_weights.py -o docs/results/example_weights

The ten characters of an alphabet of `glyphs`, drawn 700 times each and averaged down to 14×14, are ordinary
data: 5,000 images to train on, 1,000 to validate and 1,000 to test. Labels of 40 % of the training images
are drawn anew, or flipped; ten clean images of each class are taken out of training. Then two of the
characters, 199 of the first for one of the second, with five clean images of each. A small LeNet learns by
each method; plain training, and with two characters every method, has two learning rates, and what is tested
is the better one on validation images.
Runs that FILE.json holds are not made again. Writes FILE.json and FILE.md. With `--times` it adds how long a
step takes, by turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from arguments import at_least
from torch import Tensor, nn
from turns import serve, take_turns

from nas.files import replacing
from nas.intervals import half_width_over_seeds
from nas.learners.base import Learner, Losses
from nas.learners.classifier import Classifier
from nas.learners.learning_to_reweight import LearningToReweight
from nas.learners.meta_weight_net import MetaWeightNet
from nas.learners.virtual import VirtualStep
from nas.learners.weighting import Judged, Uniform, Weighting
from nas.precision import Arithmetic, choose
from nas.tasks.base import Episode, Split, TaskSource
from nas.tasks.glyphs import CHARACTERS, draw_alphabet
from nas.tasks.supervised import Supervised
from nas.training.loop import Training
from nas.training.provenance import environment
from nas.training.scoring import score

DRAWINGS = 700
BATCH = 100
CASES: dict[str, dict[str, Any]] = {
    "uniform": {"clean": 10, "noise": "uniform", "noise_rate": 0.4},
    "flip": {"clean": 10, "noise": "flip", "noise_rate": 0.4},
    "imbalance": {"clean": 5, "imbalance": 199.0},
}
MWN = {
    "meta_weight_net": MetaWeightNet,
    "meta_weight_net as published": partial(MetaWeightNet, normalized=False, lr=1e-3),
}
METHODS = ("plain", "clean only", "fine-tuned", "ratio", "learning_to_reweight", *MWN)
RATE = 0.1
SWEPT = (RATE, 0.03)
"""Of plain training, which learned weights of a mean below 1 must be compared with."""
RARE = (RATE, 0.01)
"""Of every method where classes are rare: the paper of `learning_to_reweight` takes 0.001 there."""
WEIGHED = 2000
"""Training examples whose weights are compared with what is known of their labels."""
FINE = 0.1
"""Share of the steps that fine-tuning takes, at a tenth of the rate."""

TIMED = {
    "plain": (Uniform, 10),
    "learning_to_reweight, 10 clean": (LearningToReweight, 10),
    "learning_to_reweight, 100 clean": (LearningToReweight, 100),
    "meta_weight_net, 10 clean": (MetaWeightNet, 10),
    "meta_weight_net, 100 clean": (MetaWeightNet, 100),
}


class LeNet(nn.Sequential):
    """Two convolutions, two max-pools and a hidden layer, for images of 14×14 or 28×28."""

    out_features = 100

    def __init__(self, size: int, kernel: int) -> None:
        side = ((size - kernel + 1) // 2 - kernel + 1) // 2
        super().__init__(
            *(nn.Conv2d(1, 16, kernel), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, kernel), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * side * side, 100), nn.ReLU()),
        )


class Ratio(Weighting):
    """Weighs each class by the inverse of its share."""

    name = "ratio"

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, losses: Tensor, targets: Tensor) -> Tensor:
        """Return the weight of each label."""
        return self.weights[targets]  # type: ignore[index]


class CleanOnly(TaskSource):
    """The clean examples of a source in place of its training examples."""

    name = "clean"

    def __init__(self, tasks: Supervised) -> None:
        self._tasks = tasks

    shape = property(lambda self: self._tasks.shape)
    label = property(lambda self: self._tasks.label)

    def fingerprint(self, split: Split) -> tuple[str, str]:
        """Return that of the source."""
        return self._tasks.fingerprint(split)

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        """Draw clean minibatches."""
        clean = self._tasks.sample(split, tasks, rng).clean
        assert clean is not None
        return clean


def images(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images `[N, 14, 14]` and their labels: of all ten characters, or of two for the imbalance."""
    classes = 2 if case == "imbalance" else CHARACTERS
    drawn = draw_alphabet(np.random.default_rng(0), DRAWINGS * CHARACTERS // classes)
    kept = drawn[: DRAWINGS * CHARACTERS].astype(np.float64)
    x = kept.reshape(len(kept), 14, 2, 14, 2).mean((2, 4))
    return np.rint(x).astype(np.uint8), np.arange(classes).repeat(len(kept) // classes)


def source(case: str, seed: int, folder: Path) -> Supervised:
    """Return the data of a case, divided and made worse by the seed."""
    path = folder / f"{case}.npz"
    if not path.exists():
        x, y = images(case)
        np.savez(path, x=x, y=y)
    share = 1 / 7
    return Supervised(
        path=str(path), batch=BATCH, train=1 - 2 * share, validation=share, split_seed=seed, **CASES[case]
    )


def made(method: str, tasks: Supervised, rate: float, seed: int) -> Learner:
    """Return the learner of a method, with weights of the seed."""
    torch.manual_seed(seed)
    learner = Classifier(LeNet(14, 3), tasks.shape, lr=rate, weight_decay=5e-4)
    if method == "learning_to_reweight":
        return learner.equip(weighting=LearningToReweight)
    if method in MWN:
        return learner.equip(weighting=MWN[method])
    if method == "ratio":
        numbers, _ = tasks.wrong()
        labels = tasks.minibatches(numbers[None]).query_y[0]
        weights = len(labels) / labels.bincount() / tasks.shape.outputs
        return learner.equip(weighting=lambda: Ratio(weights))
    return learner


def weights_of(learner: Learner, tasks: Supervised, seed: int) -> tuple[Tensor, Tensor]:
    """Return the weights that a learner gives the training examples now, and which have a wrong label.

    A learner that weighs all alike is asked for its losses: the less, the rather it trusts an example.
    """
    numbers, wrong = tasks.wrong()
    rng = np.random.default_rng([seed, 9])
    found = []
    for start in range(0, WEIGHED, BATCH):
        batch = tasks.minibatches(numbers[None, start : start + BATCH])
        clean = tasks.sample("train", 1, rng).clean
        assert clean is not None
        step = VirtualStep(Losses(learner), batch, clean, learner.optimizer())
        losses, weighting = step.losses.detach(), learner.weighting
        if isinstance(weighting, LearningToReweight):
            found.append(weighting.weigh(losses, batch.query_y, step)[0])
        elif isinstance(weighting, Judged):
            found.append(weighting(losses, batch.query_y)[0].detach())
        else:
            found.append(-losses[0])
    return torch.cat(found), torch.from_numpy(wrong[:WEIGHED])


def area(weights: Tensor, wrong: Tensor) -> float:
    """Return the probability that a right example weighs more than a wrong one, ties half."""
    _, order = torch.unique(weights, return_inverse=True)
    counts = order.bincount().double()
    middle = counts.cumsum(0) - (counts - 1) / 2
    ranks = middle[order]
    right = int((~wrong).sum())
    return float((ranks[~wrong].sum() - right * (right + 1) / 2) / (right * int(wrong.sum())))


def accuracy(learner: Learner, tasks: TaskSource, split: Split, arithmetic: Arithmetic) -> float:
    return 100 * score(learner, tasks, split, 10, arithmetic).value


def trained(
    case: str, method: str, rate: float, seed: int, steps: int, folder: Path
) -> dict[str, dict[str, Any]]:
    """Train once; return what came out, by method."""
    began, tasks = time.process_time(), source(case, seed, folder)
    arithmetic = choose("float32", images=True, sensitive=False)
    learner = arithmetic.prepare(made(method, tasks, rate, seed))
    data = CleanOnly(tasks) if method == "clean only" else tasks
    training = Training(learner, data, steps, seed, arithmetic)
    found: dict[str, Any] = {"curve": []}
    for mark in (steps // 4, steps):
        for _ in training.until(mark):
            pass
        point: dict[str, Any] = {"steps": mark, **learner.weighting.measurements()}
        if case != "imbalance" and method in ("plain", "learning_to_reweight", *MWN):
            point["auc"] = area(*weights_of(learner, tasks, seed))
        found["curve"].append(point)
    results = {method: {**found, **_scored(learner, tasks, arithmetic, began)}}
    if method == "plain":
        learner.lr = rate / 10
        tuning = Training(learner, CleanOnly(tasks), round(FINE * steps), seed, arithmetic)
        for _ in tuning.until(round(FINE * steps)):
            pass
        results["fine-tuned"] = {"curve": [{}], **_scored(learner, tasks, arithmetic, began)}
    return results


def _scored(learner: Learner, tasks: TaskSource, arithmetic: Arithmetic, began: float) -> dict[str, float]:
    scores = {split: accuracy(learner, tasks, split, arithmetic) for split in ("validation", "test")}
    return {**scores, "cpu_seconds": time.process_time() - began}


def runs(seeds: int) -> Iterator[tuple[str, str, float, int]]:
    """Yield what to train; plain training goes on to be fine-tuned."""
    for seed in range(seeds):
        for case in CASES:
            for method in METHODS:
                if method == "fine-tuned" or (method == "ratio" and case != "imbalance"):
                    continue
                for rate in RARE if case == "imbalance" else SWEPT if method == "plain" else (RATE,):
                    yield case, method, rate, seed


def chosen(report: dict[str, Any], case: str, method: str) -> list[dict[str, Any]]:
    """Return the runs of each seed, at the rate with the best mean on validation images."""
    by_rate: dict[float, list[dict[str, Any]]] = {}
    for key, run in report["runs"].items():
        of_case, of_method, rate, _ = key.split("/")
        if (of_case, of_method) == (case, method):
            by_rate.setdefault(float(rate), []).append(run)
    if not by_rate:
        return []
    most = max(map(len, by_rate.values()))
    by_rate = {rate: runs for rate, runs in by_rate.items() if len(runs) == most}
    best = max(by_rate, key=lambda rate: statistics.mean(run["validation"] for run in by_rate[rate]))
    return [{**run, "rate": best} for run in by_rate[best]]


def page(report: dict[str, Any]) -> str:
    seeds = report["seeds"]
    lines = [
        "# Weights of examples\n",
        f"`{report['command']}`\n",
        "The ten characters of one alphabet of `glyphs`, 14×14, as ordinary data: 5,000 training images,",
        "ten clean ones a class taken out of them, 1,000 for validation, 1,000 for test. Uniform: 40 % of",
        "the labels are drawn anew; flip: 40 % become that of one other class; imbalance: two characters,",
        "199 images of the first for one of the second, and five clean ones of each.",
        f"A LeNet, {report['steps']:,} steps on 100 images, momentum 0.9, cosine from a rate of {RATE};",
        f"plain training at the better one of {' and '.join(map(str, SWEPT))} by validation, and under",
        f"imbalance every method at the better one of {' and '.join(map(str, RARE))}.",
        f"Test accuracy in %: mean over {seeds} seeds (of weights, division and noise) and half of its 95 %",
        "interval (Student's t). AUC: the probability that an example with a right label weighs more than",
        "one with a wrong label, after a quarter of the steps and at the end; of plain training, that of",
        "−loss.\n",
        "| case | method | rate | test | AUC, early | AUC, end | mean weight | CPU seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        for method in METHODS:
            found = chosen(report, case, method)
            if found:
                fewer = "" if len(found) == seeds else f" ({len(found)} of {seeds} seeds)"
                lines.append(f"| {case} | {method}{fewer} | {_row(found)} |")
    left = [run for run in runs(seeds) if "/".join(map(str, run)) not in report["runs"]]
    if left:
        listed = ", ".join(dict.fromkeys(f"{case} {method} at {rate}" for case, method, rate, _ in left))
        lines.append("\n" + textwrap.fill(f"{len(left)} trainings are to come: {listed}.", 100))
    lines += [
        "\nAs published: `normalized=false` and `lr=0.001`. The function of `meta_weight_net` at its end, V",
        "at losses of 0.1, 1 and 4 (means over seeds):\n",
        "| case | method | V(0.1) | V(1) | V(4) |",
        "|---|---|---|---|---|",
    ]
    for case, method in product(CASES, MWN):
        ends = [run["curve"][-1] for run in chosen(report, case, method)]
        if ends:
            cells = [
                f"{statistics.mean(end[f'weight_at_{loss}'] for end in ends):.3f}"
                for loss in ("0.1", "1", "4")
            ]
            lines.append(f"| {case} | {method} | {' | '.join(cells)} |")
    if "times" in report:
        lines += [
            "\nA step of the LeNet of 28×28 on 100 images, one thread, in plain steps (medians, by turns):\n",
            "| method | plain steps |",
            "|---|---|",
            *(f"| {method} | {ratio:.2f} |" for method, ratio in report["times"].items()),
        ]
    return "\n".join([*lines, ""])


def _row(found: list[dict[str, Any]]) -> str:
    def cell(values: list[float], digits: int) -> str:
        if not values:
            return "–"
        half = f"{half_width_over_seeds(values):.{digits}f}" if len(values) > 1 else "?"
        return f"{statistics.mean(values):.{digits}f} ± {half}"

    aucs = [[run["curve"][at]["auc"] for run in found if "auc" in run["curve"][at]] for at in (0, -1)]
    means = [run["curve"][-1]["weight_mean"] for run in found if "weight_mean" in run["curve"][-1]]
    cells = [cell([run["test"] for run in found], 1), *(cell(auc, 3) for auc in aucs)]
    mean = f"{statistics.mean(means):.2f}" if means else "–"
    seconds = f"{statistics.mean(run['cpu_seconds'] for run in found):.0f}"
    return " | ".join([str(found[0]["rate"]), *cells, mean, seconds])


def timed(method: str) -> None:
    """Serve steps of one method, each with the CPU seconds that it took."""
    weighting, clean = TIMED[method]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "noise.npz"
        y = np.arange(1600) % 10
        np.savez(path, x=np.random.default_rng(0).integers(0, 255, (1600, 28, 28), np.uint8), y=y)
        tasks = Supervised(path=str(path), batch=BATCH, clean=10)
    arithmetic = choose("float32", images=True, sensitive=False)
    learner = arithmetic.prepare(Classifier(LeNet(28, 5), tasks.shape).equip(weighting=weighting))
    training = Training(learner, _Fewer(tasks, clean), 10**6, 0, arithmetic)
    steps = training.until(10**6)

    def step() -> list[float]:
        began = time.process_time()
        for _ in range(3):
            next(steps)
        return [time.process_time() - began]

    serve(step, dict)


class _Fewer(CleanOnly):
    """A source whose clean minibatches have fewer examples."""

    def __init__(self, tasks: Supervised, clean: int) -> None:
        super().__init__(tasks)
        self._count = clean

    def sample(self, split: Split, tasks: int, rng: np.random.Generator) -> Episode:
        """Draw minibatches."""
        drawn = self._tasks.sample(split, tasks, rng)
        assert drawn.clean is not None
        few = replace(
            drawn.clean,
            query_x=drawn.clean.query_x[:, : self._count],
            query_y=drawn.clean.query_y[:, : self._count],
        )
        return replace(drawn, clean=few)


def times(rounds: int) -> dict[str, float]:
    """Return the median time of a step of each method, in plain steps of the same round."""
    taken, _ = take_turns([__file__, "--serve"], list(TIMED), rounds)
    plain = [seconds for [seconds] in taken["plain"]]
    return {
        method: statistics.median(seconds / base for [seconds], base in zip(steps, plain, strict=True))
        for method, steps in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=at_least(2), default=3)
    parser.add_argument("--steps", type=at_least(10), default=500)
    parser.add_argument("--times", type=at_least(1), help="rounds of turns; default: none")
    parser.add_argument("--serve", choices=list(TIMED), help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    if arguments.serve:
        timed(arguments.serve)
        return
    if arguments.output is None:
        parser.error("the following arguments are required: -o/--output")
    torch.set_num_threads(1)
    file = arguments.output.with_suffix(".json")
    report = json.loads(file.read_text()) if file.exists() else {"runs": {}}
    if report.setdefault("steps", arguments.steps) != arguments.steps:
        parser.error(f"{file} holds runs of {report['steps']} steps; give another -o, or --steps")
    command = f"python benchmarks/example_weights.py --seeds {arguments.seeds} --steps {arguments.steps}"
    if rounds := arguments.times or report.get("rounds"):
        command, report["rounds"] = f"{command} --times {rounds}", rounds
    report |= {"command": command, "seeds": arguments.seeds, "environment": environment()}

    def save() -> None:
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")

    with TemporaryDirectory() as folder:
        for case, method, rate, seed in runs(arguments.seeds):
            key = f"{case}/{method}/{rate}/{seed}"
            if key not in report["runs"]:
                for name, result in trained(case, method, rate, seed, arguments.steps, Path(folder)).items():
                    report["runs"][f"{case}/{name}/{rate}/{seed}"] = result
                    print(case, name, rate, seed, result, flush=True)
                save()
    if arguments.times:
        report["times"] = times(arguments.times)
    save()
    arguments.output.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
