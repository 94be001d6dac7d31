"""What controllers propose where outcomes are scripted, and what spaces say of architectures.

Nothing is trained. `python benchmarks/proposals.py -o tests/golden/proposals.json` renews the record that the
tests compare with.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nas.backbone import BackboneSpace
from nas.controller import Derived, Evaluate, Outcome, Proposal, Reject, Reuse, Score, TrainSupernet
from nas.errors import Infeasible
from nas.settings.search import SearchConfig, validate
from nas.space import Architecture
from nas.states import TrialState
from nas.testing.controllers import simulate
from nas.training.provenance import training_seed

TRIALS = 50
SEED = 7

IMAGES = {"tasks": "glyphs", "learner": "prototypical"}
SPACES: dict[str, dict[str, Any]] = {
    "few_shot": IMAGES,
    "chain": IMAGES,
    "darts": IMAGES,
    "nasbench201": IMAGES,
    "mlp": {"tasks": "sinusoid", "learner": "maml"},
}
"""By space: the rest of a search in it."""

FOUNDING = (
    "enas_macro",
    "enas_micro",
    "hierarchical",
    "large_scale",
    "mobile",
    "nasbench101",
    "nasnet",
    "natssize",
    "resnet_like",
)
"""Spaces of which the record has architectures, costs and what evolution proposes."""

ONE_SHOT = {"derive": TRIALS - 1}
CONTROLLERS: dict[str, dict[str, Any]] = {
    "random": {"name": "random"},
    "bananas": {"name": "bananas"},
    "evolution": {"name": "evolution"},
    "evolution, the worst dies": {"name": "evolution", "dies": "worst", "fresh": True, "sample": 8},
    "fixed": {"name": "fixed"},
    "darts": {"name": "darts", **ONE_SHOT},
    "enas": {"name": "enas", **ONE_SHOT},
    "gdas": {"name": "gdas", **ONE_SHOT},
    "random_sharing": {"name": "random_sharing", **ONE_SHOT},
    "gp": {"name": "gp"},
    "local_search": {"name": "local_search"},
    "rnn": {"name": "rnn"},
    "rnn, ppo": {"name": "rnn", "algorithm": "ppo"},
}
ROUNDED = ("bananas", "gp", "rnn", "rnn, ppo")
"""The controllers whose proposals depend on how a machine rounds."""

LIMITED = ("random", "random_sharing")
"""The controllers that are held to a limit: what does not fit is drawn again by the one, not by the other."""

STATES = {0: TrialState.FAILED, 1: TrialState.INFEASIBLE, 2: TrialState.STOPPED}
"""By a digit of a network's hash: how its trial ends; completed by any other."""

Rows = list[str]


@functools.cache
def config(space: str, controller: str = "random", limit: int | None = None) -> SearchConfig:
    section = dict(CONTROLLERS[controller])
    if controller == "fixed":
        made = config(space).make_space()
        section["architectures"] = [made.text(architecture) for architecture in sampled(space)[:7]]
    settings = {"space": space, "controller": section, "seed": SEED, "constraints": {"max_parameters": limit}}
    return validate({**settings, **SPACES.get(space, IMAGES)})


@functools.cache
def sampled(space: str) -> list[Architecture]:
    made, rng = config(space).make_space(), np.random.default_rng(SEED)
    return [made.sample(rng) for _ in range(TRIALS)]


@functools.cache
def costs(space: str) -> list[tuple[int, int] | None]:
    """Return parameters and MACs of what was sampled; None: infeasible."""
    made, shape = config(space).make_space(), config(space).make_tasks().shape

    def cost(architecture: Architecture) -> tuple[int, int] | None:
        try:
            return made.cost(architecture, shape)[:2]
        except Infeasible:
            return None

    return [cost(architecture) for architecture in sampled(space)]


def digits(space: BackboneSpace, architecture: Architecture) -> bytes:
    return hashlib.sha256(space.canonical(architecture).encode()).digest()


def score(space: BackboneSpace, architecture: Architecture) -> float:
    """Return a score in [0, 1), a function of the network alone."""
    return int.from_bytes(digits(space, architecture)[:4], "big") / 2**32


