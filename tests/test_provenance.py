"""What a result may depend on besides its configuration, as it is recorded."""

from __future__ import annotations

import pytest
from scripted_searches import configure, reopen, run

from nas.driver.trials import executor
from nas.storage.store import Store
from nas.training.provenance import LATER, environment, machine, machines


def test_what_is_done_to_an_environment_stays_there() -> None:
    before = environment()
    assert {"nas", "python", "torch", "platform", "cores"} <= set(before)
    environment()["nas"] = "other"
    assert environment() == before


def test_a_kind_of_machine_in_a_few_words() -> None:
    kind = machine(environment())
    assert kind is not None
    assert f"torch {environment()['torch']}" in kind
    assert machine({"torch": "2.13.0"}) is None
    assert machines({"torch": "2.13.0"}) == []


def test_a_search_that_moves_says_where_to(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure(name="s", trials=2)
    run(store, config)
    assert LATER not in store.search("s").environment
    other = {**environment(), "processor": "another"}
    monkeypatch.setattr("nas.driver.search.environment", lambda: other)
    for _ in range(2):  # the same kind again is no other
        reopen(store, "s", more=1).run(executor(config, config.make_tasks()))
    row = store.search("s")
    assert machines(row.environment) == [machine(environment()), machine(other)]
    assert row.environment["classes"]
