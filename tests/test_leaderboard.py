"""Leaderboards against brute force over the same trials, in plain Python."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from databases import on_postgres
from facts import Facts, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import search as recorded_search
from sqlalchemy import event

from nas.costs import COSTS, OWN
from nas.errors import ConfigError, NotFound, UnknownName
from nas.pareto import nondominated
from nas.queries import boards
from nas.queries.leaderboard import SORTS, LeaderboardRow, Query, leaderboard, sections
from nas.queries.rows import frame, record
from nas.queries.searches import details
from nas.states import TrialState
from nas.storage import front
from nas.storage.front import FIELDS
from nas.storage.store import Store
from nas.testing.stores import begin, outcome, search

SEARCHES: list[dict[str, Any]] = [
    {
        "name": f"s{n}",
        "space": ("chain", "mlp")[n % 2],
        "controller": ("random", "evolution", "fixed")[n % 3],
        "tasks": ("glyphs", "omniglot")[n // 3],
        "task_label": ("glyphs 5-way 1-shot", "omniglot 5-way 1-shot", "omniglot 20-way 1-shot")[n // 2],
        "learner": ("maml", "prototypical")[n % 2],
        "config": {"space": {"name": ("chain", "mlp")[n % 2], "layers": n}, "tasks": {"name": "glyphs"}},
    }
    for n in range(6)
]
ENDINGS = (
    *[TrialState.COMPLETED] * 6,
    TrialState.STOPPED,
    TrialState.REUSED,
    TrialState.INFEASIBLE,
    TrialState.FAILED,
)


def fill(store: Store) -> list[dict[str, Any]]:
    """Record trials with ties and gaps, the good ones dear; return them as a leaderboard's rows, in order."""
    chance = random.Random(0)
    rows = []
    for asked in SEARCHES:
        row = search(store, **asked)
        for number in range(40):
            state = chance.choice(ENDINGS)
            scored = state not in (TrialState.INFEASIBLE, TrialState.FAILED) and chance.random() < 0.95
            cost = chance.choice([None, *range(100, 1000, 100)])
            costs: dict[str, float] = {}
            if cost:
                costs = {"parameters": cost, "macs": cost * chance.randrange(1, 9)}
            if cost and number % 4:
                costs |= {
                    "activations": cost * (number % 7),
                    "latency": (number % 5) / 8,
                    "latency_batch": 2.0,
                }
            ended = outcome(
                chance.randrange(1 + (cost or 500) // 100) / 12 if scored else None,
                state,
                train_episodes=300,
                seconds=chance.choice([float("nan"), 1.0, 2.5, 7.0]),
                costs=costs,
            )
            key = f"key{number % 30}"
            text = f"{number}.1"
            store.finish(begin(store, row, number, key=key, architecture=text), ended)
            rows.append(
                {
                    "search": row.name,
                    "trial": number,
                    "controller": row.controller,
                    "space": row.space,
                    "tasks": row.tasks,
                    "task": row.task_label,
                    "learner": row.learner,
                    "normalization": ended.score and ended.score.normalization,
                    "score": ended.score and ended.score.value,
                    "seeds": 1,
                    "ci95": ended.score and ended.score.ci95,
                    "ci95_seeds": None,
                    **{name: costs.get(name) for name in OWN},
                    "episodes": ended.score and ended.score.episodes,
                    "train_episodes": 300,
                    "parent": None,
                    "seconds": ended.seconds if ended.seconds == ended.seconds else None,
                    "architecture": text,
                    "key": key,
                    "state": state.value,
                    "settings": "0" * 64,
                    "unit": None,
                    "space_settings": {"layers": asked["config"]["space"]["layers"]},
                    "chosen": {},
                }
            )
        begin(store, row, 40)
    return rows


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    if request.param == "sqlite":
        with Store(f"sqlite:///{tmp_path_factory.mktemp('leaderboard')}/nas.db", create=True) as store:
            yield store
        return
    with on_postgres() as url, Store(url, create=True) as store:
        yield store


@pytest.fixture(scope="module")
def recorded(store: Store) -> list[dict[str, Any]]:
    return fill(store)


def expected(recorded: list[dict[str, Any]], query: Query) -> list[dict[str, Any]]:
    """Answer a query by brute force."""

    def wanted(row: dict[str, Any]) -> bool:
        return (
            row["state"] in query.states
            and row["score"] is not None
            and row[query.sort] is not None
            and (not query.searches or row["search"] in query.searches)
            and query.space in (None, row["space"])
            and query.controller in (None, row["controller"])
            and query.tasks in (None, row["tasks"], row["task"])
            and query.learner in (None, row["learner"])
            and all(row[name] is not None and row[name] <= limit for name, limit in query.limits.items())
            and all(row[field] is not None for field in query.pareto)
        )

    def point(row: dict[str, Any]) -> list[float]:
        return [-row[field] if field == "score" else row[field] for field in query.pareto]

    def dominated(row: dict[str, Any]) -> bool:
        others = (point(other) for other in rows)
        mine = point(row)
        return any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in others
        )

    def rank(row: dict[str, Any]) -> tuple[float, float]:
        size = float("inf") if row["parameters"] is None else row["parameters"]
        return (-row["score"], size) if query.sort == "score" else (row[query.sort], -row["score"])

    rows = [row for row in recorded if wanted(row)]
    if query.pareto:
        rows = [row for row in rows if not dominated(row)]
    return sorted(rows, key=rank)[: query.limit or None]


