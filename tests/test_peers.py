"""Searches of the benchmarks in memory, and those of the service."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from scripted_searches import start
from small_table import TOY, configure, eight_rows, write

from nas.driver.trials import executor
from nas.settings.sections import maker
from nas.storage.store import Store

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize("controller", ["evolution", "gp"])
def test_a_search_in_memory_is_that_of_the_service(
    controller: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    peers = importlib.import_module("peers")
    path, seconds = write(eight_rows(), tmp_path / "table.csv"), 2500.0
    config = configure(
        path,
        controller={"name": controller},
        trials=1000,
        max_seconds=seconds,
        deduplicate=False,
        executor="inline",
        name="s",
        seed=3,
    )
    start(store, config).run(executor(config, config.make_source()))
    trials = store.history(store.search("s").id)
    table = {
        TOY.decode(row.arch).choices: peers.Row(row.valid, row.cost) for row in eight_rows().itertuples()
    }
    found = peers.search(peers.ours(maker("controller", config.controller)), TOY, table, seconds, 3)
    best = max(trials, key=lambda trial: (trial.score, -trial.number))
    assert found == (TOY.decode(best.architecture).choices, len(trials))
    assert len(trials) > 20
