"""Benchmarks: what is planned, what is run again, and that their searches are ordinary ones."""

from __future__ import annotations

import json
import sqlite3
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from command_line import nas
from facts import Facts, lacking, refusal

from nas.comparison.benchmark import plan
from nas.driver.search import SearchDriver
from nas.errors import ConfigError, UnknownName
from nas.settings.search import SearchConfig
from nas.storage.lease import Pulse
from nas.storage.store import Store
from nas.tasks.sinusoid import Sinusoid

TOML = """
controllers = ["evolution"]
seeds = 2
trials = 5
executor = "inline"
space = "nas.testing.toys:Toy"
tasks = "sinusoid"
learner = "maml"
evaluator = "nas.testing.evaluators:Scripted"
"""

BASE: dict[str, Any] = {
    "space": "nas.testing.toys:Toy",
    "tasks": "sinusoid",
    "learner": "maml",
    "controllers": ["random", "evolution"],
}

ORDER = ("random-0", "evolution-0", "random-1", "evolution-1")


@pytest.fixture
def db(db: Path) -> Path:
    """A benchmark's file is in the working directory, too."""
    (db.parent / "b.toml").write_text(TOML)
    return db


def searches() -> dict[str, dict[str, Any]]:
    return {row["search"]: row for row in json.loads(nas("ls", "--limit=0", "-f", "json")[1])}


def test_a_plan_names_every_search() -> None:
    planned = plan(BASE | {"seeds": 2}, "b")
    assert [(config.name, config.seed) for config in planned] == [
        ("b-random-0", 0),
        ("b-evolution-0", 0),
        ("b-random-1", 1),
        ("b-evolution-1", 1),
    ]
    assert len(plan(BASE, "b")) == 6
    assert [config.seed for config in plan(BASE | {"seeds": [7, 3]}, "b")] == [7, 7, 3, 3]
    assert plan(BASE | {"name": "mine"}, "b")[0].name == "mine-random-0"


def test_settings_are_chosen_as_in_a_search(db: Path, store: Store) -> None:
    code, _, err = nas("benchmark", "b.toml", "--seeds=1", "--slot=learner.lr=[0.1, 0.01]")
    assert code == 0, err
    found = [summary.search.config["slots"] for summary in store.searches()]
    assert found == [{"learner": {"lr": [0.1, 0.01]}}] * 2
    assert nas("benchmark", "b.toml", "--slot=learner.rate=[1]")[0] == 2


def test_random_search_is_always_there() -> None:
    sections = [{"name": "evolution", "population": 9}, {"name": "evolution", "label": "e2", "sample": 1}]
    planned = plan(BASE | {"controllers": sections, "seeds": 1}, "b")
    assert [config.name for config in planned] == ["b-random-0", "b-evolution-0", "b-e2-0"]
    assert [config.controller.get("population") for config in planned] == [None, 9, 16]
    other = plan(BASE | {"controllers": [{"name": "random", "label": "chance"}], "seeds": 1}, "b")
    assert [config.name for config in other] == ["b-chance-0"]


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"controllers": ["evolution", "evolution"]}, ("controllers", "'evolution'", "label")),
        ({"controllers": "random"}, ("controllers",)),
        ({"controllers": []}, ("controllers",)),
        ({"controllers": [3]}, ("controllers",)),
        ({"controllers": [{"population": 3}]}, ("controllers",)),
        ({"controllers": [{"label": "x"}]}, ("--controller",)),
        (
            {"controllers": [{"name": "evolution", "label": "random"}]},
            ("'random'", "label"),
        ),
        ({"seeds": 0}, ("seeds",)),
        ({"seeds": [1, 1]}, ("seeds",)),
        ({"seeds": []}, ("seeds",)),
        ({"seeds": True}, ("seeds",)),
        ({"seeds": [-1]}, ("seeds", [-1])),
        ({"controller": "random"}, ("controllers",)),
        ({"seed": 3}, ("seeds",)),
        ({"name": "a/b"}, ("'a/b'",)),
    ],
)
def test_plans_that_make_no_sense(changes: dict[str, Any], facts: Facts) -> None:
    with refusal(ConfigError, *facts):
        plan(BASE | changes, "b")
    with refusal(UnknownName, "controler"):
        plan(BASE | {"controllers": ["controler"]}, "b")


