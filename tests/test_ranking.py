"""The leaderboard of test scores, against brute force."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from facts import refusal

from nas.errors import ConfigError, NotFound
from nas.queries.leaderboard import Query
from nas.queries.ranking import SORTS, rank, sections
from nas.states import EvaluationState
from nas.storage.evaluations import Origin
from nas.storage.store import Store
from nas.testing.evaluations import CONFIG, claim, trained
from nas.testing.stores import search


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Return a database with evaluations of many networks, and these as plain rows."""
    file = tmp_path_factory.mktemp("board") / "nas.db"
    with Store(f"sqlite:///{file}", create=True) as store:
        return file, record(store)


@pytest.fixture
def board(recorded: tuple[Path, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return recorded[1]


@pytest.fixture
def store(recorded: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> Iterator[Store]:
    """The recorded database, to write to as well."""
    shutil.copy(recorded[0], tmp_path)
    with Store(f"sqlite:///{tmp_path}/{recorded[0].name}") as store:
        yield store


def record(store: Store) -> list[dict[str, Any]]:
    chance = random.Random(0)
    rows = []
    gone = search(store, name="gone")
    here = search(store, name="here")
    for number in range(30):
        asked = {"space": chance.choice(["chain", "mlp"]), "learner": chance.choice(["maml", "anil"])}
        origin = chance.choice([None, Origin(gone.id, "gone", number), Origin(here.id, "here", number)])
        config = CONFIG | {key: {"name": name} for key, name in asked.items()}
        cost = {name: chance.randrange(1, 6) for name in ("parameters", "macs")}
        counted = {"activations": chance.randrange(1, 6)} if number % 3 else {}  # an older nas had none
        latencies, scores = [], []
        seeds = chance.randrange(0, 4)
        for seed in range(seeds):
            row = claim(
                store,
                key=f"key{number}",
                architecture=f"{number}",
                seed=seed,
                config=config,
                origin=origin,
                space=asked["space"],
            )
            run = [chance.randrange(4) / 4 for _ in range(2)]
            scores.append(sum(run) / 2)
            latencies.append(chance.randrange(1, 4) / 8)
            measured = {"latency": latencies[-1]} if number % 5 else {}
            costs = cost | counted | measured
            store.evaluations.complete(row.id, trained(tuple(run), costs=costs, seconds=1.0 * number))
        failed = claim(store, key=f"key{number}", seed=9, config=config, space=asked["space"])
        store.evaluations.fail(failed.id, EvaluationState.FAILED, "no")
        if seeds:
            score = sum(scores) / seeds
            found = {"score": score, "search": origin and origin.search, "number": number, "seeds": seeds}
            known = {"activations": counted.get("activations"), "seconds": 1.0 * number}
            known["latency"] = median(latencies) if number % 5 else None
            rows.append(asked | cost | known | found)
    store.delete(gone.id)
    return rows


@pytest.mark.parametrize(
    "query",
    [
        Query(limit=0),
        Query(limit=3),
        Query(searches=("gone",)),
        Query(searches=("her", "@last"), sort="parameters"),
        Query(space="mlp", learner="maml", limit=0),
        Query(tasks="glyphs 5-way 1-shot", sort="seconds"),
        Query(tasks="omniglot"),
        Query(limits={"parameters": 3, "macs": 3}, sort="macs"),
        Query(limits={"latency": 0.25, "seconds": 20}, sort="activations", limit=0),
        Query(sort="latency", limit=0),
        Query(pareto=("score", "parameters"), limit=0),
        Query(pareto=("score", "macs", "seconds"), sort="macs", limit=0),
        Query(pareto=("score", "latency", "activations"), limit=0),
    ],
)
def test_the_test_leaderboard_is_what_brute_force_finds(
    store: Store, board: list[dict[str, Any]], query: Query
) -> None:
    rows = [
        row
        for row in board
        if (not query.searches or row["search"] == ("gone" if "gone" in query.searches else "here"))
        and query.space in (None, row["space"])
        and query.learner in (None, row["learner"])
        and query.tasks != "omniglot"
        and all(row[name] is not None and row[name] <= limit for name, limit in query.limits.items())
        and all(row[name] is not None for name in (query.sort, *query.pareto))
    ]

    def point(row: dict[str, Any]) -> list[float]:
        return [float(-row[field] if field == "score" else row[field]) for field in query.pareto]

    if query.pareto:
        points = [point(row) for row in rows]
        rows = [
            row
            for row, mine in zip(rows, points, strict=True)
            if not any(
                other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in points
            )
        ]
    second = "parameters" if query.sort == "score" else "score"
    rows.sort(
        key=lambda row: (
            *(-row[field] if field == "score" else row[field] for field in (query.sort, second)),
            row["number"],
        )
    )
    found = rank(store, query)
    assert [(r.architecture, r.seeds) for r in found] == [
        (str(row["number"]), row["seeds"]) for row in rows[: query.limit or None]
    ]
    assert [r.test_score for r in found] == pytest.approx(
        [row["score"] for row in rows[: query.limit or None]]
    )


@pytest.mark.parametrize("column", SORTS)
def test_every_column_sorts(store: Store, column: str) -> None:
    values = [
        asdict(row).get("test_score" if column == "score" else column)
        for row in rank(store, Query(sort=column))
    ]
    present = [value for value in values if value is not None]
    assert values == sorted(present, reverse="score" in column) + [None] * (len(values) - len(present))


def test_results_are_ranked_within_their_protocol(store: Store) -> None:
    for number, protocol in enumerate(("p", "q")):
        row = claim(
            store, key=f"key{number}", config=CONFIG | {"x": protocol}, protocol=protocol, settings=protocol
        )
        store.evaluations.complete(row.id, trained((0.5, 1.0)))
    found = sections(store, Query(limit=5))
    assert [example.protocol for example, _ in found][:2] == ["q", "p"]
    assert [len(rows) for _, rows in found][:2] == [1, 1]
    assert all(len({row.protocol for row in rows}) == 1 for _, rows in found)
    with refusal(NotFound, "'glyphs'"):
        sections(store, Query(tasks="glyps"))


def test_questions_about_trials_alone_are_refused(store: Store) -> None:
    for query in (Query(controller="random"), Query(states=("failed",)), Query(sort="episodes")):
        with refusal(ConfigError, "--stage test"):
            rank(store, query)
    with refusal(NotFound, "nas ls"):
        rank(store, Query(searches=("nothing",)))
