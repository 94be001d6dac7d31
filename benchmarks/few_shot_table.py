"""A table of trained networks of `few_shot`, made by searches and evaluations, in as many goes as it takes.

    NAS_DATA=… python benchmarks/few_shot_table.py -o docs/results/few_shot_table --hours 2

Omniglot 20-way 1-shot, prototypical learner. 1,500 networks, drawn uniformly by canonical key, come in blocks
of 25. Of each block all are trained as a trial under seed 1, every fifth under seeds 2 and 3, too, and one to
a full budget: over 25 blocks those chosen by seed 1 hold every rank. Trials are those of `nas run`, full
trainings those of `nas evaluate`, and the database is theirs. What FILE.csv.gz has is not run again, on any
machine; what the database has anew is merged into it after each search, and at the start. So any process may
be killed at any time; `--hours 0` merges what it left. Two share the work by `--part 0 2` and `--part 1 2`.

With `--costs` it trains nothing. It times steps and passes of a sample of the networks, and fits what the
others cost. With `--proxies` it looks at networks before training, in their order, at those that FILE.csv.gz
says nothing of. With `--merge OTHER.csv.gz` it takes over what another such table has, of any age. With
`--page` it writes FILE.md from FILE.csv.gz, as all do when they end.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from arguments import at_least, data
from few_shot_costs import described, fitted, measured
from few_shot_page import page
from few_shot_proxies import PROXIES, TOOK, filled, lacking, looked_at
from shell import nas, run_search
from sqlalchemy import select
from sqlalchemy.orm import Session

from nas.errors import Infeasible
from nas.evaluator import Budget, Context
from nas.files import replacing
from nas.settings import evaluation, search
from nas.settings.sections import maker
from nas.space import Architecture
from nas.states import TrialState
from nas.storage import schema
from nas.storage.schema import Evaluation, Measurement, Search, Trial
from nas.storage.store import Store
from nas.training.provenance import machine
from search_spaces.few_shot import FewShot

SPACE = FewShot()

NETWORKS = 1500
BLOCK = 25
REPEATED = 5
"""One network in so many is trained under the further seeds."""
SEED, FURTHER = 1, (2, 3)
"""Of trials."""

LENGTHS = (30, 75, 150, 300)
TRIAL: dict[str, Any] = {
    "space": {"name": "few_shot"},
    "tasks": {"name": "omniglot", "ways": 20, "train_queries": 1},
    "learner": {"name": "prototypical", "lr": 0.004, "schedule": "cosine"},
    "budget": {
        "train_episodes": LENGTHS[-1],
        "score_at": list(LENGTHS[:-1]),
        "validation_episodes": 60,
    },
    "resources": {"precision": "float32"},
}
FULL: dict[str, Any] = {
    "space": TRIAL["space"],
    "tasks": {"name": "omniglot", "ways": 20, "train_ways": 60, "train_queries": 1},
    "learner": {"name": "prototypical", "schedule": "cosine"},
    "budget": {
        "train_episodes": 3000,
        "validate_every": 1000,
        "validation_episodes": 200,
        "test_episodes": 1000,
        "patience": 0,
    },
    "precision": "float32",
}

KEYS = ["number", "seed", "episodes"]
"""What a row is found by; before any training, a network has a row with 0 seeds and 0 episodes."""
COSTS = [*(f"cost_{length}" for length in LENGTHS), "latency", "latency_batch"]
COUNTS = ["parameters", "macs", "activations", "measured"]
NETWORK = ["arch", *COSTS, *COUNTS, *PROXIES, TOOK]
"""What belongs to a network, and stands in each of its rows."""
SCORES = [*(f"score_{length}" for length in LENGTHS), "validation", "test", "ci95"]
COLUMNS = [*KEYS, *SCORES, "seconds", "machine", *NETWORK]
DIGITS = {**dict.fromkeys(SCORES, 5), "seconds": 1, **dict.fromkeys([*COSTS, TOOK], 4)}


class Work(NamedTuple):
    """What to run next: trials of some networks under one seed, or full trainings of some.

    Attributes:
        block: of the networks.
        seed: of the trials; None: full trainings.
        networks: by their numbers.
    """

    block: int
    seed: int | None
    networks: tuple[int, ...]


def stages() -> list[str]:
    """Return all networks of one stage, each by the first of its encodings."""
    stage = FewShot(stages=1)
    cells = dict[str, str]()
    for choices in product(*(range(len(decision.choices)) for decision in stage.decisions)):
        architecture = Architecture(stage.name, choices)
        try:
            stage.feasible_stages_of(architecture)
        except Infeasible:
            continue
        cells.setdefault(stage.canonical(architecture), stage.encode(architecture))
    return list(cells.values())


def networks() -> list[str]:
    """Return all networks of the table in their order, each by the first of its encodings."""
    texts = stages()
    drawn = np.random.default_rng(0).permutation(len(texts) ** 2)[:NETWORKS]
    return ["/".join(texts[place] for place in divmod(int(pair), len(texts))) for pair in drawn]


def plan(table: pd.DataFrame) -> Iterator[Work]:
    """Yield what a table lacks, block after block: trials, those under further seeds, and a full training."""
    trials = table[table["episodes"] == LENGTHS[-1]].set_index("number")
    full = set(table.loc[table["episodes"] > LENGTHS[-1], "number"])
    for block, first in enumerate(range(0, NETWORKS, BLOCK)):
        numbers = range(first, first + BLOCK)
        for seed in (SEED, *FURTHER):
            done = set(trials.index[trials["seed"] == seed])
            wanted = numbers if seed == SEED else numbers[::REPEATED]
            if missing := tuple(number for number in wanted if number not in done):
                yield Work(block, seed, missing)
        scores = trials.loc[trials["seed"] == SEED, f"score_{LENGTHS[-1]}"].reindex(numbers)
        if scores.notna().all() and full.isdisjoint(numbers):
            ranked = sorted(numbers, key=lambda number: (-scores[number], number))
            yield Work(block, None, (ranked[7 * block % BLOCK],))


def run(work: Work, texts: Sequence[str], db: str) -> None:
    """Run it, or what an earlier process left of it."""
    chosen = [texts[number] for number in work.networks]
    if work.seed is None:
        named = [f"--{kind}={FULL[kind]['name']}" for kind in ("tasks", "learner")]
        settings = [f"--set={key}={json.dumps(value)}" for key, value in _flat(FULL)]
        targets = [f"few_shot:{text}" for text in chosen]
        nas("evaluate", *targets, *named, *settings, "--seeds=1", "--workers=1", "--executor=inline", db=db)
        return
    name = f"trials-{work.block}-{work.seed}"
    if name in {row["search"] for row in json.loads(nas("ls", "--limit=0", "--format=json", db=db))}:
        nas("resume", name, db=db)
        return
    whole = {"name": name, "seed": work.seed, "trials": len(chosen), "workers": 1, "executor": "inline"}
    sections = {**whole, **TRIAL, "controller": {"name": "fixed", "architectures": chosen}}
    run_search(sections, db)


def _flat(sections: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for section, settings in sections.items():
        if isinstance(settings, Mapping):
            yield from ((f"{section}.{key}", value) for key, value in settings.items() if key != "name")
        else:
            yield section, settings


def recorded(db: str, texts: Sequence[str]) -> pd.DataFrame:
    """Return what a database holds of the table, a row a training."""
    numbers = {SPACE.canonical(SPACE.decode(text)): number for number, text in enumerate(texts)}
    with Store(db, create=True) as store, store.read() as session:
        rows = [*_trials(session), *_full(session)]
    return pd.DataFrame([{"number": numbers[row.pop("key")], **row} for row in rows if row["key"] in numbers])


def _trials(session: Session) -> Iterator[dict[str, Any]]:
    settings = search.validate({**TRIAL, "controller": "random"}).settings
    query = (
        select(Trial, Search, schema.Architecture.key)
        .join(Search, Trial.search_id == Search.id)
        .join(schema.Architecture, Trial.architecture_id == schema.Architecture.id)
        .where(Search.settings == settings, Trial.state == TrialState.COMPLETED)
    )
    curves: dict[int, dict[str, float | None]] = {}
    for one in session.scalars(select(Measurement).where(Measurement.metric == "score")):
        curves.setdefault(one.trial_id, {})[f"score_{one.step}"] = one.value
    for trial, found, key in session.execute(query):
        yield {
            "key": key,
            "seed": found.seed,
            "episodes": trial.train_episodes,
            **curves[trial.id],
            "ci95": trial.ci95,
            "seconds": trial.seconds,
            "machine": machine(found.environment),
        }


def _full(session: Session) -> Iterator[dict[str, Any]]:
    config = evaluation.validate(FULL).model_dump(mode="json")
    query = (
        select(Evaluation, schema.Architecture.key)
        .join(schema.Architecture, Evaluation.architecture_id == schema.Architecture.id)
        .where(Evaluation.state == TrialState.COMPLETED)
    )
    for row, key in session.execute(query):
        if all(config[key] == value for key, value in row.config.items()):
            yield {
                "key": key,
                "seed": row.seed,
                "episodes": row.train_episodes,
                "validation": row.validation_score,
                "test": row.test_score,
                "ci95": row.test_ci95,
                "seconds": row.seconds,
                "machine": machine(row.environment),
            }


def merge(file: Path, new: pd.DataFrame) -> pd.DataFrame:
    """Add the rows that a table lacks, and what it lacks of networks, while no other process does.

    Returns:
        The whole table.
    """
    with alone(file):
        table = read(file)
        known = set(table[KEYS].itertuples(index=False, name=None))
        added = [row for row in new.to_dict("records") if tuple(row[key] for key in KEYS) not in known]
        every = pd.concat([table, pd.DataFrame(added)], ignore_index=True) if added else table.copy()
        told = new[new["episodes"] == 0].set_index("number") if len(new) else new
        own = every["episodes"] == 0
        for column in told.columns.intersection(NETWORK):
            every.loc[own, column] = every.loc[own, column].fillna(every["number"].map(told[column]))
        if not every.equals(table):
            write(file, every)
    return every


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Keep other processes from changing a table."""
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read(file: Path) -> pd.DataFrame:
    """Return the table, or where there is none its networks without a training.

    Columns that an older table lacks are empty.
    """
    if file.exists():
        return pd.read_csv(file).reindex(columns=COLUMNS)
    shape = maker("tasks", TRIAL["tasks"])().shape
    rows = [
        {
            "number": number,
            "seed": 0,
            "episodes": 0,
            "arch": text,
            **SPACE.cost(SPACE.decode(text), shape)._asdict(),
        }
        for number, text in enumerate(networks())
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def write(file: Path, table: pd.DataFrame) -> None:
    """Write the rows in their order: the same rows make the same bytes."""
    own = table[table["episodes"] == 0].set_index("number")
    for column in NETWORK:
        table[column] = table["number"].map(own[column])
    table[COUNTS] = table[COUNTS].astype("Int64")
    with replacing(file) as temporary:
        ordered = table.sort_values(KEYS).round(DIGITS)
        ordered.to_csv(temporary, index=False, compression={"method": "gzip", "mtime": 0})


def price(file: Path) -> None:
    """Measure what every so many networks cost, and fit what the others do."""
    tasks, learner = maker("tasks", TRIAL["tasks"])(), maker("learner", TRIAL["learner"])
    table = read(file)
    texts = table.loc[table["episodes"] == 0].sort_values("number")["arch"].to_list()
    architectures = [SPACE.decode(text) for text in texts]
    sample = range(0, len(texts), BLOCK)
    found = np.array([measured(SPACE, architectures[number], tasks, learner) for number in sample])
    budget = Budget(**TRIAL["budget"])
    step, task = found[:, :1], found[:, 1:2]
    costs = np.hstack([step * LENGTHS + task * budget.validation_episodes, found[:, 2:]])
    predicted, r2 = fitted([described(SPACE, one) for one in architectures], sample, costs)
    print("R² of networks held out:", dict(zip(COSTS, r2.round(3).tolist(), strict=True)))
    predicted[list(sample)] = costs
    own = table["episodes"] == 0
    places = table.loc[own, "number"]
    table.loc[own, COSTS] = predicted[places]
    table.loc[own, "measured"] = places.isin(sample).astype(int)
    write(file, table)


def look(file: Path, hours: float | None) -> None:
    """Look at the networks that a table says nothing of, until the time is over."""
    tasks, began = maker("tasks", TRIAL["tasks"])(), time.monotonic()
    context = Context(SPACE, tasks, maker("learner", TRIAL["learner"]), Budget(**TRIAL["budget"]))
    texts, left = networks(), lacking(read(file))
    while left and (hours is None or time.monotonic() - began < 3600 * hours):
        block, left = left[:BLOCK], left[BLOCK:]
        found = {number: looked_at(context, SPACE.decode(texts[number]), SEED) for number in block}
        with alone(file):
            write(file, filled(read(file), found))


def work(file: Path, part: tuple[int, int], hours: float | None, db: str) -> None:
    """Train what the table lacks, until the time is over or nothing is left to do."""
    nas("db", "upgrade", db=db)
    texts, began = networks(), time.monotonic()
    table, before = merge(file, recorded(db, texts)), None
    while hours is None or time.monotonic() - began < 3600 * hours:
        mine = (one for one in plan(table) if one.block % part[1] == part[0])
        following = next(mine, None)
        if following is None or following == before:  # what failed once more is left to be looked at
            return
        run(following, texts, db)
        table, before = merge(file, recorded(db, texts)), following


def sheet(table: pd.DataFrame) -> str:
    """Return the page of a table."""
    trial = [f"{key}={json.dumps(value)}" for key, value in _flat(TRIAL)]
    full = [f"{key}={json.dumps(value)}" for key, value in _flat(FULL)]
    return page(table, "python benchmarks/few_shot_table.py", " ".join(trial), " ".join(full))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, help="after which nothing more is begun; default: to the end")
    parser.add_argument(
        "--part",
        type=at_least(0),
        nargs=2,
        default=(0, 1),
        metavar=("K", "N"),
        help="every Nth block, from K",
    )
    parser.add_argument("--costs", action="store_true", help="measure what networks cost, and train none")
    parser.add_argument("--proxies", action="store_true", help="look at networks before training; train none")
    parser.add_argument("--merge", type=Path, metavar="OTHER.csv.gz", help="take over its rows; train none")
    parser.add_argument("--page", action="store_true", help="write FILE.md, and train none")
    parser.add_argument("--db", default="sqlite:///few_shot_table.db")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    file = arguments.output.with_suffix(".csv.gz")
    if arguments.merge is not None:
        merge(file, read(arguments.merge))
    elif not arguments.page:
        data(parser, "omniglot")
        torch.set_num_threads(1)
        if arguments.costs:
            price(file)
        elif arguments.proxies:
            look(file, arguments.hours)
        else:
            work(file, tuple(arguments.part), arguments.hours, arguments.db)
    arguments.output.with_suffix(".md").write_text(sheet(read(file)))


if __name__ == "__main__":
    main()
