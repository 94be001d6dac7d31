"""What supernets know about the networks of the few-shot table, by how long they are trained.

    NAS_DATA=… python benchmarks/shared_weights_table.py -o docs/results/shared_weights_table

The setting is that of the table's trials. A supernet trains along single paths, and scores the table's first
networks with its weights: as `random_sharing` and its `fair` do, by the sandwich rule, and split in K. Others
learn α, which gives every network a probability; what they derive is trained from scratch. What FILE.json
holds is not measured again. It is compared with the trials that the table has now; `--page` does no more.
Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from arguments import at_least, data
from few_shot_table import LENGTHS, SPACE, TRIAL, read
from shared_weights_page import page

from controllers.random_sharing import UniformPaths
from nas import plugins
from nas.controller import SupernetBudget, TrainSupernet
from nas.evaluator import Budget, Context
from nas.learners.base import Learner
from nas.precision import Arithmetic
from nas.settings.sections import maker
from nas.space import Architecture
from nas.strategy import Strategy
from nas.supernet import Mixture
from nas.training.loop import copied, start
from nas.training.oneshot.assembly import Assembly, assemble, method
from nas.training.oneshot.batches import Bilevel
from nas.training.provenance import environment, training_seed
from nas.training.rates import Rates
from nas.training.scoring import score
from search_spaces.few_shot import FewShot

SEEDS = (1, 2)
"""Of supernets."""
SCRATCH = 1
"""Seed of the trainings from scratch of what is derived: that of the table's trials."""
EPISODES = 3
"""Validation tasks behind a score with shared weights."""

LARGEST = "/".join(["max_pool|conv_3x3~0|+|conv_3x3~0|conv_3x3~1|"] * 2)
SMALLEST = "/".join(["max_pool|none~0|+|skip_connect~0|none~1|"] * 2)
"""By multiply-accumulates, among the networks of two stages."""
SPLIT = "stage1.node2.from0"
"""The decision whose choices get weights of their own."""


class Sandwich(UniformPaths):
    """Each step adds up the gradients of the largest network, the smallest, and two drawn uniformly.

    The sandwich rule (Yu et al. 2020, BigNAS, §3.1), without its distillation from the largest network.
    """

    def drawn(self) -> list[Architecture]:
        """Draw the architectures of a step."""
        drawn = [self.space.sample(self.rng) for _ in range(2)]
        return [SPACE.decode(LARGEST), SPACE.decode(SMALLEST), *drawn]


class Part(UniformPaths):
    """Uniform paths through one choice of the decision `SPLIT`, once it is set."""

    choice: int | None = None

    def drawn(self) -> list[Architecture]:
        """Draw the architecture of a step."""
        [architecture] = super().drawn()
        if self.choice is None:
            return [architecture]
        return [Architecture(SPACE.name, chosen(architecture, self.choice))]


def place() -> int:
    return [decision.name for decision in SPACE.decisions].index(SPLIT)


def chosen(architecture: Architecture, choice: int) -> tuple[int, ...]:
    before, after = architecture.choices[: place()], architecture.choices[place() + 1 :]
    return (*before, choice, *after)


class Way(NamedTuple):
    """How a supernet is trained along paths.

    Attributes:
        strategy: makes it, of space, supernet and seed.
        paths: of a step.
        passes: of the trainings that are measured.
        rate: of the weights; None: that of the table's trials.
    """

    strategy: Callable[..., UniformPaths]
    paths: int
    passes: tuple[int, ...]
    rate: float | None = None


def _fair(*arguments: Any) -> UniformPaths:
    return UniformPaths(*arguments, fair=True)


WAYS = {
    "uniform": Way(UniformPaths, 1, (1200, 4800, 300, 0)),
    "uniform, rate 0.001": Way(UniformPaths, 1, (1200,), 0.001),
    "fair": Way(_fair, 6, (1200,)),
    "sandwich": Way(Sandwich, 4, (1200,)),
    "K-shot": Way(Part, 1, (1200,)),
}

RELAXED: dict[str, tuple[str, dict[str, Any]]] = {
    "darts": ("darts", {}),
    "drnas": ("drnas", {}),
}
STEPS = 300
"""Of a training that learns α."""


