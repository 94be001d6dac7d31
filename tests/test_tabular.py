"""Searches in a table: scores as they stand there, and a simulated clock."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import nas
from facts import lacking, refusal
from scripted_searches import Silent, start
from small_table import TEXTS, TOY, configure, eight_rows, look_up, write
from torch import nn

from nas.backbone import BackboneSpace
from nas.controller import Measurement
from nas.driver.search import SearchDriver
from nas.driver.trials import executor
from nas.errors import ConfigError, Unsupported
from nas.evaluator import Job
from nas.plugins import FilePath
from nas.schedulers.asha import Asha
from nas.settings.search import SearchConfig, validate
from nas.space import Architecture, Decision, TaskShape
from nas.states import TrialState
from nas.storage.store import Store
from nas.tables.evaluator import Table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(eight_rows(), tmp_path / "small.v1.csv")


def run(store: Store, config: SearchConfig) -> str:
    return start(store, config).run(executor(config, config.make_source()))


def test_a_row_becomes_an_outcome(table: Path) -> None:
    outcome = look_up(configure(table), "0.2.1.0")
    assert outcome.state is TrialState.COMPLETED
    assert (outcome.score.value, outcome.seconds) == (60.0, 105.0)
    assert math.isnan(outcome.score.ci95)
    assert outcome.score.split == "small/valid"
    assert outcome.measurements == (Measurement(0, "test_score", pytest.approx(0.6)),)


def test_a_search_has_no_tasks_and_no_learner(table: Path) -> None:
    config = configure(table)
    assert (config.tasks, config.learner, config.executor) == (None, None, "inline")
    for changes in ({"tasks": "sinusoid"}, {"learner": "maml"}):
        [kind] = changes
        with refusal(ConfigError, f"{kind}:", "'tabular'"):
            configure(table, **changes)
    with refusal(ConfigError, "scheduler:"):
        configure(table, scheduler={})
    with refusal(ConfigError, "--tasks"):
        configure(table, evaluator="train", learner="maml")
    with refusal(Unsupported, "'darts'", "evolution", "random"):
        configure(table, controller="darts", trials=1, constraints={"max_parameters": 10}, tasks="sinusoid")
    with refusal(ConfigError, "constraints:", "'tabular'"):
        configure(table, constraints={"max_parameters": 10})
    assert isinstance(config.make_source(), Table)


def test_test_scores_are_recorded_but_not_observed(store: Store, table: Path) -> None:
    config = configure(table, deduplicate=False)
    search = start(store, config)
    observed = []
    observe = search._controller.observe
    search._controller.observe = lambda n, outcome: (observed.append(outcome), observe(n, outcome))  # type: ignore[method-assign]
    assert search.run(executor(config, config.make_source())) == "completed"
    row = store.search("random-nas.testing.toys-Toy-tabular")
    tests = {m.trial_id: m.value for m in store.measurements(row.id) if m.metric == "test_score"}
    trials = store.trials(row.id)
    assert (row.learner, row.task_label) == ("none", "small valid")
    assert len(observed) == len(trials) == 20
    assert all(outcome.measurements == () for outcome in observed)
    for trial in trials:
        place = TEXTS.index(trial.architecture)
        assert (trial.score, trial.seconds) == (10.0 * (place + 1), 100.0 + place)
        assert tests[trial.id] == pytest.approx(0.1 * (place + 1))


def test_the_budget_ends_a_search_once_it_is_reached(store: Store, table: Path) -> None:
    """Costs of 100 s to 107 s: the fifth evaluation passes 412 s … 499 s, never the fourth."""
    for seed in range(5):
        assert run(store, configure(table, deduplicate=False, max_seconds=450.0, seed=seed)) == "completed"
        trials = store.trials(store.search("@last").id)
        assert len(trials) == 5
        assert sum(trial.seconds or 0.0 for trial in trials[:-1]) < 450.0
    exact = configure(table, settings={}, deduplicate=False, max_seconds=3.0)
    run(store, exact)
    assert len(store.trials(store.search("@last").id)) == 3
    assert run(store, configure(table, trials=2, deduplicate=False, max_seconds=450.0)) == "completed"
    assert len(store.trials(store.search("@last").id)) == 2


def test_reused_trials_cost_nothing(store: Store, table: Path) -> None:
    run(store, configure(table, trials=40, max_seconds=450.0))
    trials = store.trials(store.search("@last").id)
    states = [trial.state for trial in trials]
    assert (states.count("completed"), states[-1]) == (5, "completed")
    assert states.count("reused") > 0


def test_a_resumed_search_spends_the_same(table: Path, tmp_path: Path) -> None:
    config = configure(
        table,
        deduplicate=False,
        max_seconds=750.0,
        controller={"name": "evolution", "population": 2, "sample": 2},
    )

    class Killed(BaseException): ...

    def results(store: Store) -> list[tuple[Any, ...]]:
        return [(t.number, t.architecture, t.score) for t in store.trials(store.search("@last").id)]

    with Store(f"sqlite:///{tmp_path}/whole.db", create=True) as store:
        run(store, config)
        whole = results(store)
    with Store(f"sqlite:///{tmp_path}/killed.db", create=True) as store:
        search = start(store, config)
        finish = search.finish

        def die(job: Job, outcome: Any) -> None:
            if job.number == 3:
                raise Killed
            finish(job, outcome)

        search.finish = die  # type: ignore[method-assign]
        with pytest.raises(Killed):
            search.run(executor(config, config.make_source()))
        row = store.search("@last")
        again = validate(row.config)
        tasks = again.make_source()
        resumed = SearchDriver(store, row, again, again.make_space(), tasks, Silent())
        assert resumed.run(executor(again, tasks)) == "completed"
        assert results(store) == whole
        assert len(whole) == 8


def test_early_stopping_follows_the_columns_of_shorter_trainings(store: Store, tmp_path: Path) -> None:
    """As `asha` on the stored scores decides, trial by trial, before and after a resume."""
    frame = eight_rows().assign(short=lambda rows: -rows["valid"])
    path = write(frame, tmp_path / "t.csv")
    settings = {"metric": {1: "short", 10: "valid"}, "cost": "cost"}
    config = configure(path, settings=settings, scheduler={"eta": 2}, deduplicate=False, trials=30)
    assert run(store, config) == "completed"
    trials = store.trials(store.search("@last").id)
    state = Asha(2, 10, (1,))
    for trial in trials:
        score = 10.0 * (TEXTS.index(trial.architecture) + 1)
        goes_on = state.report(trial.number, 1, -score)
        whole = 100.0 + TEXTS.index(trial.architecture)
        expected = ("completed", 10, score, whole) if goes_on else ("stopped", 1, -score, whole / 10)
        found = (trial.state, trial.train_episodes, trial.score, trial.seconds)
        assert found == (*expected[:3], pytest.approx(expected[3]))
    assert {trial.state for trial in trials} == {"completed", "stopped"}


def test_a_part_of_a_space_from_the_command_line(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path in a file counts from the file; what the table lacks is counted at the end and kept."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    write(eight_rows()[2:], folder / "t.csv")
    (folder / "search.toml").write_text(
        'trials = 30\ncontroller = "random"\nname = "part"\n'
        '[space]\nname = "nas.testing.toys:Toy"\nlayers = 1\n'
        '[evaluator]\nname = "tabular"\ntable = "t.csv"\nmetric = "valid"\npartial = true\n'
    )
    monkeypatch.chdir(tmp_path)
    code, _, err = nas("run", "experiments/search.toml")
    trials = [json.loads(nas("show", f"part/{number}", "-f", "json")[1]) for number in range(30)]
    infeasible = [trial for trial in trials if trial["state"] == "infeasible"]
    assert (code, len({trial["architecture"] for trial in infeasible})) == (0, 2)
    assert lacking(err, f"{len(infeasible)} of 30 trials", "6 of the 8") == []
    assert ["6 of the 8" in remark for remark in store.search("part").environment["remarks"]] == [True]
    assert nas("run", "experiments/search.toml", "--name=given", "--set=evaluator.table=t.csv")[0] == 3


def test_the_command_line(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--space=nas.testing.toys:Toy", "--set=space.layers=1", "--controller=random", "--trials=5"]
    looked_up = ["--evaluator=tabular", "--set=evaluator.table=small.v1.csv", "--set=evaluator.metric=valid"]
    code, out, _ = nas("run", *arguments, *looked_up, "--name=t", "--set=evaluator.test_metric=test")
    assert (code, out.split()[:3]) == (0, ["rank", "trial", "score"])
    trial = json.loads(nas("show", "t/0", "-f", "json")[1])
    assert [m["metric"] for m in trial["measurements"]] == ["test_score"]
    [row] = json.loads(nas("ls", "-f", "json")[1])
    assert (row["task"], row["learner"], row["done"]) == ("small valid", None, 5)
    assert json.loads(nas("show", "t", "-f", "json")[1])["config"]["evaluator"]["table"] == str(table)
    monkeypatch.chdir("/")
    assert nas("resume", "t", "--trials=+3", f"--db=sqlite:///{tmp_path}/nas.db")[0] == 0
    monkeypatch.chdir(tmp_path)
    for asked in (["t/0"], ["--top=1", "--search=t"]):
        code, _, err = nas("evaluate", *asked, "--seeds=1")
        assert (code, lacking(err, "'t'", "--tasks", "--learner")) == (2, [])
    code, _, err = nas("evaluate", "mlp:maml", "--search=t", "--tasks=sinusoid")
    assert (code, lacking(err, "--learner")) == (2, [])
    code, _, err = nas("run", *arguments, *looked_up, "--name=short", "--set=max_seconds=2")
    assert (code, lacking(err, "2 of 2 trials", "max_seconds = 2 s")) == (0, [])
    assert "nas resume" not in err
    table.unlink()
    assert nas("run", *arguments, *looked_up)[0] == 3


@pytest.mark.slow
def test_all_of_nasbench201(store: Store, nas_data: Path) -> None:
    path = nas_data / "nasbench201" / "nasbench201.csv.gz"
    settings = {"metric": "c10_valid_12", "test_metric": "c10_test_200", "cost": "cost_12_s"}
    config = configure(path, settings=settings, space={"name": "nasbench201", "prune": False})
    outcome = look_up(
        config,
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
    )
    assert (outcome.score.value, outcome.seconds, outcome.measurements[0].value) == (82.834, 130.18, 93.66)
    assert run(store, config) == "completed"


class Cells(BackboneSpace):
    """The cells of a part of NAS-Bench-101, by their published hashes."""

    name = "cells"

    def __init__(self, *, table: FilePath) -> None:
        hashes = pd.read_csv(table, usecols=["hash"], dtype=str)["hash"]
        self.decisions = (Decision("hash", tuple(hashes)),)
        self._places = {text: place for place, text in enumerate(hashes)}

    def encode(self, architecture: Architecture) -> str:
        return str(self.decisions[0].choices[architecture.choices[0]])

    def decode(self, text: str) -> Architecture:
        return Architecture(self.name, (self._places[text],))

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        raise NotImplementedError

    canonical = encode


@pytest.mark.slow
def test_early_stopping_on_real_trainings(store: Store, nas_data: Path) -> None:
    """NAS-Bench-101 at 4, 12, 36 and 108 epochs: hashes such as `00e1…` stay texts."""
    path = nas_data / "nasbench101_part" / "nasbench101_part.csv.gz"
    lengths = (4, 12, 36, 108)
    config = configure(
        path,
        settings={
            "arch": "hash",
            "metric": {length: f"valid_{length}" for length in lengths},
            "cost": "train_time_108_s",
        },
        space={"name": "test_tabular:Cells", "table": str(path)},
        scheduler={"minimum": 4, "eta": 3},
        trials=60,
    )
    assert config.rungs == lengths[:-1]
    rows = pd.read_csv(path, dtype={"hash": str}).set_index("hash")
    assert run(store, config) == "completed"
    trials = store.trials(store.search("@last").id)
    assert {trial.train_episodes for trial in trials} == set(lengths)
    for trial in trials:
        row = rows.loc[trial.architecture]
        assert trial.score == row[f"valid_{trial.train_episodes}"]
        assert trial.seconds == pytest.approx(row["train_time_108_s"] * trial.train_episodes / 108)
    spent = sum(trial.seconds or 0.0 for trial in trials)
    assert spent < 0.5 * sum(rows.loc[trial.architecture, "train_time_108_s"] for trial in trials)


def test_a_table_tells_what_networks_cost(tmp_path: Path) -> None:
    frame = eight_rows()
    frame["flops"] = [1e6 * (i + 1) for i in range(8)]
    table = write(frame, tmp_path / "table.csv")
    config = configure(table, settings={"costs": {"macs": "flops", "latency": "cost"}})
    for row in frame.itertuples():
        assert look_up(config, row.arch).costs == {"macs": row.flops, "latency": row.cost}
    both = configure(table, settings={"costs": {"macs": "flops"}, "input": [16]})
    for row in frame.itertuples():
        counted = TOY.cost(TOY.decode(row.arch), TaskShape((16,), 1))
        assert look_up(both, row.arch).costs == counted._asdict() | {"macs": row.flops}
    frame.loc[0, "flops"] = -1
    with refusal(ConfigError, "flops", "row 2"):
        configure(write(frame, table), settings={"costs": {"macs": "flops"}}).make_source()
    with refusal(ConfigError, "evaluator.costs"):
        configure(table, settings={"costs": {"flops": "flops"}})
