"""What shared weights predict of scores from scratch, over a random sample of architectures.

    NAS_DATA=… python benchmarks/shared_weights.py -o docs/results/shared_weights

Architectures of `few_shot` drawn at random, Omniglot 20-way 1-shot, prototypical learner. Each is scored with
the weights of a supernet that trains along single paths (`random_sharing`), at several stages, and is trained
from scratch on 300 episodes under two seeds. A controller's own correlation is over what it derived, its best
by shared weights; that range is narrower, and here both are taken. The two trainings from scratch also say by
how much the best of a search is too good: a simulation draws trials and keeps the best. What FILE.json holds
already is not measured again. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import at_least
from correlations import correlation

from nas import plugins
from nas.backbone import BackboneSpace
from nas.controller import TrainSupernet
from nas.errors import Infeasible
from nas.evaluator import Budget, Context
from nas.settings.sections import maker
from nas.space import Architecture
from nas.training.loop import start
from nas.training.oneshot.assembly import assemble
from nas.training.oneshot.batches import Bilevel
from nas.training.provenance import environment, training_seed
from nas.training.scoring import episode_scores, score

STAGES = (0, 150, 1200)
"""Steps of the supernet at which its weights are judged."""
SHARED_EPISODES = 60
DERIVED = 7
"""How many of the best by shared weights a controller would train from scratch, about."""
SEEDS = (1, 2)
"""Of the trainings from scratch."""
TRIALS = 16


def context() -> Context:
    tasks = maker("tasks", {"name": "omniglot", "ways": 20})()
    space = plugins.load("space", "few_shot")()
    return Context(space, tasks, maker("learner", {"name": "prototypical"}), Budget(train_episodes=300))


def sample(space: BackboneSpace, shape: Any, number: int) -> list[Architecture]:
    """Return distinct architectures that have a network, drawn uniformly."""
    rng, found = np.random.default_rng(0), dict[str, Architecture]()
    while len(found) < number:
        drawn = space.sample(rng)
        try:
            space.cost(drawn, shape)
        except Infeasible:
            continue
        found.setdefault(space.canonical(drawn), drawn)
    return list(found.values())


def shared(made: Context, sampled: Sequence[Architecture]) -> Iterator[tuple[int, list[float]]]:
    """Train a supernet, and yield the scores of the sample at each stage."""
    assembly = assemble(made, TrainSupernet("random_sharing"), 1)
    batches, done = Bilevel(assembly, made.tasks, None, 1), 0
    for stage in STAGES:
        for _ in range(stage - done):
            assembly.strategy.step(batches.next(), assembly.optimizer, done / STAGES[-1])
            done += 1
        scores = []
        for architecture in sampled:
            assembly.backbone.mixture = assembly.backbone.supernet.mixture_of(architecture)
            learner, arithmetic = assembly.learner, assembly.arithmetic
            scores.append(score(learner, made.tasks, "validation", SHARED_EPISODES, arithmetic).value)
        yield stage, scores


def scratch(made: Context, architecture: Architecture, seed: int) -> str:
    """Train an architecture as a trial does; return its score on each validation episode, in %."""
    own = training_seed(seed, made.space.canonical(architecture), 0)
    episodes = made.budget.train_episodes
    training = start(made.space, architecture, made.tasks, made.learner, made.precision, episodes, own)
    for _ in training.until(episodes):
        pass
    number = made.budget.validation_episodes
    scores = episode_scores(training.learner, made.tasks, "validation", number, training.arithmetic)
    return " ".join(f"{100 * value:.0f}" for value in scores)


def best(order: Sequence[float]) -> list[int]:
    """Return the places of the largest."""
    return sorted(range(len(order)), key=lambda i: -order[i])[:DERIVED]


def spread(scores: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return what scores `[seeds, architectures, episodes]`, in %, vary by, as standard deviations.

    `seed` is what another training of an architecture differs by; `tasks` what other validation tasks would,
    beyond what they do to all architectures alike; `architectures` is the rest of the means' variance.
    """
    seeds, architectures, episodes = scores.shape
    means = scores.mean(2)
    seed = means.var(0, ddof=1).mean()
    own = scores.mean(0) - means.mean(0)[:, None]
    tasks = (own - own.mean(0)).var(1, ddof=1).mean() * architectures / (architectures - 1) / episodes
    between = means.mean(0).var(ddof=1) - seed / seeds - tasks
    return {"seed": seed**0.5, "tasks": tasks**0.5, "architectures": max(between, 0.0) ** 0.5}