def context(rate: float | None = None) -> Context:
    learner = maker("learner", TRIAL["learner"] | ({} if rate is None else {"lr": rate}))
    budget = Budget(train_episodes=LENGTHS[-1])
    return Context(SPACE, maker("tasks", TRIAL["tasks"])(), learner, budget, precision="float32")


def train(made: Context, assembly: Assembly, seed: int, steps: int, span: tuple[float, float]) -> None:
    """Take so many steps, over a part of the whole training."""
    batches = Bilevel(assembly, made.tasks, None, seed)
    rates = Rates(assembly.optimizer, assembly.learner.decay)
    for step in range(steps):
        progress = span[0] + (span[1] - span[0]) * step / steps
        rates.set(progress)
        assembly.strategy.step(batches.next(), assembly.optimizer, progress)


def supernets(
    made: Context, way: Way, seed: int, passes: int
) -> Iterator[tuple[Assembly, Callable[[Architecture], bool]]]:
    """Train, and yield a supernet and which networks it is for; the next one takes its place.

    What is split trains one supernet with half of the passes, and from there one for each choice of `SPLIT`
    (Zhao et al. 2021, Few-shot NAS, §3.2, with weights taken over).
    """
    assembly = assemble(made, TrainSupernet("random_sharing"), seed)
    strategy = way.strategy(SPACE, assembly.backbone.supernet, seed)
    assembly = replace(assembly, strategy=strategy)
    steps = passes // way.paths
    if not isinstance(strategy, Part):
        train(made, assembly, seed, steps, (0, 1))
        yield assembly, lambda architecture: True
        return
    train(made, assembly, seed, steps // 2, (0, 0.5))
    half = [copied(part.state_dict()) for part in (assembly.learner, assembly.optimizer)]
    choices = range(len(SPACE.decisions[place()].choices))
    for choice in choices:
        for part, state in zip((assembly.learner, assembly.optimizer), half, strict=True):
            part.load_state_dict(copied(state))
        strategy.choice = choice
        train(made, assembly, seed + 1000 * (choice + 1), steps // 2 // len(choices), (0.5, 1))
        yield assembly, lambda architecture, own=choice: architecture.choices[place()] == own


def shared(made: Context, way: Way, seed: int, passes: int, networks: Sequence[Architecture]) -> Any:
    """Return the networks' scores with shared weights, and the seconds of training and of all scores."""
    found, seconds = dict[int, float](), [0.0, 0.0]
    parts = supernets(made, way, seed, passes)
    while True:
        began = time.process_time()
        part = next(parts, None)
        trained = time.process_time()
        seconds[0] += trained - began
        if part is None:
            break
        assembly, belongs = part
        for number, network in enumerate(networks):
            if belongs(network):
                assembly.backbone.mixture = assembly.backbone.supernet.mixture_of(network)
                found[number] = value(made, assembly.learner, assembly.arithmetic, EPISODES)
        seconds[1] += time.process_time() - trained
    return {
        "train_seconds": round(seconds[0], 1),
        "score_seconds": round(seconds[1], 1),
        "scores": " ".join(f"{found[number]:.4f}" for number in range(len(networks))),
    }


def log_probabilities(mixture: Mixture, texts: Sequence[str]) -> list[float]:
    """Return the logarithm of each network's probability: the sum over all that encode it."""
    stage = FewShot(stages=1)
    weights = [own.double().numpy() for own in mixture]
    size = len(stage.decisions)
    by_stage = [dict[str, float]() for _ in range(SPACE.stages)]
    for choices in product(*(range(len(decision.choices)) for decision in stage.decisions)):
        key = stage.canonical(Architecture(stage.name, choices))
        for number, known in enumerate(by_stage):
            own = weights[number * size : (number + 1) * size]
            each = np.prod([w[choice] for w, choice in zip(own, choices, strict=True)])
            known[key] = known.get(key, 0.0) + float(each)
    return [
        float(
            sum(
                np.log(known[stage.canonical(stage.decode(part))])
                for known, part in zip(by_stage, text.split("/"), strict=True)
            )
        )
        for text in texts
    ]


def relaxed(made: Context, name: str, seed: int, texts: Sequence[str]) -> dict[str, Any]:
    """Learn α; return the networks' log-probabilities, what is derived, and its score from scratch."""
    registered, settings = RELAXED[name]
    budget = SupernetBudget(epochs=1, steps=STEPS)
    cls: type[Strategy] = method(registered)
    given = cls.within(plugins.resolve(cls, settings, "controller"), budget)
    assembly = assemble(made, TrainSupernet(registered, given, 1, budget), seed)
    began = time.process_time()
    train(made, assembly, seed, STEPS, (0, 1))
    seconds = time.process_time() - began
    epoch = assembly.strategy.end_epoch(Bilevel(assembly, made.tasks, None, seed).next())
    derived = epoch.architecture
    assert derived is not None
    return {
        "train_seconds": round(seconds, 1),
        "entropy": round(float(epoch.measurements["alpha_entropy"]), 4),
        "scores": " ".join(f"{x:.3f}" for x in log_probabilities(assembly.strategy.mixture(), texts)),
        "derived": SPACE.encode(derived),
        "scratch": scratch(made, derived),
    }


def scratch(made: Context, architecture: Architecture) -> float:
    """Train a network as the table's trials are; return its score."""
    seed, episodes = training_seed(SCRATCH, SPACE.canonical(architecture), 0), LENGTHS[-1]
    training = start(SPACE, architecture, made.tasks, made.learner, "float32", episodes, seed)
    for _ in training.until(episodes):
        pass
    number = TRIAL["budget"]["validation_episodes"]
    return round(value(made, training.learner, training.arithmetic, number), 5)


def value(made: Context, learner: Learner, arithmetic: Arithmetic, episodes: int) -> float:
    """Return a learner's score on validation tasks."""
    return score(learner, made.tasks, "validation", episodes, arithmetic).value


def compared(table: pd.DataFrame, number: int) -> dict[str, Any]:
    """Return what the table has of its first networks: scores by seed, costs and counts."""
    trials = table[(table["episodes"] == LENGTHS[-1]) & (table["number"] < number)]
    own = table[(table["episodes"] == 0) & (table["number"] < number)].sort_values("number")
    scores = {
        str(seed): {str(n): value for n, value in zip(some["number"], some["score_300"], strict=True)}
        for seed, some in trials.groupby("seed")
    }
    return {
        "scratch": scores,
        **{name: own[name].to_list() for name in ("arch", "macs", "parameters")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=at_least(10), default=500, help="the table's first so many")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of supernets")
    parser.add_argument("--only", nargs="+", choices=(*WAYS, *RELAXED), help="methods; default: all")
    parser.add_argument("--table", type=Path, default=Path("docs/results/few_shot_table.csv.gz"))
    parser.add_argument("--page", action="store_true", help="measure nothing, compare with the table")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if not arguments.page:
        data(parser, "omniglot")
    torch.set_num_threads(1)
    table, output = read(arguments.table), arguments.output.with_suffix(".json")
    own = table[table["episodes"] == 0].sort_values("number")
    texts = own["arch"].to_list()[: arguments.networks]
    report: dict[str, Any] = {
        "environment": environment(),
        "networks": len(texts),
        "episodes": EPISODES,
        "steps": STEPS,
        "trial": {key: TRIAL["budget"][key] for key in ("train_episodes", "validation_episodes")},
        "shared": {},
        "relaxed": {},
    }
    if output.exists():
        before = json.loads(output.read_text())
        if before["networks"] != len(texts):
            parser.error(f"{output} has {before['networks']} networks: give --networks {before['networks']}")
        report |= before

    def keep() -> None:
        report["table"] = compared(table, len(texts))
        output.write_text(json.dumps(report, indent=1) + "\n")
        arguments.output.with_suffix(".md").write_text(page(report))

    keep()
    if arguments.page:
        return
    made, names = context(), arguments.only or [*WAYS, *RELAXED]
    networks = [SPACE.decode(text) for text in texts]
    for name, seed in product(names, arguments.seeds):
        if name in RELAXED:
            known = report["relaxed"].setdefault(name, {})
            if str(seed) not in known:
                known[str(seed)] = relaxed(made, name, seed, texts)
                keep()
            continue
        for passes in WAYS[name].passes:
            known = report["shared"].setdefault(name, {}).setdefault(str(passes), {})
            if str(seed) not in known:
                known[str(seed)] = shared(context(WAYS[name].rate), WAYS[name], seed, passes, networks)
                keep()


if __name__ == "__main__":
    main()