def maybe(values: Any) -> st.SearchStrategy[Any]:
    return st.none() | st.sampled_from(sorted(values))


queries = st.builds(
    Query,
    searches=st.lists(st.sampled_from([asked["name"] for asked in SEARCHES]), max_size=3).map(tuple),
    space=maybe({asked["space"] for asked in SEARCHES} | {"nowhere"}),
    controller=maybe({asked["controller"] for asked in SEARCHES}),
    tasks=maybe({asked[key] for asked in SEARCHES for key in ("tasks", "task_label")}),
    learner=maybe({asked["learner"] for asked in SEARCHES}),
    limits=st.dictionaries(
        st.sampled_from(COSTS), st.sampled_from([0, 0.25, 2.0, 300, 900, 10_000]), max_size=2
    ),
    states=st.lists(st.sampled_from([state.value for state in TrialState]), min_size=1).map(tuple),
    sort=st.sampled_from(sorted(FIELDS)),
    limit=st.sampled_from([0, 1, 5, 20]),
    pareto=st.permutations(sorted(FIELDS)).flatmap(
        lambda fields: st.integers(0, 4).map(lambda n: tuple(fields[:n]))
    ),
)


@settings(max_examples=100, deadline=None)
@given(query=queries, first=st.sampled_from([1, 8, 500]), pivots=st.sampled_from([1, 12]))
def test_a_leaderboard_is_what_brute_force_finds(
    store: Store, recorded: list[dict[str, Any]], query: Query, first: int, pivots: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(front, "FIRST_ROUND", first)
        patch.setattr(front, "PIVOTS", pivots)
        found = leaderboard(store, query)
    assert len({row.protocol for row in found}) <= 1
    assert [{**asdict(row), "protocol": None} for row in found] == [
        {"rank": rank, **row, "protocol": None} for rank, row in enumerate(expected(recorded, query), start=1)
    ]


@pytest.mark.parametrize("fields", [("score", "parameters"), ("score", "macs", "seconds"), tuple(FIELDS)])
def test_a_front_is_what_brute_force_finds(
    store: Store, recorded: list[dict[str, Any]], fields: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all trials, where rounds of growing size are needed."""
    monkeypatch.setattr(front, "FIRST_ROUND", 2)
    query = Query(pareto=fields, limit=0)
    found = [(row.search, row.trial) for row in leaderboard(store, query)]
    assert found == [(row["search"], row["trial"]) for row in expected(recorded, query)]
    assert len(found) > 5


@given(
    points=st.integers(1, 4).flatmap(
        lambda size: st.lists(st.tuples(*[st.integers(0, 5).map(float)] * size), max_size=40)
    )
)
@settings(deadline=None)
def test_nondominated_points_are_those_that_no_other_dominates(points: list[tuple[float, ...]]) -> None:
    points.sort()
    kept = [
        index
        for index, point in enumerate(points)
        if not any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points
        )
    ]
    assert nondominated(points) == kept


def test_by_default_the_twenty_best_completed_trials_are_ranked(
    store: Store, recorded: list[dict[str, Any]]
) -> None:
    rows = leaderboard(store, Query())
    assert [row.rank for row in rows] == list(range(1, 21))
    scores = [row.score for row in rows]
    completed = [row["score"] for row in recorded if row["state"] == "completed" and row["score"] is not None]
    assert scores == sorted(completed, reverse=True)[:20]


def test_searches_go_by_prefix_and_as_the_newest(store: Store, recorded: list[dict[str, Any]]) -> None:
    assert {row.search for row in leaderboard(store, Query(searches=("@last", "s0")))} == {"s0", "s5"}
    with refusal(NotFound, "'sx'", "nas ls"):
        leaderboard(store, Query(searches=("s0", "sx")))
    with refusal(ConfigError, "s0, s1"):
        leaderboard(store, Query(searches=("s",)))


@pytest.mark.parametrize(
    ("wrong", "facts"),
    [
        (
            {"sort": "scores"},
            ("sort", "'scores'", "'score'"),
        ),
        ({"pareto": ("score", "flops")}, ("pareto", "'flops'")),
        ({"states": ("done",)}, ("state", "'done'", "completed")),
        ({"limits": {"score": 1.0}}, ("limits", "'score'")),
    ],
)
def test_what_no_row_has_is_refused(wrong: dict[str, Any], facts: Facts) -> None:
    with refusal(UnknownName, *facts):
        Query(**wrong)


@pytest.mark.parametrize("column", SORTS)
def test_every_column_sorts(store: Store, recorded: list[dict[str, Any]], column: str) -> None:
    rows = [asdict(row) for row in leaderboard(store, Query(sort=column, limit=0))]
    values = [row[column] for row in rows]
    present = [value for value in values if value is not None]
    assert values == sorted(present, reverse=column == "score") + [None] * (len(values) - len(present))
    ranked = [row for row in recorded if row["state"] == "completed" and row["score"] is not None]
    assert len(rows) == sum(column not in COSTS or row[column] is not None for row in ranked)


def test_scores_are_ranked_among_those_that_compare(tmp_path: Path) -> None:
    """By settings, and by what `auto` and the data were where a search began."""
    asked = (("a", "1", "float32"), ("b", "2", "float32"), ("c", "1", "float32"), ("d", "1", "bfloat16"))
    with Store(f"sqlite:///{tmp_path}/nas.db", create=True) as store:
        for name, settings_, precision in asked:
            row = search(store, name=name, settings=settings_, environment={"precision": precision})
            for number in range(3):
                cost = {"parameters": 10 - number}
                store.finish(begin(store, row, number, key=f"{number}"), outcome(number / 10, costs=cost))
        found = sections(store, Query(limit=4))
        smallest = sections(store, Query(pareto=("parameters",), searches=("a", "b")))
        every = leaderboard(store, Query(limit=0))
    assert [(s.example.name, len(s.rows), {row.search for row in s.rows}) for s in found] == [
        ("d", 3, {"d"}),
        ("c", 4, {"a", "c"}),
        ("b", 3, {"b"}),
    ]
    named = [{row.protocol for row in every if row.search in names} for names in ("d", "ac", "b")]
    assert [{row.protocol for row in s.rows} for s in found] == named
    assert sorted(map(len, named)) == [1, 1, 1]
    assert len(set.union(*named)) == 3
    assert all([row.rank for row in s.rows] == list(range(1, len(s.rows) + 1)) for s in found)
    assert [[(row.search, row.trial) for row in s.rows] for s in smallest] == [[("b", 2)], [("a", 2)]]


@pytest.mark.parametrize(
    ("filters", "near"),
    [
        ({"tasks": "omniglott"}, "omniglot"),
        ({"tasks": "omniglot 20-way 1-shots"}, "omniglot 20-way 1-shot"),
        ({"space": "chian"}, "chain"),
        ({"controller": "evolutoin"}, "evolution"),
        ({"learner": "mamll"}, "maml"),
    ],
)
def test_a_name_that_is_none_is_told_from_one_without_trials(
    store: Store, recorded: list[dict[str, Any]], filters: dict[str, str], near: str
) -> None:
    with refusal(NotFound, f"'{near}'"):
        sections(store, Query(**filters))
    assert sections(store, Query(space="darts")) == []  # installed, and never searched


def test_a_column_of_evaluations_is_none_of_trials(store: Store, recorded: list[dict[str, Any]]) -> None:
    with refusal(ConfigError, "--stage test"):
        leaderboard(store, Query(sort="test_score"))


def test_a_limit_is_not_negative() -> None:
    with refusal(ConfigError, "limit: -1"):
        replace(Query(), limit=-1)


def test_a_frame_has_a_column_for_every_field(store: Store, recorded: list[dict[str, Any]]) -> None:
    rows = leaderboard(store, Query(limit=5))
    found = frame([record(row) for row in rows], LeaderboardRow)
    assert list(found.columns) == list(LeaderboardRow.__dataclass_fields__)
    assert found["score"].tolist() == [row.score for row in rows]
    assert pd.api.types.is_float_dtype(found["score"])
    assert list(frame([], LeaderboardRow).columns) == list(LeaderboardRow.__dataclass_fields__)


def test_boards_name_the_settings_in_which_they_differ(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path}/nas.db", create=True) as store:
        for name, shots in (("a", 1), ("b", 5)):
            row = recorded_search(store, name=name, tasks={"name": "sinusoid", "shots": shots})
            store.finish(begin(store, row, 0, key=name), outcome(0.5))
        found = boards.trials(store, Query())
    assert [(board.task, board.learner, board.unit) for board in found] == [
        ("sinusoid 10-shot", "maml", None)
    ] * 2
    assert [(board.differing, board.settings["tasks.shots"]) for board in found] == [
        (("tasks.shots",), 5),
        (("tasks.shots",), 1),
    ]
    assert [
        (row["rank"], row["search"], row["score"], row["tasks.shots"]) for row in boards.records(found)
    ] == [(1, "b", 0.5, 5), (1, "a", 0.5, 1)]


@pytest.mark.parametrize(
    "query",
    [
        Query(),
        Query(searches=("s1",)),
        Query(space="chain", controller="random", tasks="glyphs", limits={"parameters": 500, "macs": 2000}),
        Query(sort="seconds"),
        Query(pareto=("score", "parameters")),
    ],
    ids=["default", "search", "filters", "seconds", "pareto"],
)
def test_sqlite_finds_the_rows_in_one_index(tmp_path: Path, query: Query) -> None:
    with Store(f"sqlite:///{tmp_path}/nas.db", create=True) as store:
        fill(store)
        plans = []

        def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            if "FROM trials" in statement:
                plans.append(
                    [row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
                )

        with store.read() as session:
            event.listen(session.get_bind().engine, "before_cursor_execute", explain)
        leaderboard(store, query)
    ranked = [plan for plan in plans if not any("ix_trials_repeats" in step for step in plan)]
    first = [step for step in ranked[0] if "trials" in step]
    index = "ix_trials_search (search_id=?" if query.searches else "ix_trials_leaderboard (state=?"
    assert first[0].startswith(f"SEARCH trials USING COVERING INDEX {index}")
    assert not any("SCAN trials" in step for plan in ranked for step in plan)


@pytest.mark.parametrize("shorter", [TrialState.REUSED, TrialState.PAUSED])
def test_a_longer_training_ranks_before_a_shorter_one(tmp_path: Path, shorter: TrialState) -> None:
    """A trial that took over a score has its length."""
    with Store(f"sqlite:///{tmp_path}/nas.db", create=True) as store:
        row = search(store)
        for number, (value, state, length) in enumerate(
            [(0.9, shorter, 100), (0.5, TrialState.COMPLETED, 300)]
        ):
            trial = begin(store, row, number, key=f"k{number}", architecture=f"a{number}")
            store.finish(trial, outcome(value, state, train_episodes=length))
        states = (TrialState.COMPLETED.value, shorter.value)
        assert [found.trial for found in leaderboard(store, Query(states=states))] == [1, 0]


def test_a_front_goes_by_means_over_seeds(tmp_path: Path) -> None:
    """`lucky` is first by its first seed alone; `small` is on the front for its size."""
    trained = [("lucky", 0, 0.9, 20), ("steady", 0, 0.7, 20), ("small", 0, 0.4, 10), ("worse", 0, 0.3, 15)]
    raced = [("lucky", 1, 0.3, 20), ("steady", 1, 0.8, 20)]
    with Store(f"sqlite:///{tmp_path}/nas.db", create=True) as store:
        config = {
            "space": {"name": "chain"},
            "tasks": {"name": "glyphs"},
            "objective": ["score", "parameters"],
        }
        row = search(store, config=config)
        for number, (name, repeat, score, size) in enumerate([*trained, *raced]):
            trial = begin(store, row, number, key=name, architecture=name, repeat=repeat)
            store.finish(trial, outcome(score, costs={"parameters": size}))
        query = Query(pareto=("score", "parameters"))
        found = [(one.architecture, one.score) for one in leaderboard(store, query)]
        by_size = [one.architecture for one in leaderboard(store, replace(query, sort="parameters"))]
        every = [one.architecture for one in leaderboard(store, Query(sort="parameters"))]
        assert details(store, row.name).front == (1, 2)
    assert found == [("steady", 0.75), ("small", 0.4)]
    assert by_size == ["small", "steady"]
    assert every == ["small", "worse", "steady", "lucky"]


def test_further_seeds_are_of_whole_trainings_alone(tmp_path: Path) -> None:
    """A network with a short score, a whole one, and one under a further seed."""
    with Store(f"sqlite:///{tmp_path}/nas.db", create=True) as store:
        row = search(store)
        for number, (value, state, length, repeat) in enumerate(
            [
                (0.25, TrialState.PAUSED, 100, 0),
                (0.5, TrialState.COMPLETED, 300, 0),
                (0.75, TrialState.COMPLETED, 300, 1),
            ]
        ):
            trial = begin(store, row, number, key="a", architecture="a", repeat=repeat)
            store.finish(trial, outcome(value, state, train_episodes=length))
        found = leaderboard(store, Query(states=("completed", "paused")))
        assert [(one.trial, one.score, one.seeds) for one in found] == [(1, 0.625, 2), (0, 0.25, 1)]
