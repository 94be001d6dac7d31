"""Tests of the store: how searches are named, found, listed and deleted."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC
from typing import Any

import pytest
from sqlalchemy import func, select

from nas.controller import Measurement
from nas.errors import ConfigError, NotFound
from nas.states import SearchState, TrialState
from nas.storage.columns import now
from nas.storage.schema import Architecture, Artifact, Search, Trial
from nas.storage.schema import Measurement as MeasurementRow
from nas.storage.searches import NewInherited, NewSearch
from nas.storage.store import Store
from nas.storage.trials import TrialCounts
from nas.testing.stores.base import OpenStore
from nas.testing.stores.rows import begin, columns, outcome, search


class SearchSuite(OpenStore):
    """The searches of a database."""

    def test_a_search_comes_back_as_it_was_asked_for(self, store: Store, other: Store) -> None:
        asked = {
            "name": "Omniglot_20.1-a",
            "source": '# ünïcode\nspace = "chain"\r\n',
            "config": {"space": {"name": "chain", "widths": [1, 2.5, None, True, "ß"]}, "rungs": []},
            "space": "chain",
            "controller": "evolution",
            "tasks": "omniglot",
            "task_label": "omniglot 20-way 1-shot",
            "learner": "maml",
            "executor": "ray",
            "seed": 2**63 - 1,
            "trials": 500,
            "settings": "ab" * 32,
            "environment": {"torch": "2.13"},
        }
        before = now()
        made = search(store, **asked)
        found = other.search("Omniglot_20.1-a")
        assert columns(found) == columns(made)
        assert {key: value for key, value in columns(found).items() if key in asked} == asked
        assert found.state == SearchState.INTERRUPTED
        assert before <= found.created_at <= now()
        assert found.created_at.tzinfo is UTC
        assert (found.started_at, found.finished_at, found.heartbeat_at) == (None, None, None)
        assert (found.host, found.pid) == (None, None)
        assert found.stop_requested is False

    def test_what_a_search_inherited_comes_back_in_order_and_goes_with_it(
        self, store: Store, other: Store
    ) -> None:
        known = [NewInherited(f"old{i % 2}", f"{i}.ß", 1 / (i + 3)) for i in range(12)]
        asked: dict[str, Any] = columns(search(store))
        new = {field.name: asked[field.name] for field in fields(NewSearch) if field.name != "name"}
        row = store.create_search(NewSearch(name="new", **new), known)
        found = other.inherited(row.id)
        assert [(one.origin, one.architecture, one.share) for one in found] == known
        assert [one.place for one in found] == list(range(12))
        store.delete(row.id)
        assert other.inherited(row.id) == []

    def test_a_name_of_its_own_is_made_unique(self, store: Store) -> None:
        search(store, name="random-chain-glyphs-2")
        assert [search(store).name for _ in range(3)] == [
            "random-chain-glyphs",
            "random-chain-glyphs-3",
            "random-chain-glyphs-4",
        ]
        assert search(store, controller="my.plugin:Mine").name == "my.plugin-Mine-chain-glyphs"

    def test_a_name_is_given_once(self, store: Store) -> None:
        search(store, name="mine")
        with pytest.raises(ConfigError, match="`nas resume mine`"):
            search(store, name="mine")
        assert search(store, name="Mine").name == "Mine"

    @pytest.mark.parametrize("name", ["", "@last", "a/0", "-a", "a b", "ä", "a\n"])
    def test_a_name_can_be_typed(self, store: Store, name: str) -> None:
        with pytest.raises(ConfigError, match="allowed: letters"):
            search(store, name=name)

    def test_a_reference_is_a_name_or_a_prefix_or_the_newest(self, store: Store) -> None:
        with pytest.raises(NotFound, match="nas run"):
            store.search("@last")
        ids = {name: search(store, name=name).id for name in ("run", "run-2", "race_1", "racer1")}
        assert store.search("run").id == ids["run"]
        assert store.search("run-").id == ids["run-2"]
        assert store.search("race_").id == ids["race_1"]
        assert store.search("@last").id == ids["racer1"]
        with pytest.raises(ConfigError, match="race_1, racer1"):
            store.search("rac")
        with pytest.raises(NotFound, match=r"'rum'.* 'run'.*`nas ls`"):
            store.search("rum")
        with pytest.raises(NotFound, match=r"'@lst'.* '@last'"):
            store.search("@lst")
        with pytest.raises(NotFound, match="'RUN-2'"):
            store.search("RUN-2")

    def test_searches_are_counted_by_state(self, store: Store) -> None:
        first, second, empty = search(store), search(store), search(store)
        for number, ended in enumerate(
            [
                outcome(0.5),
                outcome(0.75),
                outcome(0.9, TrialState.STOPPED),
                outcome(0.75, TrialState.REUSED, reused=1),
                outcome(state=TrialState.FAILED),
                outcome(float("nan")),
            ]
        ):
            store.finish(begin(store, first, number), ended)
        begin(store, second, 0)
        listed = {summary.search.id: summary for summary in store.searches()}
        assert list(listed) == [empty.id, second.id, first.id]
        assert listed[first.id].trials == {"completed": 3, "stopped": 1, "reused": 1, "failed": 1}
        assert listed[first.id].best == 0.75
        assert (listed[second.id].trials, listed[second.id].best) == ({"running": 1}, None)
        assert (listed[empty.id].trials, listed[empty.id].best) == ({}, None)

    def test_a_search_is_extended_by_its_driver(self, store: Store) -> None:
        row = search(store, trials=10)
        assert store.acquire(row.id, total=15, known=TrialCounts(0, 0)).trials == 15
        assert store.acquire(row.id, total=12).trials == 15
        begin(store, row, 0)
        before = columns(store.search(row.name))
        with pytest.raises(ConfigError, match="same command again"):
            store.acquire(row.id, total=20, known=TrialCounts(0, 0))
        assert columns(store.search(row.name)) == before
        with pytest.raises(NotFound, match="nas ls"):
            store.acquire(row.id + 1)

    def test_what_was_acquired_in_vain_is_as_it_was(self, store: Store) -> None:
        row = search(store, trials=10)
        store.acquire(row.id)
        store.release(row.id, "completed")
        before = store.search(row.name)
        store.acquire(row.id, total=15)
        store.restore(before)
        assert columns(store.search(row.name)) == columns(before)

    def test_a_deleted_search_leaves_nothing_but_what_others_share(self, store: Store) -> None:
        kept, gone = search(store), search(store)
        for row in (kept, gone):
            trial = begin(store, row, 0, key="shared")
            store.finish(trial, outcome(0.5, measurements=(Measurement(1, "loss", 1.0),)))
            store.add_artifact(trial, kind="weights", uri="model.pt", sha256="0" * 64, bytes=2**40)
        begin(store, gone, 1, key="alone")
        store.delete(gone.id)
        with store.read() as session:
            for table in (Search, Trial, MeasurementRow, Artifact):
                assert session.scalar(select(func.count()).select_from(table)) == 1, table
            assert session.scalars(select(Architecture.key)).all() == ["shared"]
        assert begin(store, search(store), 0, key="alone") > 0
        with pytest.raises(NotFound, match="nas ls"):
            store.delete(gone.id)
