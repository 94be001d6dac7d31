"""Searches in a table, in memory: by our controllers, and by samplers of other libraries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from nas.controller import Controller, Evaluate, Outcome, Score
from nas.space import Architecture, Space
from nas.states import TrialState
from nas.training.provenance import proposal_rng

Choices = tuple[int, ...]
Ask = Callable[[], Choices]
Tell = Callable[["Row"], None]
Start = Callable[[Space[Any], int], tuple[Ask, Tell]]
"""From a space and a seed to a search: what it asks for, and how it is told of it."""


class Row(NamedTuple):
    """What the table says of an architecture: what a search sees, and the seconds of an evaluation."""

    score: float
    seconds: float


class Found(NamedTuple):
    """The architecture with the best score, the first of several, and how many were evaluated."""

    best: Choices
    trials: int


def ours(make: Callable[[Space[Any], int], Controller]) -> Start:
    """Return the search by a controller: the proposals that `nas run` makes, where no score is reused."""

    def start(space: Space[Any], seed: int) -> tuple[Ask, Tell]:
        controller, asked = make(space, seed), list[Architecture]()

        def ask() -> Choices:
            number = len(asked)
            proposal = controller.propose(number, (), proposal_rng(seed, number))
            assert isinstance(proposal, Evaluate)
            asked.append(proposal.architecture)
            return proposal.architecture.choices

        def tell(row: Row) -> None:
            score = Score(row.score, ci95=float("nan"), episodes=0)
            outcome = Outcome(TrialState.COMPLETED, asked[-1], score, seconds=row.seconds)
            controller.observe(len(asked) - 1, outcome)

        return ask, tell

    return start


def optuna(sampler: str) -> Start:
    """Return the search by a sampler of Optuna, named by its class, at its defaults."""

    def start(space: Space[Any], seed: int) -> tuple[Ask, Tell]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            direction="maximize", sampler=getattr(optuna.samplers, sampler)(seed=seed)
        )
        parameters = {
            decision.name: optuna.distributions.CategoricalDistribution(tuple(range(len(decision.choices))))
            for decision in space.decisions
        }
        asked: list[Any] = []

        def ask() -> Choices:
            asked.append(study.ask(parameters))
            return tuple(asked[-1].params[name] for name in parameters)

        def tell(row: Row) -> None:
            study.tell(asked[-1], row.score)

        return ask, tell

    return start


def syne_tune(scheduler: str) -> Start:
    """Return the search by a scheduler of Syne Tune, named as among its baselines, at its defaults."""

    def start(space: Space[Any], seed: int) -> tuple[Ask, Tell]:
        import logging

        from syne_tune.backend.trial_status import Trial
        from syne_tune.config_space import choice
        from syne_tune.optimizer import baselines

        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        parameters = {
            decision.name: choice(list(range(len(decision.choices)))) for decision in space.decisions
        }
        made = getattr(baselines, scheduler)(
            config_space=parameters, metric="score", do_minimize=False, random_seed=seed
        )
        asked: list[Any] = []

        def ask() -> Choices:
            asked.append(Trial(len(asked), made.suggest().config, datetime.now()))
            made.on_trial_add(asked[-1])
            return tuple(int(asked[-1].config[name]) for name in parameters)

        def tell(row: Row) -> None:
            made.on_trial_complete(asked[-1], {"score": row.score})

        return ask, tell

    return start


PEERS: dict[str, tuple[str, Start]] = {
    "Optuna TPE": ("optuna", optuna("TPESampler")),
    "Optuna NSGA-II": ("optuna", optuna("NSGAIISampler")),
    "Syne Tune REA": ("syne_tune", syne_tune("REA")),
    "Syne Tune BORE": ("syne_tune", syne_tune("BORE")),
    "Syne Tune CQR": ("syne_tune", syne_tune("CQR")),
}
"""By name: the package, and the search."""


def available() -> list[str]:
    """Return the peers that are installed."""
    return [name for name, (package, _) in PEERS.items() if find_spec(package)]


def search(start: Start, space: Space[Any], table: Mapping[Choices, Row], seconds: float, seed: int) -> Found:
    """Search until the evaluations took so long; each is paid for, also of what was evaluated before."""
    ask, tell = start(space, seed)
    spent, asked = 0.0, list[Choices]()
    while spent < seconds:
        asked.append(ask())
        tell(table[asked[-1]])
        spent += table[asked[-1]].seconds
    return Found(max(asked, key=lambda choices: table[choices].score), len(asked))


def searches(
    name: str,
    start: Start,
    space: Space[Any],
    table: Mapping[Choices, Row],
    seconds: float,
    seeds: int,
    record: Path,
) -> Iterator[Found]:
    """Yield what a search finds under each seed; what the file of JSON lines has is not searched again."""
    lines = record.read_text().splitlines() if record.exists() else []
    known = {row["seed"]: row for row in map(json.loads, lines) if row["search"] == name}
    for seed in range(seeds):
        if seed not in known:
            best, trials = search(start, space, table, seconds, seed)
            known[seed] = {"search": name, "seed": seed, "best": best, "trials": trials}
            with record.open("a") as file:
                file.write(json.dumps(known[seed]) + "\n")
        yield Found(tuple(known[seed]["best"]), known[seed]["trials"])