def test_a_benchmark_runs_and_compares(db: Path) -> None:
    code, out, err = nas("benchmark", "b.toml", "-f", "json")
    assert code == 0, err
    rows = json.loads(out)
    assert [(row["group"], row["searches"]) for row in rows] == [("random", 2), ("evolution", 2)]
    found = searches()
    assert found.keys() == {"b-random-0", "b-random-1", "b-evolution-0", "b-evolution-1"}
    assert {row["state"] for row in found.values()} == {"completed"}
    assert all(f"b-{name}: search {place} of 4" in err for place, name in enumerate(ORDER, 1))
    assert err.splitlines()[-1].count("b-") == 2
    assert nas("compare", "b-")[0] == 0


def test_its_searches_are_those_of_run(db: Path) -> None:
    nas("benchmark", "b.toml", "--seeds=1")
    Path("one.toml").write_text(TOML.replace('controllers = ["evolution"]\nseeds = 2', ""))
    assert nas("run", "one.toml", "--controller=evolution", "--seed=0", "--name=alone")[0] == 0

    def trials(name: str) -> list[tuple[Any, ...]]:
        shown = json.loads(nas("show", name, "-f", "json")[1])
        return [(trial["architecture"], trial["score"]) for trial in shown["trial_rows"]]

    assert trials("alone") == trials("b-evolution-0")