def proposals(space: str, controller: str, limit: int | None = None) -> Rows:
    """Return the proposals of a search by three workers, one a row."""
    settings = config(space, controller, limit)
    made = settings.make_space()

    def evaluate(number: int, architecture: Architecture) -> Outcome:
        """End the trial by the network's hash: its state, score and costs."""
        digest = digits(made, architecture)
        state = STATES.get(digest[4] % 16, TrialState.COMPLETED)
        scored = state in (TrialState.COMPLETED, TrialState.STOPPED)
        measured = Score(score(made, architecture), ci95=0.0, episodes=1) if scored else None
        used = {"parameters": digest[5], "macs": digest[6]}
        return Outcome(state, architecture, measured, 1, 1.0, used)

    def share(number: int, supernet: TrainSupernet) -> Outcome:
        """Derive what was sampled, each network once, the best first."""
        networks = {made.canonical(architecture): architecture for architecture in sampled(space)}
        derived = [Derived(architecture, score(made, architecture)) for architecture in networks.values()]
        best = sorted(derived, key=lambda one: -one.score)[: supernet.derive]
        return Outcome(TrialState.COMPLETED, None, derived=tuple(best))

    run = simulate(
        settings.make_controller(made, settings.make_tasks()),
        evaluate,
        trials=TRIALS,
        seed=SEED,
        workers=3,
        share=share,
    )
    return [row(proposal) for proposal in run.proposals] + ["finish"] * run.finished


def row(proposal: Proposal) -> str:
    match proposal:
        case Evaluate(architecture):
            return f"evaluate {indices(architecture)}"
        case Reuse(architecture, trial):
            return f"reuse {indices(architecture)} of {trial}"
        case Reject(architecture):
            return f"reject {indices(architecture)}"
        case TrainSupernet(strategy, settings, derive, budget):
            told = json.dumps([settings, budget.model_dump()], sort_keys=True)
            return f"supernet {strategy} {told} derive {derive}"
    raise AssertionError(proposal)


def indices(architecture: Architecture) -> str:
    return ".".join(map(str, architecture.choices))


def within_limits(space: str, controller: str) -> Rows:
    """Return what a controller proposes where half of the architectures are too large."""
    found = sorted(cost[0] for cost in costs(space) if cost is not None)
    return proposals(space, controller, found[len(found) // 2])


def architectures(space: str) -> Rows:
    """Return choices, text, canonical key and seed of training of what was sampled."""
    made = config(space).make_space()

    def told(architecture: Architecture) -> str:
        key = made.canonical(architecture)
        return " ; ".join(
            [indices(architecture), made.text(architecture), key, str(training_seed(SEED, key, 0))]
        )

    return [told(architecture) for architecture in sampled(space)]


def entries() -> dict[str, Callable[[], Rows]]:
    """Return what makes each entry of the record, by name."""
    made: dict[str, Callable[[], Rows]] = {}
    for space in (*SPACES, *FOUNDING):
        made[f"architectures {space}"] = functools.partial(architectures, space)
        made[f"costs {space}"] = lambda space=space: [str(cost) for cost in costs(space)]
    for space in FOUNDING:
        made[f"proposals {space}, evolution"] = functools.partial(proposals, space, "evolution")
    for space in SPACES:
        for controller in LIMITED:
            name = f"proposals {space}, {controller} within limits"
            made[name] = functools.partial(within_limits, space, controller)
        for controller in CONTROLLERS:
            made[f"proposals {space}, {controller}"] = functools.partial(proposals, space, controller)
    return made


def exact() -> dict[str, Callable[[], Rows]]:
    """Return the entries that are the same on every machine."""
    rounded = {f"proposals {space}, {controller}" for space in SPACES for controller in ROUNDED}
    return {name: make for name, make in entries().items() if name not in rounded}


def digest(rows: Rows) -> str:
    """Return a hash of eight digits for each row, in a line."""
    return " ".join(hashlib.sha256(row.encode()).hexdigest()[:8] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.json")
    output = parser.parse_args().output
    record = {name: digest(make()) for name, make in exact().items()}
    output.write_text(json.dumps(record, indent=0) + "\n")


if __name__ == "__main__":
    main()
