"""Time the database: recording a trial, and ranking 100,000 of them.

    python benchmarks/leaderboard.py [--db URL] [--searches N] [--trials N] [-o FILE]

Fills an empty database (by default an SQLite file in a temporary folder) and prints medians in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from arguments import at_least
from sqlalchemy import insert

from nas.controller import Measurement, Outcome, Score
from nas.queries.leaderboard import Query, leaderboard
from nas.space import Architecture as Choices
from nas.states import TrialState
from nas.storage.columns import now
from nas.storage.database import Database
from nas.storage.schema import Architecture, Search, Trial
from nas.storage.searches import NewSearch
from nas.storage.store import Store
from nas.storage.trials import NewTrial

CONTROLLERS = ("random", "evolution", "reinforce", "fixed")
TASKS = ("omniglot", "glyphs")
STATES = ("completed", "stopped", "reused", "infeasible", "failed")
REPEATS = 15
COSTS = {"parameters": 10**5, "macs": 10**7, "activations": 10**6}


def create(store: Store, number: int, trials: int) -> Search:
    """Create one of many searches: three spaces, four controllers, two task sources."""
    tasks = TASKS[number % 2]
    return store.create_search(
        NewSearch(
            name=f"search-{number}",
            source="# a configuration\n" * 50,
            config={"space": {"name": "chain"}, "tasks": {"name": tasks}, "budget": {"train_episodes": 300}},
            space=f"space{number % 3}",
            controller=CONTROLLERS[number % 4],
            tasks=tasks,
            task_label=f"{tasks} 20-way 1-shot",
            learner="maml",
            executor="ray",
            seed=number,
            trials=trials,
            settings="0" * 64,
            environment={},
        )
    )


def rows(search: Search, trials: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Draw trials whose accuracy grows with the logarithm of their size, in steps of 0.0001."""
    size = 10 ** rng.uniform(4, 6.5, trials)
    score = np.clip(0.2 + 0.1 * np.log10(size) + rng.normal(0, 0.05, trials), 0.05, 1).round(4)
    states = rng.choice(STATES, trials, p=(0.8, 0.1, 0.05, 0.03, 0.02))
    time = now()
    return [
        {
            "search_id": search.id,
            "number": number,
            "state": str(states[number]),
            "attempt": 0,
            "architecture_id": 1 + int(rng.integers(10 * trials)),
            "architecture": "3.0.2.1.1.0.2.3.1.0.2.1",
            "score": float(score[number]) if states[number] in STATES[:3] else None,
            "ci95": 0.01,
            "episodes": 200,
            "train_episodes": 300,
            "seconds": float(rng.exponential(30)),
            "parameters": int(size[number]),
            "macs": int(size[number] * rng.uniform(50, 500)),
            "activations": int(size[number] * rng.uniform(1, 50)),
            "latency": float(rng.exponential(0.01)),
            "seed": int(rng.integers(2**62)),
            "split": "omniglot/vinyals/validation",
            "classes": "0" * 64,
            "normalization": "transductive",
            "observed": number + 1,
            "created_at": time,
            "started_at": time,
            "finished_at": time,
        }
        for number in range(trials)
    ]


def fill(url: str, searches: int, trials: int) -> None:
    """Write the searches and their trials in bulk."""
    rng = np.random.default_rng(0)
    database = Database(url, create=True)
    with database.write() as connection:
        keys = [{"space": "chain", "key": f"key{n}", "text": f"{n}.0.1.2"} for n in range(10 * trials)]
        connection.execute(insert(Architecture), keys)
    with Store(url, create=True) as store:
        for number in range(searches):
            search = create(store, number, trials)
            with database.write() as connection:
                connection.execute(insert(Trial), rows(search, trials, rng))
    database.close()


def median(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the median time of a call in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def recording(store: Store, trials: int) -> dict[str, float]:
    """Time `begin` and `finish` with ten measurements, for the first and the last tenth of a search."""
    search = store.acquire(create(store, 10**6, trials).id)
    curve = tuple(Measurement(30 * step, "loss", 1.0 / step) for step in range(1, 11))
    score = Score(0.9, 0.01, 200, "omniglot/vinyals/validation", "0" * 64, "transductive")
    outcome = Outcome(TrialState.COMPLETED, Choices("chain", (0,)), score, 300, 30.0, COSTS, curve)

    def record(number: int) -> None:
        trial = store.begin(
            search.id,
            NewTrial(
                number,
                architecture=f"{number}.0.1.2",
                key=f"key{number}",
                space="chain",
                seed=number,
                attempt=0,
            ),
        )
        store.finish(trial, outcome)

    numbers = iter(range(trials))
    tenths = [median(lambda: record(next(numbers)), trials // 10) for _ in range(10)]
    times = {
        f"begin + finish, trials 1 to {trials // 10}": tenths[0],
        f"begin + finish, trials {trials - trials // 10 + 1} to {trials}": tenths[-1],
        f"history of {trials} trials": median(lambda: store.history(search.id)),
        "heartbeat": median(lambda: store.heartbeat(search.id)),
    }
    store.release(search.id, "completed")
    return times


def ranking(store: Store, searches: int) -> dict[str, float]:
    """Time the questions that `nas leaderboard` and `nas ls` ask of so many searches."""
    one = (f"search-{min(7, searches - 1)}",)
    questions = {
        "default": Query(),
        "one search": Query(searches=one),
        "one space": Query(space="space1"),
        "a space that is not there": Query(space="none"),
        "one controller": Query(controller="evolution"),
        "one task source": Query(tasks="glyphs"),
        "one task": Query(tasks="omniglot 20-way 1-shot"),
        "few parameters": Query(limits={"parameters": 20_000}),
        "few MACs": Query(limits={"macs": 2_000_000}),
        "every filter": Query(
            space="space1",
            controller="evolution",
            tasks="glyphs",
            limits={"parameters": 10**5, "macs": 10**8},
        ),
        "three states": Query(states=STATES[:3]),
        "by parameters": Query(sort="parameters"),
        "by seconds": Query(sort="seconds"),
        "by latency": Query(sort="latency"),
        "front of score, parameters": Query(pareto=("score", "parameters")),
        "front of score, latency": Query(pareto=("score", "latency")),
        "front of score, parameters, MACs": Query(pareto=("score", "parameters", "macs")),
        "front of score, parameters in one search": Query(pareto=("score", "parameters"), searches=one),
    }
    times = {name: median(partial(leaderboard, store, query)) for name, query in questions.items()}
    return times | {"every search with its counts": median(store.searches)}


def main() -> None:
    """Fill, time and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--db", metavar="URL", help="an empty database")
    parser.add_argument("--searches", type=at_least(1), default=50)
    parser.add_argument("--trials", type=at_least(1), default=2000, help="of each search")
    parser.add_argument("-o", dest="output", type=Path, metavar="FILE", help="save the medians as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.db or f"sqlite:///{folder}/nas.db"
        fill(url, options.searches, options.trials)
        with Store(url) as store:
            times = ranking(store, options.searches) | recording(store, 3000)
    total = options.searches * options.trials
    print(f"{total:,} trials in {options.searches} searches; medians in ms")
    for name, value in times.items():
        print(f"{name:45}{value:10.2f}")
    if options.output:
        report = {
            "trials": total,
            "searches": options.searches,
            "database": url.partition(":")[0],
            "sqlite": sqlite3.sqlite_version,
            "python": platform.python_version(),
            "milliseconds": {name: round(value, 3) for name, value in times.items()},
        }
        options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