def optimism(means: np.ndarray[Any, Any], parts: dict[str, float], trials: int) -> dict[str, float]:
    """Return by how much the best of some trials scores above its architecture's mean, simulated.

    Trials draw from the sample's architectures, whose means are drawn in to the variance that is theirs.
    """
    rng, rounds = np.random.default_rng(0), 20_000
    shrunk = means.mean() + (means - means.mean()) * parts["architectures"] / means.std(ddof=1)
    true = shrunk[rng.integers(len(shrunk), size=(rounds, trials))]
    noise = {name: rng.normal(0, parts[name], true.shape) for name in ("seed", "tasks")}
    chosen = (true + sum(noise.values())).argmax(1)
    return {name: float(part[np.arange(rounds), chosen].mean()) for name, part in noise.items()}


def paragraph(text: str) -> str:
    return textwrap.fill(text, 100) + "\n"


def page(report: dict[str, Any]) -> str:
    texts = report["architectures"]
    runs = [report["scratch"][str(seed)] for seed in SEEDS]
    scores = np.array([[[float(x) for x in run[text].split()] for text in texts] for run in runs])
    means = scores.mean(2)
    parts = spread(scores)
    excess = optimism(means.mean(0), parts, TRIALS)
    lines = [
        "# Shared weights and scores from scratch, over a random sample\n",
        f"`{report['command']}`\n",
        paragraph(
            f"{len(texts)} architectures of `few_shot`, drawn at random; Omniglot 20-way 1-shot, "
            "prototypical learner. With shared weights: a supernet trained along single paths "
            f"(`random_sharing`, seed 1), {SHARED_EPISODES} validation tasks. From scratch: 300 "
            "training episodes, 200 validation tasks, seeds 1 and 2. ρ: Spearman's rank correlation "
            f"(95 % interval by Fisher's z), over all, and over the {DERIVED} that are best by the "
            "weights of the line, which is what a controller derives and what its own ρ is taken over."
        ),
        f"| weights | ρ with scratch, seed 1 | best {DERIVED} | ρ with scratch, seed 2 | best {DERIVED} |",
        "|---|---|---|---|---|",
    ]

    def row(name: str, own: Sequence[float], others: Sequence[Sequence[float] | None]) -> None:
        cells = []
        for other in others:
            top = best(own)
            cells.append("" if other is None else correlation(own, other))
            cells.append("" if other is None else correlation([own[i] for i in top], [other[i] for i in top]))
        lines.append(f"| {name} | {' | '.join(cells)} |")

    for stage in STAGES:
        name = "shared, at initialisation" if not stage else f"shared, {stage:,} steps"
        row(name, report["shared"][str(stage)], [list(means[0]), list(means[1])])
    row("from scratch, seed 1", list(means[0]), [None, list(means[1])])
    lines += [
        "\n## The best of a search is too good\n",
        paragraph(
            "Standard deviations of these scores, in points of accuracy: between architectures "
            f"{parts['architectures']:.2f}, by the training seed {parts['seed']:.2f}, by the choice of "
            f"the 200 validation tasks {parts['tasks']:.2f} (beyond what they do to all alike). The "
            f"best of {TRIALS} trials of such architectures scores above the mean of its own "
            f"architecture: by {excess['seed']:.1f} points through its training seed, by "
            f"{excess['tasks']:.2f} through the validation tasks (20,000 simulated searches). The "
            "interval over tasks shows the smaller part alone; `nas evaluate --seeds` trains anew."
        ),
        "## The scores\n",
        f"| architecture | seed 1 | seed 2 | {' | '.join(f'shared, {s:,} steps' for s in STAGES)} |",
        f"|---|---|---|{'---|' * len(STAGES)}",
    ]
    for i, text in enumerate(texts):
        cells = [f"{mean:.1f}" for mean in means[:, i]]
        cells += [f"{100 * report['shared'][str(stage)][i]:.1f}" for stage in STAGES]
        escaped = text.replace("|", "\\|")
        lines.append(f"| `{escaped}` | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--number", type=at_least(DERIVED + 1), default=15, help="architectures, above the number derived"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    made, output = context(), arguments.output.with_suffix(".json")
    sampled = sample(made.space, made.tasks.shape, arguments.number)
    command = f"python benchmarks/shared_weights.py --number {arguments.number}"
    report: dict[str, Any] = {
        "command": command,
        "environment": environment(),
        "architectures": [made.space.encode(architecture) for architecture in sampled],
        "shared": {},
        "scratch": {str(seed): {} for seed in SEEDS},
    }
    if output.exists():
        before = json.loads(output.read_text())
        if before["architectures"] == report["architectures"]:
            report |= {key: before[key] for key in ("environment", "shared", "scratch")}

    def keep() -> None:
        output.write_text(json.dumps(report, indent=1) + "\n")

    if len(report["shared"]) < len(STAGES):
        for stage, scores in shared(made, sampled):
            report["shared"][str(stage)] = scores
            keep()
    for seed in SEEDS:
        for architecture in sampled:
            runs, text = report["scratch"][str(seed)], made.space.encode(architecture)
            if text not in runs:
                runs[text] = scratch(made, architecture, seed)
                keep()
    arguments.output.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
