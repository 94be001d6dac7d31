"""Whether a search finds the augmentation that its data wants, and what augmentation costs.

    python benchmarks/augmentation.py -o docs/results/augmentation

Training has the one upright drawing of 200 characters, validation has copies of them that are turned by up
to 15° (`upright.py`). So policies that turn images must win. One small network is trained under no
augmentation, each operation alone, `randaugment` and `trivialaugment`, and under policies of `autoaugment`
that random search and evolution choose. What a training episode and its augmentation take is measured on
few-shot tasks of 28×28, in the time of the process; methods take turns, and a figure is the fastest step of
all. `dada` learns a policy that minibatches of other turned copies judge, and trains the network anew with
it; `pba` finds a schedule of one, which is what its best training went through. What FILE.json holds is not
run again, so that a command that was ended goes on, and a longer one adds to it. Writes FILE.json and
FILE.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import at_least
from turns import serve, take_turns

import nas
from nas.files import replacing
from nas.learners.augmentation import Augmentation, Unchanged, chance
from nas.learners.operations import usual
from nas.learners.policies import AutoAugment, RandAugment, TrivialAugment, parse
from nas.learners.prototypical import Prototypical
from nas.plugins import load
from nas.tasks.glyphs import Glyphs
from nas.training.provenance import environment

SPACE = {
    "name": "chain",
    "layers": 1,
    "kernels": [5],
    "strides": [2],
    "channels": [8],
    "readout": "flatten",
}
"""Of one network."""

TASKS = {"name": "upright:Upright", "characters": 200, "batch": 50}
BUDGET = {"train_episodes": 100, "validation_episodes": 20}
CONTROLLERS = {
    "random": {"name": "random"},
    "evolution": {"name": "evolution", "population": 6, "sample": 3},
}

TWO = (
    "rotate:1.0:5+elastic:1.0:5/shear_x:1.0:5+thicken:1.0:3/scale:1.0:4+thin:1.0:3/cutout:1.0:4+rotate:1.0:9"
)
"""A policy that does two operations to every image."""

PBA = {"name": "pba", "interval": 20}

METHODS: dict[str, Any] = {
    "none": Unchanged,
    "trivialaugment": TrivialAugment,
    "randaugment": RandAugment,
    "autoaugment": partial(AutoAugment, policy=TWO),
}
NETWORK = "3x3/2:64,3x3/2:64@1,3x3/2:64@2,3x3/2:64@3"


def named() -> dict[str, dict[str, Any]]:
    """Return the fixed augmentations by what the page calls them."""
    alone = {
        f"{name} alone": {"name": "randaugment", "operations": name, "count": 1, "magnitude": 1.0}
        for name in usual("strokes")
    }
    whole = ("none", "randaugment", "trivialaugment")
    return {name: {"name": name} for name in whole} | alone


def searched(controller: dict[str, Any], augmentation: Any, trials: int, seed: int, db: str) -> list[Any]:
    """Return the rows of a search that have a score."""
    return [row for row in run(controller, augmentation, trials, seed, db).trials if row.score is not None]


def run(
    controller: dict[str, Any], augmentation: Any, trials: int | None, seed: int, db: str
) -> nas.SearchHandle:
    """Run a search."""
    return nas.search(
        space=SPACE,
        controller=controller,
        tasks=TASKS,
        learner="classifier",
        executor="inline",
        slots={"learner": {"augmentation": augmentation}},
        budget=BUDGET,
        trials=trials,
        seed=seed,
        db=db,
        quiet=True,
    )


def learned(steps: int, policies: int, seed: int, db: str) -> list[dict[str, Any]]:
    """Return the policies that `dada` derives, with the scores of the network trained anew."""
    budget = {"epochs": 10, "steps": steps, "validation_episodes": 2}
    controller = {"name": "dada", "derive": policies, "budget": budget}
    rows = searched(controller, {"name": "autoaugment", "policy": "any"}, policies + 1, seed, db)
    chosen = [(row.chosen["learner.augmentation"]["policy"], row.score) for row in rows]
    return [{"policy": policy, "turning": turning(policy), "score": score} for policy, score in chosen]


def turning(policy: str) -> float:
    """Return how much a policy turns images: the mean over sub-policies of probability times magnitude."""
    subs = parse(policy)
    parts = [part for sub in subs for part in sub if part.operation == "rotate"]
    return sum(part.probability * part.level for part in parts) / (9 * len(subs))


def scheduled(population: int, seed: int, db: str) -> list[dict[str, Any]]:
    """Return the whole trainings of `pba`: policies of the parts, how much they turn, and the score."""
    controller = {**PBA, "population": population}
    handle = run(controller, {"name": "pba", "policy": "any"}, None, seed, db)
    found = []
    for row in handle.trials:
        if row.state == "completed" and row.score is not None:
            parts = nas.show(f"{handle.name}/{row.trial}", db=db).lineage
            policies = [part.chosen["learner.augmentation"]["policy"] for part in parts]
            mean = float(np.mean([expected(policy) for policy in policies]))
            found.append({"policies": policies, "turning": mean, "score": row.score})
    return found


def expected(policy: str) -> float:
    """Return how much a policy of `pba` turns: the sum of probability times magnitude of `rotate`."""
    [parts] = parse(policy)
    return sum(part.probability * part.level for part in parts if part.operation == "rotate") / 9


def cases(policies: int, learn: int) -> dict[str, Callable[[int, str], Any]]:
    """Return what is run for each seed, by the key of its result, given the seed and a database."""
    any_ = {"name": "autoaugment", "policy": "any"}

    def fixed(seed: int, db: str) -> dict[str, float]:
        every, found = named(), dict[str, float]()
        for row in searched({"name": "grid"}, list(every.values()), len(every), seed, db):
            section = row.chosen["learner.augmentation"]
            name = section if isinstance(section, str) else section["name"]
            if name == "randaugment" and section["operations"] != "all":
                name = f"{section['operations']} alone"
            found[name] = row.score
        return found

    def by(controller: dict[str, Any], seed: int, db: str) -> list[dict[str, Any]]:
        rows = searched(controller, any_, policies, seed, db)
        chosen = [(row.chosen["learner.augmentation"]["policy"], row.score) for row in rows]
        return [{"policy": policy, "turning": turning(policy), "score": score} for policy, score in chosen]

    return {
        "fixed": fixed,
        **{f"{name}, {policies}": partial(by, controller) for name, controller in CONTROLLERS.items()},
        f"pba, {policies}": partial(scheduled, policies),
        f"dada, {learn}": partial(learned, learn, 2),
    }


def ranks_agree(rows: list[dict[str, Any]]) -> float:
    """Return Spearman's correlation of how much policies turn with their scores."""
    values = np.array([[row["turning"], row["score"]] for row in rows])
    ranks = [
        np.array([(column < v).sum() + ((column == v).sum() - 1) / 2 for v in column]) for column in values.T
    ]
    return float(np.corrcoef(*ranks)[0, 1])


