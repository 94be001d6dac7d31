"""A comparison as data: what is compared, what is left out, and which numbers come of it."""

from __future__ import annotations

import pytest
from recorded import close, record, search

from nas.comparison.comparison import at_equal_cost, compare, gather
from nas.comparison.groups import find
from nas.comparison.ranks import least
from nas.errors import NotFound
from nas.storage.store import Store

SHORT = [("completed", 0.4, 10.0, None), ("completed", 0.6, 10.0, None)]
LONG = [("completed", 0.5, 10.0, 0.4), ("completed", 0.7, 15.0, 0.8)]


def test_groups_at_the_cost_of_the_shortest(store: Store) -> None:
    for seed in (0, 1):
        record(store, SHORT, name=f"random-{seed}", seed=seed)
        record(store, LONG, name=f"evolution-{seed}", controller="evolution", seed=seed)
    found = compare(store, find(store, ["random", "evolution"]))
    assert found.task == "sinusoid 10-shot"
    assert (found.equal.cost, found.equal.shortest.search.name, found.equal.clock) == (
        20.0,
        "random-0",
        "worker time",
    )
    assert (found.equal.late, found.equal.trials, found.equal.lossy) == (2, 8, True)
    assert [(row.group, row.searches, row.score, row.test) for row in found.rows] == [
        ("random", 2, 0.6, None),
        ("evolution", 2, 0.5, 0.4),
    ]
    assert [row.baseline for row in found.rows] == [None, "random"]
    assert found.weak is not None
    assert (found.weak.searches, found.weak.baselines, found.weak.p) == (2, 2, least(2, 2))
    assert (found.lacking, found.late) == ((), {})
    frame = found.frame()
    assert frame["score"].tolist() == [0.6, 0.5]
    assert list(frame.columns) == list(found.records()[0])


def test_what_is_left_out_is_told(store: Store) -> None:
    record(store, SHORT, name="a", seed=0)
    record(store, SHORT, name="again", seed=0)
    close(store, record(store, SHORT, name="stopped", seed=1), "stopped")
    close(store, search(store, name="nothing", seed=2))
    every = find(store, ["a", "again", "stopped", "nothing"])
    kept = gather(store, every)
    assert (kept.repeated, kept.incomplete) == (("again",), ())
    assert [one.name for one in kept.unfinished] == ["stopped"]
    assert [one.name for one in at_equal_cost(store, kept).unscored] == ["nothing"]
    strict = gather(store, every, complete=True)
    assert [one.name for one in strict.incomplete] == ["stopped"]
    assert strict.unfinished == ()
    with pytest.raises(NotFound):
        gather(store, find(store, ["stopped"]), complete=True)
    with pytest.raises(NotFound):
        compare(store, find(store, ["nothing"]))


def test_a_group_without_random_search_has_its_command(store: Store) -> None:
    for seed in (3, 4, 5):
        record(store, SHORT, name=f"e{seed}", controller="evolution", seed=seed)
    [lacking] = compare(store, find(store, ["e"])).lacking
    assert (lacking.labels, lacking.seeds) == (("evolution",), (4, 5))
    assert {"--controller=random", "--set=seed=3", "--set=trials=9"} <= {*lacking.command.split()}


def test_a_group_counts_the_searches_that_had_no_score_yet(store: Store) -> None:
    record(store, [("completed", 0.4, 10.0, None)], name="r", seed=0)
    record(store, [("completed", 0.4, 30.0, None)], name="e0", controller="evolution", seed=0)
    record(store, [("completed", 0.5, 5.0, None), *SHORT], name="e1", controller="evolution", seed=1)
    found = compare(store, find(store, ["r", "e"]))
    assert (found.equal.cost, found.late) == (10.0, {"evolution": 1})
    assert [row.searches for row in found.rows] == [1, 1]
