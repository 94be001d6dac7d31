"""Trials a page at a time, against the same by brute force."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from facts import refusal
from sqlalchemy import event, text

from nas.errors import ConfigError, UnknownName
from nas.queries import paging, searches
from nas.queries.paging import SORTS, TrialsQuery
from nas.queries.searches import SearchesQuery
from nas.states import TrialState
from nas.storage.schema import Search
from nas.storage.store import Store
from nas.testing.stores import begin, outcome, search

STATES = (TrialState.COMPLETED, TrialState.STOPPED, TrialState.FAILED)


@pytest.fixture
def row(store: Store) -> Search:
    """A search of trials in several states, many of them with equal values and many without any."""
    row, draw = search(store, name="s"), random.Random(3)
    for number in range(37):
        state = draw.choice(STATES)
        score = None if state is TrialState.FAILED else draw.choice([0.1, 0.2, 0.3])
        costs = {} if draw.random() < 0.3 else {"parameters": draw.randrange(1, 4), "macs": draw.randrange(9)}
        begin(store, row, number, outcome=outcome(score, state, seconds=draw.random(), costs=costs))
    other = search(store, name="other")
    begin(store, other, 0, outcome=outcome(0.9))
    return row


def walk(store: Store, row: Search, query: dict[str, Any], *, backwards: bool) -> Iterator[list[int]]:
    """Yield the trials of one page after the other."""
    turn: dict[str, Any] = {"last": True} if backwards else {}
    while True:
        page = paging.page(store, row, TrialsQuery(**query, **turn, limit=12))
        numbers = [found.trial for found in page.rows]
        yield numbers
        if not (page.earlier if backwards else page.later):
            return
        turn = {"before": numbers[0]} if backwards else {"after": numbers[-1]}


@pytest.mark.parametrize("descending", [False, True])
def test_pages_follow_one_another_in_the_order_of_a_sort(store: Store, row: Search, descending: bool) -> None:
    every = store.trials(row.id)
    for sort in SORTS:
        column = SORTS[sort].key
        known = [t for t in every if getattr(t, column) is not None]
        known.sort(key=lambda t, column=column: getattr(t, column), reverse=descending)  # type: ignore[misc]
        expected = [t.number for t in known] + [t.number for t in every if getattr(t, column) is None]
        query = {"sort": sort, "descending": descending}
        pages = [*walk(store, row, query, backwards=False)]
        assert [number for page in pages for number in page] == expected
        assert all(len(page) == 12 for page in pages[:-1])
        back = [*walk(store, row, query, backwards=True)]
        assert [number for page in reversed(back) for number in page] == expected


def test_only_what_matches_is_there(store: Store, row: Search) -> None:
    every = store.trials(row.id)
    limits = {"parameters": 2.0, "macs": 5.0}
    query = TrialsQuery(state="completed", limits=limits, sort="score", limit=100)
    page = paging.page(store, row, query)
    expected = {
        t.number
        for t in every
        if t.state == "completed" and (t.parameters or 9) <= 2 and t.macs is not None and t.macs <= 5
    }
    assert {found.trial for found in page.rows} == expected != set()
    assert page.total == len(expected)
    assert not page.earlier
    assert not page.later


def test_a_text_is_searched_as_it_is(store: Store, row: Search) -> None:
    assert [t.trial for t in paging.page(store, row, TrialsQuery(text="12.0")).rows] == [12]
    assert paging.page(store, row, TrialsQuery(text="%")).rows == ()


def test_wrong_queries() -> None:
    with refusal(UnknownName, "zz", "score"):
        TrialsQuery(sort="zz")
    with refusal(UnknownName, "gone", "completed"):
        TrialsQuery(state="gone")
    with refusal(UnknownName, "size", "macs"):
        TrialsQuery(limits={"size": 1.0})
    with refusal(ConfigError, "limit", 0):
        TrialsQuery(limit=0)


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({}, "search_id=? AND number<?"),
        (
            {"sort": "score", "state": "completed"},
            "ix_trials_search (search_id=? AND state=? AND score>? AND score<?)",
        ),
        ({"sort": "parameters"}, "search_id=?"),
    ],
)
def test_a_page_is_found_in_an_index(store: Store, row: Search, query: dict[str, Any], index: str) -> None:
    after = paging.page(store, row, TrialsQuery(**query, limit=5)).rows[-1].trial
    asked: list[tuple[str, Any]] = []
    reader = store._database._reader

    def note(connection: Any, cursor: Any, statement: str, values: Any, *rest: Any) -> None:
        asked.append((statement, values))

    event.listen(reader, "before_cursor_execute", note)
    paging.page(store, row, TrialsQuery(**query, after=after, limit=5))
    event.remove(reader, "before_cursor_execute", note)
    plans = []
    with reader.connect() as connection:
        for statement, values in asked:
            if statement.startswith("SELECT"):
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
                plans.append([line[-1] for line in plan])
    assert len(plans) >= 4
    assert not [line for plan in plans for line in plan if line.startswith("SCAN")]
    assert any(index in line for plan in plans for line in plan), plans


def test_searches_by_page(store: Store) -> None:
    rows = [search(store, name=f"s{number}", controller=("rnn", "random")[number % 2]) for number in range(7)]
    store.acquire(rows[0].id)
    store.annotate(rows[3].id, "the 100% one")
    page = searches.page(store, SearchesQuery(limit=3))
    assert ([found.search for found in page.rows], page.total, page.more) == (["s6", "s5", "s4"], 7, True)
    page = searches.page(store, SearchesQuery(limit=3, before="s2"))
    assert ([found.search for found in page.rows], page.total, page.more) == (["s1", "s0"], 7, False)
    assert [f.search for f in searches.page(store, SearchesQuery(state="running")).rows] == ["s0"]
    assert [f.search for f in searches.page(store, SearchesQuery(text="100%")).rows] == ["s3"]
    assert searches.page(store, SearchesQuery(controller="rnn", state="interrupted")).total == 3
    with refusal(UnknownName, "gone", "running"):
        SearchesQuery(state="gone")


def test_the_best_of_a_search_has_its_interval_and_its_cost(store: Store) -> None:
    row = search(store, name="s")
    for number, (score, seconds) in enumerate([(0.2, 1.0), (0.7, 2.5), (None, 4.0)]):
        state = TrialState.FAILED if score is None else TrialState.COMPLETED
        begin(store, row, number, outcome=outcome(score, state, seconds=seconds))
    [found] = searches.searches(store)
    assert (found.best, found.ci95, found.seconds, found.failed) == (0.7, 0.01, 7.5, 1)


def test_a_version_changes_with_every_change_but_a_sign_of_life(store: Store) -> None:
    row = search(store, name="s")
    seen = [searches.version(store, store.search("s"))]

    def changed() -> bool:
        seen.append(searches.version(store, store.search("s")))
        return seen[-1] != seen[-2]

    store.acquire(row.id)
    assert changed()
    store.heartbeat(row.id)
    assert not changed()
    trial = begin(store, row, 0)
    assert changed()
    store.finish(trial, outcome(0.5))
    assert changed()
    begin(store, row, 1)
    assert changed()
    store.interrupt(row.id)
    assert changed()
    store.annotate(row.id, "a note")
    assert changed()
    store.request_stop(row.id)
    assert changed()
    store.release(row.id, "stopped")
    assert changed()


def test_the_time_left_leaves_interruptions_out(store: Store) -> None:
    row = search(store, name="s", config={"tasks": {"name": "glyphs"}}, trials=10)
    store.acquire(row.id)
    assert searches.facts(store, store.search("s")).left is None
    for number in range(5):
        begin(store, row, number, outcome=outcome(0.5))
    with store._database.write() as connection:
        moments = ["00:00:00", "00:00:10", "00:00:20", "05:00:00", "05:00:10"]
        for number, moment in enumerate(moments):
            connection.execute(
                text("UPDATE trials SET finished_at = :moment WHERE number = :number"),
                {"moment": f"2026-01-01 {moment}.000000", "number": number},
            )
    assert searches.facts(store, store.search("s")).left == pytest.approx(50.0)