def measure(method: str) -> None:
    """Serve the steps of one method: seconds of a training episode, and of its augmentation alone."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tasks, space = Glyphs(ways=20, shots=1, queries=5), load("space", "chain")()
    backbone = space.build(space.decode(NETWORK), tasks.shape)
    learner = Prototypical(backbone, tasks.shape).train()
    augmentation: Augmentation = METHODS[method](tasks.shape)
    optimizer, rng = learner.optimizer(), np.random.default_rng(0)
    done = 0

    def step() -> tuple[float, float]:
        nonlocal done
        done += 1
        began = time.process_time()
        episode = tasks.sample("train", 1, rng)
        optimizer.zero_grad(set_to_none=True)
        drawn = time.process_time()
        augmented = augmentation(episode, chance(0, done))
        changed = time.process_time()
        learner.meta_backward(augmented)
        optimizer.step()
        ended = time.process_time()
        return ended - began - (changed - drawn), changed - drawn

    serve(step, dict)


def page(report: dict[str, Any]) -> str:
    runs, cost, policies = report["runs"], report["cost"], report["policies"]

    def of(case: str) -> list[tuple[int, Any]]:
        return [(seed, runs[f"{case}/{seed}"]) for seed in report["seeds"] if f"{case}/{seed}" in runs]

    fixed = {name: [one[name] for _, one in of("fixed")] for name in named()}
    lines = [
        "# Policies of augmentation",
        "",
        f"`{report['command']}`",
        "",
        textwrap.fill(
            "Training has the one upright drawing of 200 characters, validation has copies that are turned "
            "by up to 15°. A network of one layer of 8 channels is trained on 100 minibatches of 50. "
            f"Accuracy in % on 1,000 validation examples, seeds {', '.join(map(str, report['seeds']))}. Of "
            "an operation alone half of the images have it, at its largest magnitude.",
            100,
        ),
        "",
        "| augmentation | accuracy |",
        "|---|---|",
    ]
    order = sorted(fixed.items(), key=lambda pair: -float(np.mean(pair[1])))
    lines += [f"| {name} | {' / '.join(f'{100 * s:.1f}' for s in scores)} |" for name, scores in order]
    lines += [
        "",
        "## Searched",
        "",
        textwrap.fill(
            "A policy of `autoaugment` is 30 decisions. How much it turns is the mean over its sub-policies "
            "of probability times magnitude of `rotate`, 1 for one sure operation of the largest magnitude "
            "in each. The correlation is Spearman's, of how much policies turn with their accuracy, over the "
            "trials of a search.",
            100,
        ),
        "",
        "| search | trials | best accuracy | the best turns | all turn, on average | correlation |",
        "|---|---|---|---|---|---|",
    ]
    bests = []
    for name in CONTROLLERS:
        for seed, rows in of(f"{name}, {policies}"):
            best = max(rows, key=lambda row: row["score"])
            bests.append((name, seed, best))
            mean = np.mean([row["turning"] for row in rows])
            lines.append(
                f"| {name}, seed {seed} | {len(rows)} | {100 * best['score']:.1f} | {best['turning']:.2f} "
                f"| {mean:.2f} | {ranks_agree(rows):.2f} |"
            )
    lines += ["", "The best policies:", ""]
    lines += [f"- {name}, seed {seed}: `{best['policy']}`" for name, seed, best in bests]
    if schedules := of(f"pba, {policies}"):
        lines += [
            "",
            "## A schedule",
            "",
            textwrap.fill(
                f"`pba` trains {policies} networks in parts of {PBA['interval']} minibatches, of which the "
                "weak copy the strong. How much a training turns is the mean over its parts of the sum of "
                "probability times magnitude of `rotate`; all begin at 0 or near it.",
                100,
            ),
            "",
            "| seed | best accuracy | it turns | all turn, on average | part by part |",
            "|---|---|---|---|---|",
        ]
        for seed, rows in schedules:
            best = max(rows, key=lambda row: row["score"])
            mean = np.mean([row["turning"] for row in rows])
            parts = ", ".join(f"{expected(policy):.2f}" for policy in best["policies"])
            lines.append(
                f"| {seed} | {100 * best['score']:.1f} | {best['turning']:.2f} | {mean:.2f} | {parts} |"
            )
    lines += [
        "",
        "## Learned",
        "",
        textwrap.fill(
            f"`dada` learns a policy in {10 * report['learn']} steps, which turned copies judge that "
            "are in no other split. The two policies that it derives are trained like all others.",
            100,
        ),
        "",
        "| seed | accuracy | it turns | policy |",
        "|---|---|---|---|",
    ]
    for seed, rows in of(f"dada, {report['learn']}"):
        lines += [
            f"| {seed} | {100 * row['score']:.1f} | {row['turning']:.2f} | `{row['policy']}` |"
            for row in rows
        ]
    lines += [
        "",
        "## Cost",
        "",
        textwrap.fill(
            "A training episode of the prototypical learner, 20-way 1-shot with 5 queries: 120 images of "
            "28×28. The network has four layers of 64 channels with stride 2. Time of the process on one "
            f"core, fastest of {cost['rounds']} steps; the policy does two operations to every image.",
            100,
        ),
        "",
        "| augmentation | ms | share of the episode |",
        "|---|---|---|",
    ]
    for name, row in cost["methods"].items():
        lines.append(f"| {name} | {1000 * row['augmentation']:.2f} | {100 * row['share']:.1f} % |")
    lines += ["", f"The episode without it takes {1000 * cost['episode']:.1f} ms."]
    return "\n".join([*lines, ""])


def costs(rounds: int) -> dict[str, Any]:
    """Return what episodes and augmentations take, in seconds."""
    taken, _ = take_turns([__file__, "--method"], tuple(METHODS), rounds)
    episode = min(step[0] for steps in taken.values() for step in steps)
    own = {name: min(step[1] for step in steps) for name, steps in taken.items() if name != "none"}
    methods = {name: {"augmentation": value, "share": value / episode} for name, value in own.items()}
    return {"rounds": rounds, "episode": episode, "methods": methods}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0])
    parser.add_argument("--policies", type=at_least(2), default=16, help="trials of each search for a policy")
    parser.add_argument("--learn", type=at_least(1), default=100, help="steps of each of ten epochs of dada")
    parser.add_argument("--rounds", type=at_least(1), default=20, help="steps of each method")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    if arguments.method:
        measure(arguments.method)
        return
    if arguments.output is None:
        parser.error("the following arguments are required: -o/--output")
    torch.set_num_threads(1)
    file = arguments.output.with_suffix(".json")
    report = json.loads(file.read_text()) if file.exists() else {"runs": {}}
    given = f"--seeds {' '.join(map(str, arguments.seeds))} --policies {arguments.policies}"
    report |= {
        "command": f"python benchmarks/augmentation.py {given} --learn {arguments.learn}",
        "environment": environment(),
        **{name: getattr(arguments, name) for name in ("seeds", "policies", "learn")},
    }

    def save() -> None:
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")

    if report.get("cost", {}).get("rounds", 0) < arguments.rounds:
        report["cost"] = costs(arguments.rounds)
        save()
    for seed in arguments.seeds:
        for case, result in cases(arguments.policies, arguments.learn).items():
            if f"{case}/{seed}" not in report["runs"]:
                with tempfile.TemporaryDirectory() as folder:
                    report["runs"][f"{case}/{seed}"] = result(seed, f"sqlite:///{folder}/nas.db")
                save()
    arguments.output.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
