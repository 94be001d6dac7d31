"""Latencies: measured by the worker, recorded with its trials, and held to limits before any training."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, ClassVar, final

import pytest
import torch
from command_line import nas
from scripted_searches import configure, start
from small_table import configure as tabular
from small_table import eight_rows, write
from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.controller import Outcome
from nas.driver.trials import executor
from nas.errors import ConfigError
from nas.evaluator import Context, Job
from nas.settings.search import SearchConfig
from nas.space import Architecture, Decision, TaskShape
from nas.storage.store import Store
from nas.training import latency
from nas.training.latency import BATCH, latencies


class Sleeping(nn.Module):
    """Takes 50 ms, and 1 ms an example, where it is slow."""

    out_features = 1

    def __init__(self, slowness: int) -> None:
        super().__init__()
        self.layer, self.slowness = nn.Linear(1, 1), slowness

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0 if x.is_meta else self.slowness * (0.05 + 0.001 * len(x)))
        out: Tensor = self.layer(x)
        return out


@final
class Sleepers(BackboneSpace):
    name: ClassVar[str] = "sleepers"
    decisions = (Decision("slowness", (0, 1)),)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        return Sleeping(architecture.choices[0])

    def canonical(self, architecture: Architecture) -> str:
        return self.encode(architecture)


def search(**changes: Any) -> SearchConfig:
    fixed = {"name": "fixed", "architectures": ["0", "1"]}
    return configure(space="test_latency:Sleepers", controller=fixed, trials=2, name="s", **changes)


def run(store: Store, config: SearchConfig) -> list[Any]:
    start(store, config).run(executor(config, config.make_tasks()))
    return store.trials(store.search("s").id)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "WARM_UP", 1)
    monkeypatch.setattr(latency, "REPEATS", 3)


def context() -> Context:
    config = search()
    return config.make_context(config.make_space(), config.make_tasks())


def test_it_is_the_time_of_one_example_and_of_a_batch() -> None:
    before, space = torch.get_rng_state(), Sleepers()
    found = latencies(context().trainee(space.decode("1")), "float32")
    assert found["latency"] >= 0.051
    assert found["latency_batch"] >= 0.05 + 0.001 * BATCH
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_recorded_where_it_is_asked_for(store: Store) -> None:
    trials = run(store, search(resources={"latency": True}))
    assert [trial.state for trial in trials] == ["completed", "completed"]
    assert 0 < trials[0].latency < 0.051 <= trials[1].latency
    assert 0 < trials[0].latency_batch < 0.05 + 0.001 * BATCH <= trials[1].latency_batch
    assert trials[1].seconds > 4 * (0.051 + 0.082)  # of the worker


def test_it_ranks_trials(store: Store, db: Path) -> None:
    run(store, search(resources={"latency": True}))
    code, out, _ = nas("leaderboard", "--sort", "latency")
    head, *lines = out.splitlines()
    assert code == 0
    assert {"latency", "latency_batch"} < set(head.split())
    assert [line.split()[2] for line in lines] == ["0", "1"]  # the slow one is last
    rows = json.loads(nas("leaderboard", "--pareto", "score,latency", "-f", "json")[1])
    better = max(store.trials(1), key=lambda trial: trial.score or 0.0).number
    assert {row["trial"] for row in rows} == {0, better}
    shown = json.loads(nas("show", "s/1", "-f", "json")[1])
    assert shown["latency"] >= 0.051
    fast = store.trials(1)[0]
    limits = f"--max-latency={fast.latency}", f"--max-latency-batch={fast.latency_batch}", "--max-seconds=99"
    for limit, kept in zip(limits, ({0}, {0}, {0, 1}), strict=True):
        rows = json.loads(nas("leaderboard", limit, "-f", "json")[1])
        assert {row["trial"] for row in rows} == kept


def test_scores_do_not_depend_on_it() -> None:
    """Those of a real training."""
    changes = {"evaluator": "train", "budget": {"train_episodes": 4, "validation_episodes": 2}}

    def outcomes(**resources: Any) -> list[Outcome]:
        config = search(resources=resources, **changes)
        evaluator = config.make_evaluator(config.make_context(config.make_space(), config.make_tasks()))
        return list(evaluator.evaluate(Job(0, 0, Sleepers().decode("0"), 5)))

    plain, timed = outcomes(), outcomes(latency=True)
    assert [outcome.score for outcome in plain] == [outcome.score for outcome in timed]
    assert [outcome.measurements for outcome in plain] == [outcome.measurements for outcome in timed]
    assert all(
        outcome.costs.keys() - plain[0].costs.keys() == {"latency", "latency_batch"} for outcome in timed
    )


def test_what_is_too_slow_is_not_trained(store: Store) -> None:
    failing = {"name": "nas.testing.evaluators:Scripted", "faults": {1: "raise"}}
    trials = run(store, search(constraints={"max_latency": 0.045}, evaluator=failing))
    assert [trial.state for trial in trials] == ["completed", "infeasible"]
    slow = trials[1]
    assert slow.latency >= 0.051
    assert slow.parameters == 2
    assert slow.train_episodes == 0
    assert "constraints.max_latency = 0.045" in slow.error


def test_what_trains_nothing_measures_nothing(tmp_path: Path) -> None:
    table = write(eight_rows(), tmp_path / "table.csv")
    for changes in ({"resources": {"latency": True}}, {"constraints": {"max_latency_batch": 1.0}}):
        with pytest.raises(ConfigError):
            tabular(table, **changes)