def test_what_is_complete_is_not_run_again(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driven: list[str] = []
    real = SearchDriver.run

    def counted(self: SearchDriver, executor: Any) -> str:
        driven.append(self._name)
        if driven.count("b-random-1") == 1 and self._name == "b-random-1":
            raise KeyboardInterrupt
        return real(self, executor)

    monkeypatch.setattr(SearchDriver, "run", counted)
    monkeypatch.setattr(sys, "argv", ["nas", "benchmark", "b.toml"])
    code, _, err = nas("benchmark", "b.toml")
    assert (code, "`nas benchmark b.toml`" in err) == (130, True)
    assert driven == ["b-random-0", "b-evolution-0", "b-random-1"]
    driven[:] = ["b-random-1"]
    assert nas("benchmark", "b.toml")[0] == 0
    assert driven[1:] == ["b-random-1", "b-evolution-1"]
    assert nas("benchmark", "b.toml", "--seeds=3")[0] == 0
    assert driven[3:] == ["b-random-2", "b-evolution-2"]
    assert len(searches()) == 6


def test_where_it_runs_may_change(db: Path) -> None:
    nas("benchmark", "b.toml", "--seeds=1")
    code, out, err = nas("benchmark", "b.toml", "--seeds=2", "--set=resources.gpus=0", "-f", "json")
    assert code == 0, err
    assert [(row["group"], row["searches"]) for row in json.loads(out)] == [("random", 2), ("evolution", 2)]


def test_threads_may_not_change(db: Path) -> None:
    nas("benchmark", "b.toml", "--seeds=1")
    code, _, err = nas("benchmark", "b.toml", "--seeds=2", "--set=resources.cpus=2")
    assert (code, lacking(err, "resources.cpus", 1, 2)) == (2, [])


def test_a_benchmark_without_a_limit_of_time_is_warned_of(db: Path) -> None:
    assert "max_seconds" in nas("benchmark", "b.toml", "--seeds=1")[2]
    limited = nas("benchmark", "b.toml", "--seeds=1", "--set=max_seconds=9", "--name=c")[2]
    assert "max_seconds" not in limited


def test_other_settings_need_another_name(db: Path) -> None:
    nas("benchmark", "b.toml", "--seeds=1")
    code, _, err = nas("benchmark", "b.toml", "--seeds=1", "--set=trials=7")
    assert (code, lacking(err, "'b-random-0'", "trials", 5, 7)) == (2, [])
    assert nas("benchmark", "b.toml", "--seeds=1", "--set=trials=7", "--name=c")[0] == 0
    assert searches()["c-random-0"]["done"] == 7


def test_a_benchmark_of_an_older_version_goes_on(db: Path) -> None:
    """Its searches were recorded without settings that have a default now."""
    assert nas("benchmark", "b.toml")[0] == 0
    with sqlite3.connect(db) as connection:
        connection.execute("update searches set config = json_remove(config, '$.tasks.queries', '$.retries')")
    connection.close()
    assert nas("benchmark", "b.toml")[0] == 0
    assert nas("benchmark", "b.toml", "--set=tasks.queries=3")[0] == ConfigError.exit_code


def test_a_search_that_fails_does_not_end_the_others(db: Path) -> None:
    faults = '--set=evaluator={name = "nas.testing.evaluators:Scripted", faults = {1 = "raise", 2 = "raise"}}'
    code, out, err = nas(
        "benchmark", "b.toml", "--seeds=1", "--set=retries=0", "--set=max_failed=0.2", faults
    )
    assert code == 5
    assert "evolution" in out
    assert err.count("2 of 5 trials") == 2
    assert err.index("2 of 5 trials") < err.index("'b-random-0' (failed)")
    assert lacking(err.splitlines()[-1], "2 of 2") == []
    assert {name: row["state"] for name, row in searches().items()} == {
        "b-random-0": "failed",
        "b-evolution-0": "failed",
    }


def test_searches_that_fail_without_a_score_say_why(db: Path) -> None:
    faults = '--set=evaluator={name = "nas.testing.evaluators:Scripted", faults = {0 = "raise", 1 = "raise"}}'
    code, out, err = nas("benchmark", "b.toml", "--seeds=1", "--set=retries=0", "--set=trials=2", faults)
    assert (code, out) == (5, "")
    assert err.count("2 of 2 trials") == 2


def test_a_search_without_a_feasible_architecture_fails(db: Path) -> None:
    faults = '--set=evaluator={name = "nas.testing.evaluators:Scripted", faults = {0 = "infeasible"}}'
    code, out, err = nas("benchmark", "b.toml", "--seeds=1", "--set=trials=1", faults)
    assert (code, out) == (5, "")
    assert lacking(err, "'b-random-0'", "nas show b-random-0") == []
    assert lacking(err.splitlines()[-1], "2 of 2") == []
    assert {row["state"] for row in searches().values()} == {"failed"}


def test_a_stop_ends_the_benchmark(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = SearchDriver.next

    def asked(self: SearchDriver) -> Any:
        with Store(f"sqlite:///{db}", create=True) as store:
            row = store.search(self._name)
            if row.name == "b-evolution-0" and self._ledger.next == 2:
                store.request_stop(row.id)
                self._pulse = Pulse()
        return real(self)

    monkeypatch.setattr(SearchDriver, "next", asked)
    monkeypatch.setattr("nas.storage.lease.HEARTBEAT_SECONDS", 0.0)
    code, out, err = nas("benchmark", "b.toml")
    assert (code, lacking(err, "'b-evolution-0'")) == (0, [])
    assert "evolution" in out
    assert searches().keys() == {"b-random-0", "b-evolution-0"}


def test_a_benchmark_in_a_table(db: Path) -> None:
    """Scores 1 … 8, test scores their tenths, 1 s each: 40 random trials of 8 networks find the best."""
    texts = [f"0.{width}.{activation}.0" for width in range(4) for activation in range(2)]
    rows = [f"{text},{i + 1},{(i + 1) / 10}" for i, text in enumerate(texts)]
    Path("t.csv").write_text("\n".join(["arch,valid,test", *rows]))
    Path("t.toml").write_text(
        """
        controllers = ["evolution"]
        seeds = 4
        trials = 40
        [space]
        name = "nas.testing.toys:Toy"
        layers = 1
        [evaluator]
        name = "tabular"
        table = "t.csv"
        metric = "valid"
        test_metric = "test"
        """
    )
    code, out, err = nas("benchmark", "t.toml", "-f", "json", "--set=deduplicate=false")
    assert code == 0, err
    random, evolution = json.loads(out)
    assert (random["score"], random["test"], random["searches"]) == (8.0, 0.8, 4)
    assert (random["cost"], random["trials"], random["reused"]) == (40.0, 40.0, 0.0)
    assert 0.0 <= evolution["p_test"] <= 1.0
    _, out, _ = nas("benchmark", "t.toml", "-f", "json", "--name=once")
    for row in json.loads(out):  # each network is paid for once
        assert row["cost"] <= 8.0
        assert row["reused"] == row["trials"] - row["cost"] > 0


def test_tasks_are_made_once_for_all_searches(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = SearchConfig.make_tasks
    monkeypatch.setattr(SearchConfig, "make_tasks", lambda self: made.append(self.name) or real(self))
    assert nas("benchmark", "b.toml")[0] == 0
    assert made == ["b-random-0"]


def test_files_go_where_they_are_told_to(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    real = SearchDriver.__init__

    def seen(self: SearchDriver, *arguments: Any) -> None:
        folders.append(signature(real).bind(self, *arguments).arguments["folder"])
        real(self, *arguments)

    monkeypatch.setattr(SearchDriver, "__init__", seen)
    assert nas("benchmark", "b.toml", "--seeds=1", "--artifacts=shared")[0] == 0
    assert folders == [db.parent / "shared"] * 2


def test_bad_files(db: Path) -> None:
    assert nas("benchmark", "none.toml")[0] == 3
    Path("b.toml").write_text("controllers = [")
    assert nas("benchmark", "b.toml")[0] == 2


def test_what_is_odd_about_the_data_is_said_once(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sinusoid, "remarks", ("3 of 9 images are blank.",))
    code, _, err = nas("benchmark", "b.toml")
    assert code == 0
    assert len(searches()) == 4
    assert err.count("warning: 3 of 9 images are blank.") == 1


def test_a_dry_run_lists_what_would_run_and_writes_nothing(db: Path) -> None:
    """A trial takes 0.02 s at least, and is measured once a controller."""
    Path("b.toml").write_text(TOML.replace("nas.testing.toys:Toy", "mlp"))
    dry = ("benchmark", "b.toml", "--set=evaluator.seconds=0.02", "--dry-run", "-f", "json")
    code, out, err = nas(*dry)
    assert code == 0, err
    rows = json.loads(out)
    assert [row["search"] for row in rows] == [f"b-{name}" for name in ORDER]
    assert {row["trials"] for row in rows} == {5}
    assert all(row["seconds"] >= 5 * 0.02 for row in rows)
    assert [row["seconds"] for row in rows[:2]] == [row["seconds"] for row in rows[2:]]
    assert not db.exists()
    assert nas("benchmark", "b.toml", "--set=evaluator.seconds=0.02", "--seeds=1")[0] == 0
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE searches SET state = 'interrupted' WHERE name = 'b-evolution-0'")
        connection.execute("DELETE FROM trials WHERE search_id = 2 AND number > 1")
    before = searches()
    rows = json.loads(nas(*dry)[1])
    assert [(row["search"], row["trials"]) for row in rows] == [
        ("b-evolution-0", 3),
        ("b-random-1", 5),
        ("b-evolution-1", 5),
    ]
    assert searches() == before
    assert nas(*dry, "--set=trials=9")[0] == 2  # what is there has other settings
